"""What int8 needs to know beside the weights: how large a network's activations get.

`transunet.trust.integers` measures it on held-out cases; the numbers are kept, not the images.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from pydantic import Field, PositiveInt

from transunet.settings import Configuration

if TYPE_CHECKING:  # it imports torch
    from transunet.models.quantised import Ends

LEAST_EQUAL = 0.995
"""Share of held-out pixels whose label int8 must leave as it is."""
FURTHEST_DICE = 0.002
"""By how much it may lower their Dice."""


class LayerRange(Configuration):
    """The smallest and the largest number that a layer is given, and that it makes of it."""

    given: tuple[float, float]
    made: tuple[float, float]


class IntegerFidelity(Configuration):
    """What rounding to those ranges changed, on held-out samples that were not used for them."""

    samples: PositiveInt
    kind: str
    """What they are: "slices" or "patches"."""
    equal: float = Field(ge=0, le=1)
    """Share of pixels with the same label."""
    dice: tuple[float, float] | None = None
    """With the reference, fp32's and int8's: mean over the structures, each of all samples
    together; None where they hold no structure."""

    @property
    def is_enough(self) -> bool:
        """Whether int8 may stand for fp32."""
        fp32, int8 = self.dice or (0, 0)
        return self.equal >= LEAST_EQUAL and int8 >= fp32 - FURTHEST_DICE

    def __str__(self) -> str:
        dice = f", Dice {self.dice[0]:.4f} -> {self.dice[1]:.4f}" if self.dice else ""
        return f"labels equal {self.equal:.2%} on {self.samples} held-out {self.kind}{dice}"


class IntegerRanges(Configuration):
    """The ranges of a network's layers, measured on samples as predicting makes them."""

    fingerprint: str
    """SHA-256 of the architecture and of every weight of the network that was measured."""
    samples: PositiveInt
    layers: Mapping[str, LayerRange]
    """Name of each layer that is computed in int8, in the network as it is exported."""
    fidelity: IntegerFidelity | None = None
    """None of an export's own images."""

    @classmethod
    def of(
        cls,
        fingerprint: str,
        samples: int,
        ends: "Mapping[str, tuple[Ends, Ends]]",
        fidelity: IntegerFidelity | None = None,
    ) -> Self:
        """Return what `models.quantised.measured_ranges` tells, as a bundle keeps it."""
        layers = {name: LayerRange(given=given, made=made) for name, (given, made) in ends.items()}
        return cls(fingerprint=fingerprint, samples=samples, layers=layers, fidelity=fidelity)

    @property
    def ends(self) -> "dict[str, tuple[Ends, Ends]]":
        """As `models.quantised` takes them."""
        return {name: (layer.given, layer.made) for name, layer in self.layers.items()}

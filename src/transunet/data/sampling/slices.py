"""A working volume as its planes, each with its neighbours: what a 2D network takes."""

from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt

from transunet.settings import Configuration


class Slices(Configuration):
    """Every plane of a working volume is a sample, with as many neighbours as are wanted.

    With neighbours a network of two dimensions sees what lies above and below (2.5D): of each
    channel the planes below, the plane itself and those above, in this order, as channels of their
    own. At the ends of the volume its last plane is repeated.

    Raises:
        ConfigError: for a size that is not positive, or fewer than no neighbours.
    """

    kind: Literal["slices"] = "slices"
    size: tuple[PositiveInt, PositiveInt]
    """Height and width in pixels that each plane is resized to for the network."""
    context: NonNegativeInt = 0
    """Neighbours on each side."""

    @property
    def planes(self) -> int:
        """Planes in a sample."""
        return 2 * self.context + 1


class Planes(Protocol):
    """A volume's planes (D, C, H, W): an array, or what makes them when they are asked for."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, part: slice, /) -> NDArray[Any]:
        """Some of them."""


def sample_at(planes: Planes, index: int, context: int) -> NDArray[Any]:
    """Return the sample (C (2 context + 1), H, W) of the plane `index`, a copy."""
    around, chosen = neighbourhoods(slice(index, index + 1), len(planes), context)
    return stack_neighbours(planes[around], chosen)[0]  # type: ignore[no-any-return]


def neighbourhoods(part: slice, count: int, context: int) -> tuple[slice, NDArray[np.intp]]:
    """Return which planes the samples of the planes `part` are made of.

    Args:
        part: the planes that the samples are for, from start to stop.
        count: planes in the volume.
        context: neighbours on each side.

    Returns:
        The planes to read; and (B, 2 context + 1), for each sample its planes among those.
    """
    first, last = max(part.start - context, 0), min(part.stop + context, count)
    wanted = np.arange(part.start, part.stop)[:, None] + np.arange(-context, context + 1)
    return slice(first, last), np.clip(wanted, 0, count - 1) - first


def stack_neighbours(planes: NDArray[Any], chosen: NDArray[np.intp]) -> NDArray[Any]:
    """Return samples (B, C N, H, W) of planes (D, C, H, W) and those chosen for each, (B, N)."""
    stacked = planes[chosen].swapaxes(1, 2)  # (B, C, N, H, W)
    return stacked.reshape(len(chosen), -1, *planes.shape[2:])

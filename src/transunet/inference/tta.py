"""Test-time augmentation and ensembles: mirror images, or other weights, as a single network.

What comes out are logits of the mean probabilities, like any others: whatever comes after a network
(resizing, labels, probabilities) need not know. Of classes it is their logarithm.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from transunet.backends.protocol import Network, Wrapped, innermost, takes_tensors, uploaded
from transunet.errors import ConfigError
from transunet.inference.logits import as_array, decided, flip, logits_of, probabilities_of

if TYPE_CHECKING:
    from transunet.backends.protocol import Logits


WatchMembers = Callable[[Sequence[NDArray[Any]], NDArray[Any]], object]
"""Called with each member's `logits.decided` of some samples, and that of all together."""


class Ensemble:
    """The mean of several networks' probabilities.

    Args:
        networks: which take samples of one size.
        regions: whether they tell regions apart, and not classes.

    Raises:
        ConfigError: without networks, or when they want slices of different sizes.
    """

    def __init__(self, networks: Sequence[Network], regions: bool = False) -> None:
        sizes = {network.image_size for network in networks}
        if len(sizes) != 1:
            listed = ", ".join(sorted(map(str, sizes))) or "none"
            raise ConfigError(
                f"The networks of an ensemble must take slices of one size; found {listed}."
            )
        self.networks, self.regions = tuple(networks), regions
        self.watch: WatchMembers | None = None
        """Called at each call with what the members decide, and what they do together."""

    @property
    def image_size(self) -> tuple[int, ...] | None:
        """The size that they all take."""
        return self.networks[0].image_size

    @property
    def device(self) -> str:
        """The first one's device."""
        return self.networks[0].device

    @property
    def fingerprint(self) -> str:
        """SHA-256 of theirs."""
        parts = [network.fingerprint for network in self.networks]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def takes_tensors(self) -> bool:
        """Whether all of them take samples that lie on the one device where they compute."""
        alike = len({network.device for network in self.networks}) == 1
        return alike and all(map(takes_tensors, self.networks))

    def upload(self, images: NDArray[Any]) -> Any:
        """Return `images` on that device."""
        return uploaded(self.networks[0], images)

    def __call__(self, images: Any) -> "Logits":
        """Return logits of the mean probabilities, (B, classes, H, W)."""
        alone: list[NDArray[Any]] = []

        def each() -> "Iterator[Logits]":
            for network in self.networks:
                logits = network(images)
                if self.watch is not None:
                    alone.append(decided(logits, self.regions, 0))
                yield logits

        together = _mean(each(), self.regions, isinstance(images, np.ndarray))
        if self.watch is not None:
            self.watch(alone, decided(together, self.regions, 0))
        return together


@contextmanager
def watching_members(network: Network, watch: WatchMembers) -> Iterator[None]:
    """Have `watch` called with what an ensemble's members decide; of other networks never."""
    ensemble = innermost(network)
    if not isinstance(ensemble, Ensemble):
        yield
        return
    ensemble.watch = watch
    try:
        yield
    finally:
        ensemble.watch = None


class MirrorTTA(Wrapped):
    """The mean of a network's probabilities for an image and all its mirror images: 4, in 3D 8.

    Args:
        network: whose they are.
        regions: whether it tells regions apart, and not classes.
        axes: of a sample, along which it is mirrored; all of them if not given.
    """

    def __init__(
        self, network: Network, regions: bool = False, axes: Sequence[int] | None = None
    ) -> None:
        super().__init__(network)
        self.regions, self.axes = regions, axes

    def __call__(self, images: Any) -> "Logits":
        """Return logits of the mean probabilities, (B, classes, *spatial)."""
        axes = range(images.ndim - 2) if self.axes is None else self.axes
        spatial = [2 + axis for axis in axes]
        mirrors = chain.from_iterable(combinations(spatial, n) for n in range(len(spatial) + 1))

        arrays = isinstance(images, np.ndarray)

        def mirrored(axes: tuple[int, ...]) -> "Logits":
            image: Any = flip(images, axes)
            logits = self.network(np.ascontiguousarray(image) if arrays else image)
            return flip(as_array(logits) if arrays else logits, axes)

        return _mean(map(mirrored, mirrors), self.regions, arrays)


def _mean(each_logits: "Iterable[Logits]", regions: bool, arrays: bool) -> "Logits":
    """Take the logits one after the other, so that only two are held at a time.

    On the CPU where `arrays` were given; tensors stay where they lie.
    """
    total: Any = 0
    count = 0
    for logits in each_logits:
        probabilities = probabilities_of(logits, regions)
        total, count = total + (as_array(probabilities) if arrays else probabilities), count + 1
    return logits_of(total / count, regions)

"""Several looks at one image as a single network: other folds' weights, mirror images.

What comes out is the logarithm of the mean probabilities, which are logits like any others:
whatever comes after a network (resizing, labels, probabilities) need not know.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from transunet.backends.protocol import Network, Wrapped
from transunet.errors import ConfigError
from transunet.inference.logits import as_array, softmax

if TYPE_CHECKING:
    from transunet.backends.protocol import Logits

_SMALLEST = np.finfo(np.float32).tiny  # a probability of 0 would have no logarithm

MIRRORED_AXES: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))
"""As it is, upside down, left to right, and both."""


class Ensemble:
    """The mean of several networks' probabilities.

    Raises:
        ConfigError: without networks, or when they want slices of different sizes.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        sizes = {network.image_size for network in networks}
        if len(sizes) != 1:
            found = ", ".join(sorted(map(str, sizes))) or "none"
            raise ConfigError(
                f"The networks of an ensemble must take slices of one size; found {found}."
            )
        self.networks = tuple(networks)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """The size that they all take."""
        return self.networks[0].image_size

    @property
    def device(self) -> str:
        """The first one's device."""
        return self.networks[0].device

    @property
    def fingerprint(self) -> str:
        """SHA-256 of theirs."""
        return _digest(network.fingerprint for network in self.networks)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logarithm of the mean probabilities, (B, classes, H, W)."""
        return _log_mean([partial(network, images) for network in self.networks])


class Mirrored(Wrapped):
    """The mean of a network's probabilities for an image and its three mirror images."""

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logarithm of the mean probabilities, (B, classes, H, W)."""
        return _log_mean([partial(self._mirrored, images, axes) for axes in MIRRORED_AXES])

    def _mirrored(self, images: NDArray[np.float32], axes: tuple[int, ...]) -> NDArray[np.float32]:
        logits = self.network(np.ascontiguousarray(np.flip(images, axes)))
        return np.flip(as_array(logits), axes)


def _log_mean(looks: "Sequence[Callable[[], Logits]]") -> NDArray[np.float32]:
    total = as_array(softmax(looks[0]()))
    for look in looks[1:]:  # one after the other: only two are held at a time
        total = total + as_array(softmax(look()))
    return np.asarray(np.log(np.maximum(total / len(looks), _SMALLEST)), dtype=np.float32)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()

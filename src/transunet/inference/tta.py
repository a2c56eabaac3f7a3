"""Test-time augmentation and ensembles: mirror images, or other weights, as a single network.

What comes out is the logarithm of the mean probabilities, which are logits like any others:
whatever comes after a network (resizing, labels, probabilities) need not know.
"""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import chain, combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from transunet.backends.protocol import Network, Wrapped
from transunet.errors import ConfigError
from transunet.inference.logits import as_array, softmax

if TYPE_CHECKING:
    from transunet.backends.protocol import Logits

_SMALLEST = np.finfo(np.float32).tiny  # a probability of 0 would have no logarithm


class Ensemble:
    """The mean of several networks' probabilities.

    Raises:
        ConfigError: without networks, or when they want slices of different sizes.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        sizes = {network.image_size for network in networks}
        if len(sizes) != 1:
            listed = ", ".join(sorted(map(str, sizes))) or "none"
            raise ConfigError(
                f"The networks of an ensemble must take slices of one size; found {listed}."
            )
        self.networks = tuple(networks)

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

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logarithm of the mean probabilities, (B, classes, H, W)."""
        return _log_of_mean(network(images) for network in self.networks)


class MirrorTTA(Wrapped):
    """The mean of a network's probabilities for an image and all its mirror images: 4, in 3D 8."""

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logarithm of the mean probabilities, (B, classes, *spatial)."""
        spatial = range(2, images.ndim)
        mirrors = chain.from_iterable(combinations(spatial, n) for n in range(len(spatial) + 1))

        def mirrored(axes: tuple[int, ...]) -> NDArray[np.float32]:
            logits = self.network(np.ascontiguousarray(np.flip(images, axes)))
            return np.flip(as_array(logits), axes)

        return _log_of_mean(map(mirrored, mirrors))


def _log_of_mean(each_logits: "Iterable[Logits]") -> NDArray[np.float32]:
    """Take the logits one after the other, so that only two are held at a time."""
    total, count = np.zeros(1, np.float32), 0
    for logits in each_logits:
        total, count = total + as_array(softmax(logits)), count + 1
    return np.asarray(np.log(np.maximum(total / count, _SMALLEST)), dtype=np.float32)

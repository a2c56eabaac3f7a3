"""Images larger than the network's own size, seen through overlapping windows.

Windows of the network's size lie half a window apart, the last one at the edge; where they overlap,
logits are averaged with Gaussian weights, since a network knows most about a window's middle. The
numbers are those of MONAI's `sliding_window_inference(mode="gaussian")`, which a test holds it to.
"""

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from transunet.backends.protocol import Network, Wrapped, uploaded
from transunet.data.sampling.patches import gaussian
from transunet.errors import ConfigError
from transunet.inference.logits import as_array, concatenate, zeros

if TYPE_CHECKING:
    from transunet.backends.protocol import Logits

OVERLAP = 0.5
"""The share of a window that its neighbour sees too."""

Region = tuple[slice, ...]
"""Where a window lies along each of an image's axes."""


class SlidingWindow(Wrapped):
    """A network for images of any size, at their own resolution.

    Raises:
        ConfigError: when the network does not say how large its windows are.
    """

    image_size = None

    def __init__(self, network: Network, batch_size: int = 8) -> None:
        if network.image_size is None:
            raise ConfigError("This network takes any size, so it needs no windows.")
        super().__init__(network)
        self.window, self.batch_size = network.image_size, batch_size
        self._weights = gaussian(self.window)

    def __call__(self, images: Any) -> "Logits":
        """Return logits (B, classes, *spatial); one image after the other, windows in batches."""
        arrays = isinstance(images, np.ndarray)
        weights = self._weights if arrays else uploaded(self.network, self._weights)
        blended: Logits = concatenate([self._blended(image, weights) for image in images])
        return blended

    def _blended(self, image: Any, weights: Any) -> Any:
        padded, inside = pad(image, self.window)
        regions = list(windows(padded.shape[1:], self.window))
        total: Any = None
        weight = zeros(padded.shape[1:], padded)
        for start in range(0, len(regions), self.batch_size):
            batch = regions[start : start + self.batch_size]
            logits = self.network(concatenate([padded[None, :, *region] for region in batch]))
            logits = as_array(logits) if isinstance(image, np.ndarray) else logits
            if total is None:
                total = zeros((logits.shape[1], *padded.shape[1:]), padded)
            for region, values in zip(batch, logits, strict=True):
                part = total[:, *region]
                part += values * weights
                part = weight[region]
                part += weights
        assert total is not None  # there is always a window
        return (total / weight)[None, :, *inside]


def windows(size: tuple[int, ...], window: tuple[int, ...]) -> Iterator[Region]:
    """Yield where the windows lie on an image of `size`, which is at least as large as one."""
    starts = []
    for length, side in zip(size, window, strict=True):
        step = max(int(side * (1 - OVERLAP)), 1)
        ends = max(length - side, 0) + step
        starts.append([min(start, length - side) for start in range(0, ends, step)])
    for corner in product(*starts):
        yield tuple(slice(n, n + side) for n, side in zip(corner, window, strict=True))


def pad(image: Any, window: tuple[int, ...]) -> tuple[Any, Region]:
    """Surround an image (C, *spatial) smaller than a window with zeros; also tell where it lies."""
    spatial = image.shape[1:]
    before = [max(0, side - n) // 2 for side, n in zip(window, spatial, strict=True)]
    inside = tuple(slice(b, b + n) for b, n in zip(before, spatial, strict=True))
    padded = zeros((len(image), *map(max, window, spatial)), image)
    padded[:, *inside] = image
    return padded, inside

"""Images larger than the network's own size, seen through overlapping windows.

Windows of the network's size lie half a window apart, the last one at the edge; where they overlap,
logits are averaged with Gaussian weights, since a network knows most about a window's middle. The
numbers are those of MONAI's `sliding_window_inference(mode="gaussian")`, which a test holds it to.
"""

from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

from transunet.backends.protocol import Network, Wrapped
from transunet.data.sampling.patches import gaussian
from transunet.errors import ConfigError
from transunet.inference.logits import as_array

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

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits (B, classes, *spatial); one image after the other, windows in batches."""
        return np.concatenate([self._blended(image) for image in images])

    def _blended(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        padded, inside = pad(image, self.window)
        regions = list(windows(padded.shape[1:], self.window))
        total: NDArray[np.float32] | None = None
        weight = np.zeros(padded.shape[1:], np.float32)
        for start in range(0, len(regions), self.batch_size):
            batch = regions[start : start + self.batch_size]
            logits = as_array(self.network(np.stack([padded[:, *region] for region in batch])))
            if total is None:
                total = np.zeros((logits.shape[1], *padded.shape[1:]), np.float32)
            for region, values in zip(batch, logits, strict=True):
                total[:, *region] += values * self._weights
                weight[region] += self._weights
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


def pad(image: NDArray[np.float32], window: tuple[int, ...]) -> tuple[NDArray[np.float32], Region]:
    """Surround an image (C, *spatial) smaller than a window with zeros; also tell where it lies."""
    missing = [max(0, side - n) for side, n in zip(window, image.shape[1:], strict=True)]
    before = [n // 2 for n in missing]
    widths = [(b, n - b) for b, n in zip(before, missing, strict=True)]
    inside = tuple(slice(b, b + n) for b, n in zip(before, image.shape[1:], strict=True))
    return np.pad(image, ((0, 0), *widths)), inside

"""A working volume as boxes of one size: what a 3D network takes."""

from collections.abc import Sequence
from functools import reduce
from itertools import product
from math import ceil, prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from transunet.settings import Configuration

if TYPE_CHECKING:
    from transunet.data.store import Store, StoredCase

SIGMA = 0.125
"""Standard deviation of the weights, as a share of the patch's side."""

Position = tuple[int, ...]
"""Where a patch's first voxel lies in a volume; it may lie outside."""


class Patches(Configuration):
    """Every box of `size` in a working volume is a sample, at the volume's own resolution.

    Raises:
        ConfigError: for a size that is not positive, or an overlap outside [0, 1).
    """

    kind: Literal["patches"] = "patches"
    size: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Planes, rows and columns in voxels."""
    overlap: float = Field(default=0.5, ge=0, lt=1)
    """The least share of its side that a patch has in common with the next one in prediction."""
    padding: Literal["zero", "minimum"] = "zero"
    """What lies outside the volume: 0, or each channel's smallest intensity in the patch."""

    @property
    def context(self) -> int:
        """Neighbours on each side that a network sees beside the sample: none."""
        return 0

    def input_channels(self, channels: int) -> int:
        """Return the channels that a network takes of a volume's `channels`."""
        return channels

    def positions(self, shape: tuple[int, ...]) -> list[Position]:
        """Return where the patches lie that cover a volume (D, H, W) for prediction.

        Along each axis they lie evenly, as few as the overlap allows, the first and the last at the
        volume's ends; around an axis shorter than the patch lies one.
        """
        starts = []
        for (low, high), side in zip(self._bounds(shape), self.size, strict=True):
            steps = ceil((high - low) / (side * (1 - self.overlap)))
            starts.append([low + round((high - low) * n / max(steps, 1)) for n in range(steps + 1)])
        return list(product(*starts))

    def weights(self) -> NDArray[np.float32]:
        """Return the weight of each voxel where patches overlap, (d, h, w)."""
        return gaussian(self.size)

    def read(
        self,
        array: NDArray[Any],
        position: Position,
        padding: Literal["zero", "minimum"] = "zero",
    ) -> NDArray[Any]:
        """Return the patch of an array (..., D, H, W) at `position`, a copy (..., d, h, w).

        Of an array that is mapped into memory, only what lies in the patch is read.
        """
        shape = array.shape[-3:]
        inside = [slice(None)] * (array.ndim - 3)
        there = [*inside]
        for first, side, length in zip(position, self.size, shape, strict=True):
            start = max(first, 0)
            stop = max(start, min(first + side, length))
            inside.append(slice(start, stop))
            there.append(slice(start - first, stop - first))
        part = array[tuple(inside)]
        patch = np.zeros((*array.shape[:-3], *self.size), array.dtype)
        if padding == "minimum" and part.size:
            patch += part.min((-3, -2, -1), keepdims=True)
        patch[tuple(there)] = part
        return patch

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Position:
        """Draw a position in a volume (D, H, W), which the patch leaves only where it must."""
        return tuple(int(rng.integers(low, high + 1)) for low, high in self._bounds(shape))

    def around(self, voxel: Sequence[int], shape: tuple[int, ...]) -> Position:
        """Return the position with `voxel` in the patch's middle, or as near as `draw` goes."""
        return tuple(
            int(np.clip(index - side // 2, low, high))
            for index, side, (low, high) in zip(voxel, self.size, self._bounds(shape), strict=True)
        )

    def _bounds(self, shape: tuple[int, ...]) -> list[tuple[int, int]]:
        """The first and the last position along each axis; one, around an axis that is shorter."""
        lows = [-(max(side - n, 0) // 2) for n, side in zip(shape, self.size, strict=True)]
        rooms = [max(n - side, 0) for n, side in zip(shape, self.size, strict=True)]
        return [(low, low + room) for low, room in zip(lows, rooms, strict=True)]

    def samples_in(self, case: "StoredCase") -> NDArray[np.intp]:
        """Return numbers for as many draws as patches cover a case, side by side."""
        if len(case.unlabelled) == case.slices:
            return np.arange(0)
        shape = (case.slices, *case.size)
        return np.arange(prod(ceil(n / side) for n, side in zip(shape, self.size, strict=True)))

    def samples_with(self, case: "StoredCase", index: int) -> NDArray[np.intp]:
        """Return `samples_in`, any of which can be drawn for class `index`, where it occurs."""
        return self.samples_in(case) if index in case.slices_with else np.arange(0)

    def cut(
        self, store: "Store", name: str, number: int, wanted_class: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Draw a patch (C, d, h, w) of a case and its label (d, h, w), copies.

        With a teacher the label is (1 + planes, d, h, w), as `Store.target` has it.

        Args:
            store: holds the case.
            name: the case's.
            number: of the draw, which decides nothing: the patch may lie anywhere.
            wanted_class: the class of which a voxel, any that the store keeps, shall lie in the
                patch's middle, or as near to it as the volume's ends allow; 0 for any patch.
            rng: the only source of randomness.
        """
        image, label = store.image(name), store.target(name)
        shape = label.shape[-3:]
        if not wanted_class:
            position = self.draw(shape, rng)
        elif (kept := store.foreground(name, wanted_class)) is not None:
            position = self.around(kept[rng.integers(len(kept))].tolist(), shape)
        else:  # a store of before
            planes = store.case(name).slices_with[wanted_class]
            plane = planes[rng.integers(len(planes))]
            voxels = np.argwhere(store.label(name)[plane] == wanted_class)
            position = self.around((plane, *voxels[rng.integers(len(voxels))]), shape)
        return self.read(image, position, self.padding), self.read(label, position)

    def fit(
        self, image: NDArray[np.float32], label: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Return a sample and its label as they are: patches have the network's size."""
        return image, label


def gaussian(
    size: tuple[int, ...], middle: Sequence[float] | None = None, least: float = 1e-3
) -> NDArray[np.float32]:
    """Return the weight of each voxel of a patch or window, 1 in the middle.

    Args:
        size: of the patch, along any number of axes.
        middle: where the largest weight lies; in the true middle, (side - 1) / 2, if not given.
            The reference's, as nnU-Net's, lies at side // 2.
        least: weight of the far corners, so that they count a little and none divides by 0.
    """
    middle = [(side - 1) / 2 for side in size] if middle is None else middle
    along_axes = (
        np.exp(-0.5 * ((np.arange(side) - centre) / (SIGMA * side)) ** 2)
        for side, centre in zip(size, middle, strict=True)
    )
    weights = reduce(np.multiply.outer, along_axes)
    return np.asarray(np.maximum(weights, max(weights.min(), least)), dtype=np.float32)

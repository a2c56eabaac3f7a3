"""Slices as pictures: which axis is leafed through, how a slice is turned, what is black and white.

Arrays are those of a volume that was reoriented to RAS (or to `AS_STORED`, a picture without a
patient).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.data.volume import Grid, Volume, orientation_change

PLANES = ("sagittal", "coronal", "axial")
"""What the slices across each axis of RAS are called."""
LETTERS = (("A", "P", "S", "I"), ("R", "L", "S", "I"), ("R", "L", "A", "P"))
"""Per plane, what lies left, right, at the top and at the bottom of the picture."""
AS_STORED = "PLS"
"""On an identity affine, rows run along R and columns along A. Axes in this order come out of
`plane` as they are stored."""

Picture = NDArray[np.uint8]
Window = tuple[float, float]
"""The intensities that become black and white."""
Cut = tuple[slice, slice]
"""Rows and columns of a slice."""

_THICK = 1.5
"""Times the other voxel edges: an axis of so much thicker slices is the one to leaf through."""
_MARGIN = 0.25  # of the structures' extent, shown around them
_LEAST_MARGIN = 12  # pixels
_PERCENTILES = (0.5, 99.5)  # of the intensities that become black and white


def leafed_axis(volume: Volume) -> int:
    """The axis to leaf through: a flat one, else one of much thicker slices, else head to feet."""
    if min(volume.spatial_shape) == 1:
        return max(axis for axis, n in enumerate(volume.spatial_shape) if n == 1)
    spacing = np.asarray(volume.spacing_mm)
    thickest = int(spacing.argmax())
    return thickest if spacing[thickest] >= _THICK * np.delete(spacing, thickest).max() else 2


def plane(array: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """A plane of a RAS array as a picture: the patient's right (or front) is on the left."""
    turned: NDArray[Any] = np.take(array, index, axis=axis).T[::-1, ::-1]
    return turned


def plane_of(grid: Grid, codes: str, axis: int, index: int) -> tuple[int, int]:
    """Return axis and index, after reorienting to `codes`, of a slice of the array as stored."""
    turned = grid.axes_in(codes).index(axis)
    flipped = orientation_change(grid.affine, codes)[axis, 1] < 0
    return turned, grid.spatial_shape[axis] - 1 - index if flipped else index


def pixel_of(grid: Grid, codes: str, axis: int, voxel: Sequence[int]) -> tuple[int, int]:
    """Return row and column, in the picture of the slice across the stored `axis`, of a voxel."""
    turned, _ = plane_of(grid, codes, axis, 0)
    position = [0, 0, 0]
    for stored, value in enumerate(voxel):
        to, index = plane_of(grid, codes, stored, int(value))
        position[to] = grid.spatial_shape[stored] - 1 - index  # a picture's axes run the other way
    column, row = (index for to, index in enumerate(position) if to != turned)
    return row, column


def pixel_mm(volume: Volume, axis: int) -> tuple[float, float]:
    """Height and width in mm of the pixels of `plane`."""
    across, up = (size for other, size in enumerate(volume.spacing_mm) if other != axis)
    return up, across


def around(foreground: NDArray[np.bool_]) -> Cut:
    """Rows and columns around the structures; all of them where there is none."""
    if not foreground.any():
        return slice(0, foreground.shape[0]), slice(0, foreground.shape[1])
    height, width = foreground.shape
    rows, columns = np.asarray(foreground.any(axis=1)), np.asarray(foreground.any(axis=0))
    return _around(rows, height), _around(columns, width)


def thinned(cut: Cut, most: int) -> tuple[Cut, int]:
    """Return `cut` with at most `most` pixels per side, and every how many-th pixel it takes."""
    rows, columns = cut
    step = -(-max(rows.stop - rows.start, columns.stop - columns.start) // most)
    return (slice(rows.start, rows.stop, step), slice(columns.start, columns.stop, step)), step


def picture(
    image: Volume, axis: int, index: int, cut: Cut, window: Window | None = None
) -> Picture:
    """Return a slice as it is drawn: (H, W) grey, or (H, W, 3) RGB of a flat image of 3 channels.

    Args:
        image: reoriented.
        axis: the axis that is leafed through.
        index: the slice.
        cut: its rows and columns that are drawn.
        window: the intensities that become black and white; from the picture's own without it.
    """
    colour = image.channels == 3 and image.spatial_shape[axis] == 1
    channels = image.array if colour else image.array[:1]
    planes = [plane(channel, axis, index)[cut] for channel in channels]
    values = np.stack(planes, axis=-1) if colour else planes[0]
    low, high = window or window_of(values)
    scaled = (np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-12)
    return np.asarray(np.clip(scaled, 0, 1) * 255, dtype=np.uint8)


def window_of(values: NDArray[Any]) -> Window:
    """Return the intensities that leave out only the darkest and brightest 0.5 %."""
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, _PERCENTILES) if finite.size else (0.0, 0.0)
    return float(low), float(high)


def _around(occupied: NDArray[np.bool_], size: int) -> slice:
    indices = np.flatnonzero(occupied)
    first, last = int(indices[0]), int(indices[-1]) + 1
    margin = max(_LEAST_MARGIN, round(_MARGIN * (last - first)))
    return slice(max(first - margin, 0), min(last + margin, size))

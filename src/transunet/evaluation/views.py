"""The one slice of a case that shows best where prediction and reference differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.data.formats import read_volume
from transunet.data.volume import Volume, same_grid
from transunet.evaluation.records import Structure

_PLANES = ("sagittal", "coronal", "axial")
_LETTERS = (("A", "P", "S", "I"), ("R", "L", "S", "I"), ("R", "L", "A", "P"))
"""Per plane, what lies left, right, at the top and at the bottom of the picture."""
_THICK = 1.5
"""Times the other voxel edges: an axis of so much thicker slices is the one to leaf through."""
# On an identity affine, rows run along R and columns along A. Axes in this order come out of
# `_plane` as they are stored.
_AS_STORED = "PLS"
_MARGIN = 0.25  # of the structures' extent, shown around them
_LEAST_MARGIN = 12  # pixels
_MOST_PIXELS = 768  # per side; larger pictures are thinned out
_WINDOW = (0.5, 99.5)  # percentiles of the picture that become black and white

Labels = NDArray[np.integer]
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class View:
    """A slice as it is drawn: rows from top to bottom, columns from left to right."""

    prediction: Labels
    """(H, W)."""
    reference: Labels
    """(H, W)."""
    image: Picture | None
    """(H, W) grey or (H, W, 3) RGB."""
    pixel_mm: tuple[float, float]
    """Height and width of a pixel."""
    letters: tuple[str, str, str, str] | None
    """Directions left, right, top and bottom; None for a picture without a patient."""
    caption: str


def most_wrong_view(
    prediction: Volume,
    reference: Volume,
    image: Volume | None,
    structures: Sequence[Structure],
    oriented: bool = True,
) -> View:
    """Choose and cut the slice with the most wrong voxels (the fullest one when none is wrong).

    It is shown as radiologists look at it, the patient's right on the left; a photograph, and what
    tells nothing about a patient, is shown as it is stored.

    Args:
        prediction: label map.
        reference: label map on the same grid.
        image: on the same grid, or None.
        structures: what counts; other labels are ignored.
        oriented: whether the files say how the patient lies.
    """
    codes = "RAS" if oriented else _AS_STORED
    predicted, real = (volume.reoriented(codes) for volume in (prediction, reference))
    maps = [_only(volume.array[0], structures) for volume in (predicted, real)]
    axis = _axis(real)
    index, wrong = _slice(maps[0], maps[1], axis)
    planes = [_plane(array, axis, index) for array in maps]
    rows, columns = _window(np.logical_or(*planes))
    step = -(-max(rows.stop - rows.start, columns.stop - columns.start) // _MOST_PIXELS)
    cut = slice(rows.start, rows.stop, step), slice(columns.start, columns.stop, step)
    across, up = (size for one, size in enumerate(real.spacing_mm) if one != axis)
    return View(
        prediction=planes[0][cut],
        reference=planes[1][cut],
        image=None if image is None else _picture(image.reoriented(codes), axis, index, cut),
        pixel_mm=(up * step, across * step),
        letters=_LETTERS[axis] if oriented else None,
        caption=_caption(axis if oriented else None, index, real.spatial_shape[axis], wrong),
    )


def image_for(paths: Sequence[Path], grid: Volume) -> tuple[Volume | None, str]:
    """Read a case's image for display; one on another grid is not shown, and it is said."""
    if not paths:
        return None, ""
    image = read_volume(paths[0])
    difference = same_grid(image, grid)
    return (None, f"image not shown: {difference}") if difference else (image, "")


def _only(array: Labels, structures: Sequence[Structure]) -> Labels:
    """The label map with everything but the structures set to 0."""
    table = np.zeros(int(array.max()) + 1, array.dtype)
    for value in (value for one in structures for value in one.values if value < len(table)):
        table[value] = value
    return table[array]


def _axis(volume: Volume) -> int:
    """The axis to leaf through: a flat one, else one of much thicker slices, else head to feet."""
    if min(volume.spatial_shape) == 1:
        return max(axis for axis, n in enumerate(volume.spatial_shape) if n == 1)
    spacing = np.asarray(volume.spacing_mm)
    thickest = int(spacing.argmax())
    return thickest if spacing[thickest] >= _THICK * np.delete(spacing, thickest).max() else 2


def _slice(prediction: Labels, reference: Labels, axis: int) -> tuple[int, int]:
    others = tuple(one for one in range(3) if one != axis)
    wrong = np.count_nonzero(prediction != reference, axis=others)
    if wrong.any():
        index = int(wrong.argmax())
        return index, int(wrong[index])
    return int(np.count_nonzero(reference, axis=others).argmax()), 0


def _plane(array: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """A plane of a RAS array as a picture: the patient's right (or front) is on the left."""
    plane: NDArray[Any] = np.take(array, index, axis=axis).T[::-1, ::-1]
    return plane


def _window(foreground: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns around the structures; all of them where there is none."""
    if not foreground.any():
        return slice(0, foreground.shape[0]), slice(0, foreground.shape[1])
    height, width = foreground.shape
    rows, columns = np.asarray(foreground.any(axis=1)), np.asarray(foreground.any(axis=0))
    return _around(rows, height), _around(columns, width)


def _around(occupied: NDArray[np.bool_], size: int) -> slice:
    indices = np.flatnonzero(occupied)
    first, last = int(indices[0]), int(indices[-1]) + 1
    margin = max(_LEAST_MARGIN, round(_MARGIN * (last - first)))
    return slice(max(first - margin, 0), min(last + margin, size))


def _picture(image: Volume, axis: int, index: int, cut: tuple[slice, slice]) -> Picture:
    colour = image.channels == 3 and image.spatial_shape[axis] == 1
    channels = image.array if colour else image.array[:1]
    planes = [_plane(channel, axis, index)[cut] for channel in channels]
    picture = np.stack(planes, axis=-1) if colour else planes[0]
    finite = picture[np.isfinite(picture)]
    low, high = np.percentile(finite, _WINDOW) if finite.size else (0.0, 0.0)
    scaled = (np.nan_to_num(picture, nan=low) - low) / max(high - low, 1e-12)
    return np.asarray(np.clip(scaled, 0, 1) * 255, dtype=np.uint8)


def _caption(axis: int | None, index: int, slices: int, wrong: int) -> str:
    plane = "" if axis is None else f"{_PLANES[axis]} "
    where = f"{plane}slice {index + 1} of {slices} · " if slices > 1 else ""
    return where + (f"{wrong:,} voxels differ" if wrong else "no voxel differs")

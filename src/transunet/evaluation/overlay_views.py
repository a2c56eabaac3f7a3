"""The one slice of a case that shows best where prediction and reference differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transunet.data.formats import read_volume
from transunet.data.volume import Volume, same_grid
from transunet.drawing.planes import (
    AS_STORED,
    LETTERS,
    PLANES,
    Picture,
    around,
    leafed_axis,
    picture,
    pixel_mm,
    plane,
    thinned,
)
from transunet.evaluation.records import Structure

_MOST_PIXELS = 768  # per side; larger pictures are thinned out

Labels = NDArray[np.integer]


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
    codes = "RAS" if oriented else AS_STORED
    predicted, real = (volume.reoriented(codes) for volume in (prediction, reference))
    maps = [_only(volume.array[0], structures) for volume in (predicted, real)]
    axis = leafed_axis(real)
    index, wrong = _slice(maps[0], maps[1], axis)
    planes = [plane(array, axis, index) for array in maps]
    cut, step = thinned(around(np.logical_or(*planes)), _MOST_PIXELS)
    height, width = pixel_mm(real, axis)
    return View(
        prediction=planes[0][cut],
        reference=planes[1][cut],
        image=None if image is None else picture(image.reoriented(codes), axis, index, cut),
        pixel_mm=(height * step, width * step),
        letters=LETTERS[axis] if oriented else None,
        caption=_caption(axis if oriented else None, index, real.spatial_shape[axis], wrong),
    )


def image_for(paths: Sequence[Path], grid: Volume) -> tuple[Volume | None, str]:
    """Read a case's image for display; one on another grid is not shown, and it is said."""
    if not paths:
        return None, ""
    image = read_volume(paths[0])
    image = image.on_grid(grid) or image
    difference = same_grid(image, grid)
    return (None, f"image not shown: {difference}") if difference else (image, "")


def _only(array: Labels, structures: Sequence[Structure]) -> Labels:
    """The label map with everything but the structures set to 0."""
    table = np.zeros(int(array.max()) + 1, array.dtype)
    for value in (value for one in structures for value in one.values if value < len(table)):
        table[value] = value
    return table[array]


def _slice(prediction: Labels, reference: Labels, axis: int) -> tuple[int, int]:
    others = tuple(one for one in range(3) if one != axis)
    wrong = np.count_nonzero(prediction != reference, axis=others)
    if wrong.any():
        index = int(wrong.argmax())
        return index, int(wrong[index])
    return int(np.count_nonzero(reference, axis=others).argmax()), 0


def _caption(axis: int | None, index: int, slices: int, wrong: int) -> str:
    cut = "" if axis is None else f"{PLANES[axis]} "
    where = f"{cut}slice {index + 1} of {slices} · " if slices > 1 else ""
    return where + (f"{wrong:,} voxels differ" if wrong else "no voxel differs")

"""`transunet.view`: an image and its label map as a figure, in a notebook or anywhere else."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from transunet.data.formats import read_labels, whole_numbers
from transunet.data.volume import Volume
from transunet.drawing.figures import shown_in_notebooks
from transunet.drawing.panels import Window, tells_space
from transunet.drawing.sheets import Axis, SheetOptions, sheet_figure, slices_of
from transunet.errors import DataError
from transunet.evaluation.structure_names import names_of
from transunet.inference.predictor import Image, as_volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def view(
    image: Image,
    labels: Volume | Path | str | NDArray[Any] | None = None,
    *,
    names: Mapping[int, str] | None = None,
    spacing_mm: Sequence[float] | None = None,
    axis: Axis | None = None,
    slices: int | Sequence[int] = (),
    every: int | None = None,
    columns: int | None = None,
    window: Window | None = None,
    crop: bool = False,
    opacity: float = 0.3,
    title: str = "",
) -> "Figure":
    """Return a figure of an image and its label map, as `transunet view` draws it.

    Up to 20 slices that hold labels, as radiologists look at them; a picture as it is stored. As
    the value of a cell a notebook shows it; `figure.savefig("sheet.png")` writes it.

    Args:
        image: a volume; a file (or one per channel); or an array (X, Y, Z) or (C, X, Y, Z), whose
            axes run to the right, to the front and up (RAS); a picture is an array (H, W), or of
            uint8 (H, W, 3).
        labels: the label map, as a volume, a file or an array of the image's shape; without it the
            image alone is drawn.
        names: label value -> name; if not given, what the label map or its files tell.
        spacing_mm: the edges of an array's voxels in millimetres, one per axis; 1 if not given.
        axis: "axial", "coronal" or "sagittal"; by shape and spacing if not given.
        slices: one or more, by the numbers in their titles.
        every: each so many-th slice of the whole volume.
        columns: pictures in a row.
        window: the intensities that become black and white, such as (-160, 240).
        crop: only what lies around the labels.
        opacity: of the labels' fill; 0 leaves their outlines.
        title: above the slices.

    Raises:
        ConfigError: without matplotlib, for a file or slice that is not there, or settings that
            cannot work.
        DataError: for a damaged file, or labels that are not whole numbers.
        GeometryError: when image and labels lie on different grids.
    """
    numbers = (slices,) if isinstance(slices, int) else tuple(slices)
    options = SheetOptions(axis, every, numbers, columns, window, crop, opacity)
    if isinstance(image, np.ndarray) and _is_picture(image):
        planes = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
        volume, oriented = Volume(planes[..., None], np.eye(4), "picture"), False
    else:
        if isinstance(image, np.ndarray) and spacing_mm is None:
            spacing_mm = (1.0, 1.0, 1.0)
        volume = as_volume(image, spacing_mm)
        oriented = tells_space(Path(volume.name))
    if labels is None:
        label_map = volume.with_array(np.zeros((1, *volume.spatial_shape), np.uint8))
    else:
        label_map = _label_map(labels, volume)
        names = names or label_map.label_names or {}
    panels = slices_of(volume, label_map, options, oriented=oriented)
    figure: Figure = shown_in_notebooks(sheet_figure(panels, names, options, title))
    return figure


def _is_picture(array: NDArray[Any]) -> bool:
    return array.ndim == 2 or (array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3)


def _label_map(labels: Volume | Path | str | NDArray[Any], image: Volume) -> Volume:
    """Labels as a volume of one channel with their names; an array lies on the image's grid."""
    if isinstance(labels, str | Path):
        told = names_of(Path(labels))
        volume = read_labels(Path(labels), image.grid)
        return replace(volume, label_names=told.labels if told else None)
    if isinstance(labels, np.ndarray):
        labels = labels[..., None] if labels.ndim == 2 else labels
        labels = image.with_array(labels[None] if labels.ndim == 3 else labels)
    if labels.channels != 1:
        raise DataError(f"A label map has one channel; found {labels}.")
    return labels.with_array(whole_numbers(labels.array, labels.name))

"""A case's picture in a report: the slice that shows best where prediction and reference differ."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transunet.colours import colour_of
from transunet.data.formats import read_volume
from transunet.data.volume import Volume, same_grid
from transunet.drawing.figures import add_text, axes_at, new_figure, save_figure, svg_address
from transunet.drawing.panels import (
    PLANES,
    Panel,
    add_outline,
    around,
    draw_panel,
    leafed_axis,
    orientation_for,
    panel_of,
    plane,
    set_extent,
    without_labels,
)
from transunet.evaluation.measure import Settings, read_pair
from transunet.evaluation.pairs import Pair
from transunet.evaluation.records import Structure

_CAPTIONS = 0.8  # inches: above and below a picture that is written
_SIDE = 2.2  # inches: as large as a panel of a sheet, for which letters and lines are made


@dataclass(frozen=True)
class WorstSlice:
    """Where a case has most wrong voxels."""

    panel: Panel
    """The image, and the reference as labels."""
    prediction: NDArray[np.integer]
    """(H, W), as the panel's labels."""
    caption: str


@dataclass(frozen=True)
class CasePicture:
    """Transparent pictures of one size, to be laid upon each other."""

    layers: Mapping[str, str]
    """"image", "prediction" and "reference" -> `data:` address of an SVG."""
    caption: str


def case_picture(pair: Pair, settings: Settings, structures: Sequence[Structure]) -> CasePicture:
    """Read a case and draw its worst slice: reference solid, prediction dashed and filled.

    Raises:
        ConfigError: without matplotlib.
    """
    worst = _worst_slice_of(pair, settings, structures)
    return CasePicture(draw_layers(worst, structures), worst.caption)


def save_worst_slice(
    pair: Pair, settings: Settings, structure: Structure, path: Path, title: str
) -> None:
    """Read a case and write the picture of the slice in which most of a structure is wrong.

    The reference is solid, the prediction dashed and filled.

    Args:
        pair: the case.
        settings: how it was measured.
        structure: the only one that is shown.
        path: .png, .svg or .pdf.
        title: above the picture.

    Raises:
        ConfigError: without matplotlib, or for a path that cannot be written.
    """
    worst = _worst_slice_of(pair, settings, [structure])
    high, wide = worst.panel.size_mm
    scale = 2 * _SIDE / max(high, wide)
    width = max(wide * scale, 2 * _SIDE)
    figure = new_figure(width, high * scale + _CAPTIONS)
    axes = axes_at(figure, (width - wide * scale) / 2, _CAPTIONS / 2, wide * scale, high * scale)
    draw_panel(axes, without_labels(worst.panel), interpolation="none")
    for labels, opacity, dashes in (
        (worst.prediction, 0.3, (2.5, 2.0)),
        (worst.panel.labels, 0.0, None),
    ):
        mask = np.isin(labels, structure.values)
        add_outline(axes, worst.panel, mask, colour_of(0), opacity, 1.2, dashes)
    add_text(figure, 0.5, 0.99, "\n".join(textwrap.wrap(title, 60)), ha="center", va="top", size=8)
    note = f"{worst.caption}; solid: reference, dashed: prediction"
    add_text(figure, 0.5, 0.01, note, ha="center", va="bottom", size=8)
    save_figure(figure, path)


def _worst_slice_of(pair: Pair, settings: Settings, structures: Sequence[Structure]) -> WorstSlice:
    prediction, reference, _ = read_pair(pair, settings)
    image, note = image_on(reference, pair.images)
    worst = worst_slice(prediction, reference, image, structures, pair.tells_space)
    return replace(worst, caption=" · ".join(text for text in (worst.caption, note) if text))


def image_on(grid: Volume, paths: Sequence[Path]) -> tuple[Volume | None, str]:
    """Read a case's image for display; one on another grid is not shown, and it is said."""
    if not paths:
        return None, ""
    image = read_volume(paths[0])
    image = image.on_grid(grid) or image
    difference = same_grid(image, grid)
    return (None, f"image not shown: {difference}") if difference else (image, "")


def worst_slice(
    prediction: Volume,
    reference: Volume,
    image: Volume | None,
    structures: Sequence[Structure],
    oriented: bool = True,
) -> WorstSlice:
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
    codes = orientation_for(oriented)
    measured = [value for structure in structures for value in structure.values]
    predicted, real = (
        volume.with_array(np.where(np.isin(volume.array, measured), volume.array, 0))
        for volume in (prediction.reoriented(codes), reference.reoriented(codes))
    )
    axis = leafed_axis(real)
    others = tuple(other for other in range(3) if other != axis)
    wrong = np.count_nonzero(predicted.array[0] != real.array[0], axis=others)
    shown = wrong if wrong.any() else np.count_nonzero(real.array[0], axis=others)
    index, count = int(shown.argmax()), len(shown)
    cut = around(np.logical_or(*(plane(map_.array[0], axis, index) for map_ in (predicted, real))))
    turned = image and image.reoriented(codes)
    panel, other = (
        panel_of(turned, labels, axis, index, oriented=oriented, cut=cut)
        for labels in (real, predicted)
    )
    name = f"{PLANES[axis]} slice" if oriented else "slice"
    where = f"{name} {index + 1} of {count} · " if count > 1 else ""
    differ = f"{wrong[index]:,} voxels differ" if wrong.any() else "no voxel differs"
    return WorstSlice(panel, other.labels, where + differ)


def draw_layers(worst: WorstSlice, structures: Sequence[Structure]) -> dict[str, str]:
    """Draw the image, and the outlines of both on transparent ground.

    Raises:
        ConfigError: without matplotlib.
    """
    panel = worst.panel
    high, wide = panel.size_mm
    scale = _SIDE / max(high, wide)
    layers = {}
    for name, labels, opacity, line, dashes in (
        ("image", None, 0.0, 0.0, None),
        ("prediction", worst.prediction, 0.3, 0.8, (2.5, 2.0)),
        ("reference", panel.labels, 0.0, 1.0, None),
    ):
        figure = new_figure(wide * scale, high * scale)
        axes = figure.add_axes((0, 0, 1, 1))
        if labels is None:
            draw_panel(axes, without_labels(panel), interpolation="none")
        else:
            set_extent(axes, panel)
            axes.set_axis_off()
            for index, structure in enumerate(structures):
                mask = np.isin(labels, structure.values)
                add_outline(axes, panel, mask, colour_of(index), opacity, line, dashes)
        layers[name] = svg_address(figure)
    return layers

"""Contact sheets: a case's slices, or a slice of each case, with the labels drawn on the image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np

from transunet.colours import colour_of
from transunet.data.volume import Volume, same_grid
from transunet.drawing.figures import add_legend, add_text, axes_at, new_figure, save_figure
from transunet.drawing.panels import (
    PLANES,
    Panel,
    Window,
    around,
    draw_panel,
    leafed_axis,
    orientation_for,
    panel_of,
    plane,
    window_of,
)
from transunet.errors import ConfigError, GeometryError

Axis = Literal["axial", "coronal", "sagittal"]

_MOST_PANELS = 20  # where nobody says how many
_SHAPE = 1.4  # width of a sheet over its height
_WIDEST = 12.0  # inches
_PANEL = (2.2, 6.0)  # inches: width of a panel among many, and of a single one
_TITLE, _LINE, _LEGEND = 0.35, 0.15, 0.24  # inches: the sheet's, of a panel's title, of names
_GAP = 0.06
_LETTER = 0.066  # inches: of a panel's title


@dataclass(frozen=True)
class SheetOptions:
    """What of a case is drawn, and how.

    Raises:
        ConfigError: for settings that cannot work.
    """

    axis: Axis | None = None
    """The plane of the slices; chosen by the volume's shape and spacing if not given."""
    every: int | None = None
    """Draw each so many-th slice; if not given, some of those that hold labels."""
    slices: Sequence[int] = ()
    """Draw these, by the numbers in their titles: from 1, the feet, the back or the left."""
    columns: int | None = None
    window: Window | None = None
    """The intensities that become black and white; the image's own 0.5 and 99.5 % if not given."""
    crop: bool = False
    """Draw only what lies around the labels."""
    opacity: float = 0.3
    """Of the labels' fill; 0 leaves their outlines."""

    def __post_init__(self) -> None:
        if self.axis is not None and self.axis not in PLANES:
            raise ConfigError(f"Unknown axis {self.axis!r}; known: {', '.join(PLANES)}.")
        for name, value in (("every", self.every), ("columns", self.columns)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1.")
        if self.window is not None and not self.window[0] < self.window[1]:
            low, high = self.window
            raise ConfigError(f"The window {low:g} to {high:g} is empty; give low and high.")
        if not 0 <= self.opacity <= 1:
            raise ConfigError(f"opacity={self.opacity:g} must lie between 0 and 1.")


def slices_of(
    image: Volume | None,
    labels: Volume,
    options: SheetOptions | None = None,
    *,
    oriented: bool = True,
    case: str | None = None,
) -> list[Panel]:
    """Return the slices of a case that a contact sheet shows, the last (topmost) one last.

    Args:
        image: on the labels' grid, or None.
        labels: label map.
        options: which slices, and how.
        oriented: whether the file says how the patient lies.
        case: the case's name where one slice stands for it: the one with most labelled voxels
            (without any, the middle one), if `options` do not choose it.

    Raises:
        ConfigError: for a slice that is not there.
        GeometryError: when image and labels lie on different grids.
    """
    options = options or SheetOptions()
    labels = (image and labels.on_grid(image)) or labels
    if image is not None and (difference := same_grid(image, labels)):
        raise GeometryError(
            f"{labels.name} does not lie on the grid of its image {image.name}: {difference}. "
            "Give the image that was segmented."
        )
    codes = orientation_for(oriented)
    image, labels = image and image.reoriented(codes), labels.reoriented(codes)
    axis = PLANES.index(options.axis) if options.axis else leafed_axis(labels)
    counts = np.count_nonzero(labels.array[0], axis=tuple(a for a in range(3) if a != axis))
    labelled = np.flatnonzero(counts).tolist() or [0, len(counts) - 1]
    first, last = labelled[0], labelled[-1]
    evenly = np.linspace(first, last, min(_MOST_PANELS, last - first + 1)).round()
    if wrong := [number for number in options.slices if not 0 < number <= len(counts)]:
        raise ConfigError(
            f"{labels.name} has no slice {wrong[0]} in this plane; its {len(counts)} slices are "
            "numbered from 1."
        )
    every = options.every and range(0, len(counts), options.every)
    shown = [number - 1 for number in options.slices] or list(every or map(int, evenly))
    window = options.window
    flat_colour = image is not None and image.channels == 3 and len(counts) == 1
    if window is None and image is not None and not flat_colour:
        window = window_of(np.take(image.array[0], shown, axis=axis))
    if case is not None and not options.slices:
        shown = [int(counts.argmax()) if counts.any() else len(counts) // 2]
    plane_name = f"{PLANES[axis]} " if oriented else ""
    titles = [f"{plane_name}{index + 1} of {len(counts)}" for index in shown]
    cut = None
    if options.crop:  # to what the labels of all slices cover together
        cut = around(plane(labels.array[0].any(axis=axis, keepdims=True), axis, 0))
    return [
        panel_of(
            image,
            labels,
            axis,
            index,
            oriented=oriented,
            cut=cut,
            window=window,
            title="\n".join(filter(None, (case, title if len(counts) > 1 else ""))),
        )
        for index, title in zip(shown, titles, strict=True)
    ]


def draw_sheet(
    panels: Sequence[Panel],
    names: Mapping[int, str],
    path: Path,
    options: SheetOptions | None = None,
    title: str = "",
) -> Path:
    """Draw what `sheet_figure` returns into `path` (.png, .svg or .pdf), and return that.

    Raises:
        ConfigError: without matplotlib, or for a path that cannot be written.
    """
    return save_figure(sheet_figure(panels, names, options, title), path)


def sheet_figure(
    panels: Sequence[Panel],
    names: Mapping[int, str] | None,
    options: SheetOptions | None = None,
    title: str = "",
) -> Any:
    """Return panels in rows with a legend, as a matplotlib figure.

    Args:
        panels: at least one.
        names: label value -> name; others are called by their number. None: no legend.
        options: columns and opacity.
        title: above the panels.

    Raises:
        ConfigError: without panels or matplotlib.
    """
    if not panels:
        raise ConfigError("There is no slice to draw.")
    options = options or SheetOptions()
    values = sorted({value for panel in panels for value in panel.values})
    legend = {(names or {}).get(v, f"label {v}"): colour_of(v - 1) for v in values}
    if not legend and names is not None:
        legend = {"nothing is labelled": "none"}

    # All lengths are inches.
    count = len(panels)
    ratio = max(high / wide for high, wide in (panel.size_mm for panel in panels))
    columns = min(options.columns or max(1, round(sqrt(count * ratio * _SHAPE))), count)
    wide = min(_PANEL[1] if count == 1 else _PANEL[0], _WIDEST / columns)
    tall = wide * ratio
    caption = max(len(panel.title.splitlines()) for panel in panels) * _LINE + _GAP
    above = _TITLE if title else _GAP
    # A legend's names stand in columns as wide as the longest one.
    longest = max(map(len, legend), default=1)
    names_per_row = int(max(columns * wide, 3.0) / (0.55 + 0.085 * longest))
    names_per_row = max(min(names_per_row, len(legend)), 1)
    used = columns * (wide + _GAP) - _GAP
    width = max(columns * (wide + _GAP) + _GAP, 3.0)
    below = ceil(len(legend) / names_per_row) * _LEGEND + 0.2
    height = above + ceil(count / columns) * (tall + caption) + below

    figure = new_figure(width, height)
    letters = max(4, int(wide / _LETTER))
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        left = (width - used) / 2 + column * (wide + _GAP)
        axes = axes_at(figure, left, above + row * (tall + caption) + caption, wide, tall)
        lines = panel.title.splitlines()
        lines = [t if len(t) <= letters else f"{t[: letters - 1]}…" for t in lines]
        shortened = replace(panel, title="\n".join(lines))
        draw_panel(axes, shortened, opacity=options.opacity, line=1.0 if wide < 4 else 1.4)
    add_text(figure, 0.5, 1 - 0.55 * above / height, title, ha="center", va="center")
    add_legend(figure, legend, loc="lower center", ncols=names_per_row)
    return figure

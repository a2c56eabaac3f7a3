"""Contact sheets: a case's slices, or a slice of each case, with the labels drawn on the image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from transunet.data.volume import Volume, same_grid
from transunet.drawing.colours import colour_of
from transunet.drawing.figures import add_legend, new_figure, save_figure, write
from transunet.drawing.panels import Panel, draw_panel, orientation_for, panel_of
from transunet.drawing.planes import PLANES, Window, around, leafed_axis, window_of
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
class Look:
    """What of a case is drawn, and how.

    Raises:
        ConfigError: for settings that cannot work.
    """

    axis: Axis | None = None
    """The plane of the slices; chosen by the volume's shape and spacing if not given."""
    every: int | None = None
    """Draw each so many-th slice; if not given, some of those that hold labels."""
    columns: int | None = None
    window: Window | None = None
    """The intensities that become black and white; the image's own 0.5 and 99.5 % if not given."""
    crop: bool = False
    """Draw only what lies around the labels."""
    opacity: float = 0.3
    """Of the labels' fill; 0 leaves their outlines."""

    def __post_init__(self) -> None:
        for name, value in (("every", self.every), ("columns", self.columns)):
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1.")
        if self.window is not None and not self.window[0] < self.window[1]:
            low, high = self.window
            raise ConfigError(f"The window {low:g} to {high:g} is empty; give low and high.")
        if not 0 <= self.opacity <= 1:
            raise ConfigError(f"opacity={self.opacity:g} must lie between 0 and 1.")


def slices_of(
    image: Volume | None, labels: Volume, look: Look | None = None, *, oriented: bool = True
) -> list[Panel]:
    """Return the slices of a case that a contact sheet shows.

    Args:
        image: on the labels' grid, or None.
        labels: label map.
        look: which slices, and how.
        oriented: whether the file says how the patient lies.

    Raises:
        GeometryError: when image and labels lie on different grids.
    """
    case = _Case(image, labels, look or Look(), oriented)
    return [case.panel(index, case.caption(index)) for index in case.slices()]


def fullest_slice(
    image: Volume | None,
    labels: Volume,
    look: Look | None = None,
    *,
    oriented: bool = True,
    title: str = "",
) -> Panel:
    """Return the slice of a case with most labelled voxels (without any, the middle one).

    Raises:
        GeometryError: when image and labels lie on different grids.
    """
    case = _Case(image, labels, look or Look(), oriented)
    index = int(case.counts.argmax()) if case.counts.any() else len(case.counts) // 2
    caption = case.caption(index)
    return case.panel(index, "\n".join(line for line in (title, caption) if line))


def draw_sheet(
    panels: Sequence[Panel],
    names: Mapping[int, str],
    path: Path,
    look: Look | None = None,
    title: str = "",
) -> Path:
    """Draw panels in rows with a legend, and return `path` (.png, .svg or .pdf).

    Args:
        panels: at least one.
        names: label value -> name; others are called by their number.
        path: where the sheet is written.
        look: columns and opacity.
        title: above the panels.

    Raises:
        ConfigError: without matplotlib, or for a path that cannot be written.
    """
    look = look or Look()
    legend = _legend(panels, names)
    layout = _Layout.of(panels, look.columns, legend, _TITLE if title else _GAP)
    figure = new_figure(layout.width, layout.height)
    for index, panel in enumerate(panels):
        axes = figure.add_axes(layout.place(index))
        panel = replace(panel, title=_shortened(panel.title, layout.panel))
        draw_panel(axes, panel, opacity=look.opacity, line=1.0 if layout.panel < 4 else 1.4)
    write(figure, 0.5, 1 - 0.55 * layout.title / layout.height, title, ha="center", va="center")
    add_legend(figure, legend, loc="lower center", ncols=layout.names_per_row)
    return save_figure(figure, path)


class _Case:
    """A case turned as it is drawn."""

    def __init__(self, image: Volume | None, labels: Volume, look: Look, oriented: bool) -> None:
        labels = (image and labels.on_grid(image)) or labels
        difference = image and same_grid(image, labels)
        if image is not None and difference:
            raise GeometryError(
                f"{labels.name} does not lie on the grid of its image {image.name}: {difference}. "
                "Give the image that was segmented."
            )
        codes = orientation_for(oriented)
        self.image = None if image is None else image.reoriented(codes)
        self.labels = labels.reoriented(codes)
        self.look, self.oriented = look, oriented
        self.axis = PLANES.index(look.axis) if look.axis else leafed_axis(self.labels)
        others = tuple(one for one in range(3) if one != self.axis)
        self.counts: NDArray[Any] = np.count_nonzero(self.labels.array[0], axis=others)
        self._cut = around(self._shadow()) if look.crop else None
        self._window = look.window or self._own_window()

    def slices(self) -> list[int]:
        """The slices that are shown, the last (topmost) one last."""
        count = len(self.counts)
        if self.look.every is not None:
            return list(range(0, count, self.look.every))
        held = np.flatnonzero(self.counts)
        first, last = (int(held[0]), int(held[-1])) if held.size else (0, count - 1)
        shown = min(_MOST_PANELS, last - first + 1)
        return [int(index) for index in np.linspace(first, last, shown).round()]

    def panel(self, index: int, title: str) -> Panel:
        return panel_of(
            self.image,
            self.labels,
            self.axis,
            index,
            oriented=self.oriented,
            cut=self._cut,
            window=self._window,
            title=title,
        )

    def caption(self, index: int) -> str:
        count = len(self.counts)
        plane = f"{PLANES[self.axis]} " if self.oriented else ""
        return f"{plane}{index + 1} of {count}" if count > 1 else ""

    def _shadow(self) -> NDArray[np.bool_]:
        """What the labels of all slices cover together, as a picture."""
        flat = self.labels.array[0].any(axis=self.axis)
        return np.asarray(flat.T[::-1, ::-1])

    def _own_window(self) -> Window | None:
        if self.image is None or (self.image.channels == 3 and len(self.counts) == 1):
            return None
        shown = np.take(self.image.array[0], self.slices(), axis=self.axis)
        return window_of(shown)


@dataclass(frozen=True)
class _Layout:
    """Where panels lie on a sheet, in inches."""

    columns: int
    rows: int
    panel: float
    tall: float
    caption: float
    title: float
    names_per_row: int
    name_rows: int

    @classmethod
    def of(
        cls,
        panels: Sequence[Panel],
        columns: int | None,
        legend: Mapping[str, str],
        title: float,
    ) -> "_Layout":
        if not panels:
            raise ConfigError("There is no slice to draw.")
        ratio = max(high / wide for high, wide in (panel.size_mm for panel in panels))
        count = len(panels)
        columns = min(columns or max(1, round(sqrt(count * ratio * _SHAPE))), count)
        panel = min(_PANEL[1] if count == 1 else _PANEL[0], _WIDEST / columns)
        # A legend's names stand in columns as wide as the longest one.
        longest = max(map(len, legend), default=0)
        per_row = max(1, int(max(columns * panel, 3.0) / (0.55 + 0.085 * longest)))
        per_row = min(per_row, max(1, len(legend)))
        lines = max(len(one.title.splitlines()) for one in panels)
        return cls(
            columns,
            ceil(count / columns),
            panel,
            panel * ratio,
            lines * _LINE + _GAP,
            title,
            per_row,
            ceil(len(legend) / per_row),
        )

    @property
    def width(self) -> float:
        return max(self.columns * (self.panel + _GAP) + _GAP, 3.0)

    @property
    def height(self) -> float:
        below = self.name_rows * _LEGEND + 0.2
        return self.title + self.rows * (self.tall + self.caption) + below

    def place(self, index: int) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of a panel, in shares of the sheet."""
        row, column = divmod(index, self.columns)
        used = self.columns * (self.panel + _GAP) - _GAP
        left = (self.width - used) / 2 + column * (self.panel + _GAP)
        top = self.title + row * (self.tall + self.caption) + self.caption
        bottom = self.height - top - self.tall
        return (
            left / self.width,
            bottom / self.height,
            self.panel / self.width,
            self.tall / self.height,
        )


def _shortened(title: str, width: float) -> str:
    """Cut each line of a title to so many inches."""
    most = max(4, int(width / _LETTER))
    return "\n".join(
        line if len(line) <= most else f"{line[: most - 1]}…" for line in title.splitlines()
    )


def _legend(panels: Sequence[Panel], names: Mapping[int, str]) -> dict[str, str]:
    values = sorted({value for panel in panels for value in panel.values})
    found = {names.get(value, f"label {value}"): colour_of(value - 1) for value in values}
    return found or {"nothing is labelled": "none"}

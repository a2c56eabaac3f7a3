"""The figure of attention: a slice with its labels, the roll-out over it, every layer and head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.drawing.figures import add_legend, halo, new_figure, save_figure, write
from transunet.drawing.panels import Panel, add_outline, draw_panel, without_labels

_MAP = "inferno"
_MARK = "#00e5ff"
_WIDEST, _HIGHEST = 11.0, 9.0  # inches: of all layers and heads together
_SMALL = (0.45, 1.8)  # inches: the larger side of a layer's and head's panel
_LARGE = 3.4  # inches: the larger side of the slice and of the roll-out
_LEFT, _TOP, _GAP, _LINE = 0.75, 0.75, 0.04, 0.2
_BELOW = 0.95  # inches under the upper row: scale, legend, heads' numbers
_FAINT = 0.75  # of the heat's opacity over the image, where it is strongest
_MOST_PIXELS = 160  # of a small panel's side

Heat = NDArray[np.float32]
"""(H, W) as drawn: multiples of the even share."""


@dataclass(frozen=True)
class HeatMaps:
    """What is drawn of one slice."""

    panel: Panel
    """The slice itself, with its labels."""
    rollout: Heat
    layers: Sequence[Sequence[Heat]]
    """Layer by layer, each head's and then their mean."""
    mark: tuple[int, int] | None = None
    """Row and column of the pixel that is looked from."""


def draw_heat(heat: HeatMaps, names: Mapping[str, str], path: Path, title: str) -> Path:
    """Draw the figure and return `path` (.png, .svg or .pdf).

    Args:
        heat: the maps of a slice.
        names: name -> colour of the labels.
        path: where it is written.
        title: what is shown, and whose attention.

    Raises:
        ConfigError: without matplotlib, or for a path that cannot be written.
    """
    sizes = _Sizes.of(heat)
    figure = new_figure(sizes.width, sizes.height)
    write(figure, 0.5, 1 - 0.28 / sizes.height, title, ha="center", va="center", fontsize=11)
    _draw_slice(figure, sizes, heat)
    _draw_rollout(figure, sizes, heat)
    if names:
        middle = (sizes.left_of(0) + sizes.large[0] / 2) / sizes.width
        below = 1 - (_TOP + sizes.large[1] + 0.02) / sizes.height
        add_legend(figure, names, loc="upper center", bbox_to_anchor=(middle, below), ncols=2)
    _draw_layers(figure, sizes, heat)
    return save_figure(figure, path)


@dataclass(frozen=True)
class _Sizes:
    """Inches."""

    large: tuple[float, float]
    small: tuple[float, float]
    rows: int
    columns: int

    @classmethod
    def of(cls, heat: HeatMaps) -> "_Sizes":
        high, wide = heat.panel.size_mm
        scale = _LARGE / max(high, wide)
        rows, columns = len(heat.layers[0]), len(heat.layers)
        fits = min((_WIDEST - _LEFT) / columns / wide, _HIGHEST / rows / high) * max(high, wide)
        side = min(max(fits - _GAP, _SMALL[0]), _SMALL[1]) / max(high, wide)
        return cls((wide * scale, high * scale), (wide * side, high * side), rows, columns)

    @property
    def width(self) -> float:
        grid = _LEFT + self.columns * (self.small[0] + _GAP) + 0.15
        return max(grid, 2 * self.large[0] + 1.6, 6.5)

    @property
    def height(self) -> float:
        return _TOP + self.large[1] + _BELOW + self.rows * (self.small[1] + _GAP) + 0.35

    def left_of(self, index: int) -> float:
        """Where the slice (0) and the roll-out (1) begin."""
        return self.width / 2 + (index - 1) * (self.large[0] + 0.3) + 0.15

    def axes(self, left: float, top: float, size: tuple[float, float]) -> tuple[float, ...]:
        """The place of axes in shares of the figure."""
        bottom = self.height - top - size[1]
        return (
            left / self.width, bottom / self.height,
            size[0] / self.width, size[1] / self.height,
        )  # fmt: skip


def _draw_slice(figure: Any, sizes: _Sizes, heat: HeatMaps) -> None:
    axes = figure.add_axes(sizes.axes(sizes.left_of(0), _TOP, sizes.large))
    draw_panel(axes, heat.panel, line=1.4)
    _add_mark(axes, heat, 11)


def _draw_rollout(figure: Any, sizes: _Sizes, heat: HeatMaps) -> None:
    axes = figure.add_axes(sizes.axes(sizes.left_of(1), _TOP, sizes.large))
    draw_panel(axes, without_labels(heat.panel))
    axes.set_title("roll-out over all layers", fontsize=8, pad=3)
    most = max(float(heat.rollout.max()), 1e-6)
    shown = axes.imshow(
        heat.rollout,
        extent=_extent(heat.panel),
        cmap=_MAP,
        vmin=0,
        vmax=most,
        alpha=_FAINT * np.clip(heat.rollout / most, 0, 1),
        interpolation="bilinear",
    )
    _outline_labels(axes, heat.panel, 1.0)
    _add_mark(axes, heat, 11)
    size = (sizes.large[0], 0.12)
    bar = figure.add_axes(sizes.axes(sizes.left_of(1), _TOP + sizes.large[1] + 0.1, size))
    scale = figure.colorbar(shown, cax=bar, orientation="horizontal")
    scale.solids.set_alpha(1)
    scale.set_label("times the share of each token if all got the same", fontsize=7)
    bar.tick_params(labelsize=7)


def _draw_layers(figure: Any, sizes: _Sizes, heat: HeatMaps) -> None:
    top = _TOP + sizes.large[1] + _BELOW
    left = (sizes.width - sizes.columns * (sizes.small[0] + _GAP) + _LEFT - 0.15) / 2
    for row in range(sizes.rows):
        name = "mean" if row == sizes.rows - 1 else f"head {row}"
        y = top + row * (sizes.small[1] + _GAP) + sizes.small[1] / 2
        _label(figure, sizes, left - 0.08, y, name, ha="right")
    for column, maps in enumerate(heat.layers):
        x = left + column * (sizes.small[0] + _GAP)
        _label(figure, sizes, x + sizes.small[0] / 2, top - 0.09, f"layer {column}", ha="center")
        for row, values in enumerate(maps):
            y = top + row * (sizes.small[1] + _GAP)
            _draw_small(figure.add_axes(sizes.axes(x, y, sizes.small)), heat, values)
    told = "Each from 0 (black) to its largest value, which stands in its corner (same unit)."
    _label(figure, sizes, sizes.width / 2, sizes.height - 0.16, told, ha="center")


def _draw_small(axes: Any, heat: HeatMaps, values: Heat) -> None:
    high, wide = heat.panel.size_mm
    step = -(-max(values.shape) // _MOST_PIXELS)
    most = max(float(values.max()), 1e-6)
    axes.set_axis_off()
    axes.imshow(
        values[::step, ::step], extent=_extent(heat.panel), cmap=_MAP, vmin=0, vmax=most,
        interpolation="bilinear",
    )  # fmt: skip
    axes.set(xlim=(0, wide), ylim=(high, 0))
    _outline_labels(axes, heat.panel, 0.5)
    _add_mark(axes, heat, 4)
    style = {"color": "white", "fontsize": 6, "ha": "right", "va": "bottom"}
    place = {"transform": axes.transAxes, "path_effects": [halo(1.5)]}
    write(axes, 0.97, 0.03, f"{most:.2g}", **place, **style)


def _outline_labels(axes: Any, panel: Panel, line: float) -> None:
    if panel.values:
        add_outline(axes, panel, panel.labels > 0, "white", 0, line)


def _add_mark(axes: Any, heat: HeatMaps, size: float) -> None:
    if heat.mark is not None:
        (row, column), (high, wide) = heat.mark, heat.panel.pixel_mm
        style = {"markersize": size, "markeredgecolor": _MARK, "markeredgewidth": size / 6}
        axes.plot([(column + 0.5) * wide], [(row + 0.5) * high], "+", **style)


def _label(figure: Any, sizes: _Sizes, x: float, y: float, text: str, ha: str) -> None:
    style = {"fontsize": 7, "ha": ha, "va": "center"}
    write(figure, x / sizes.width, 1 - y / sizes.height, text, **style)


def _extent(panel: Panel) -> tuple[float, float, float, float]:
    high, wide = panel.size_mm
    return 0, wide, high, 0

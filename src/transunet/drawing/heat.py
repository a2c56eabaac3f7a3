"""The figures of attention: a slice, the roll-out over it, every layer and head; and of queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.drawing.figures import add_legend, add_text, axes_at, halo, new_figure, save_figure
from transunet.drawing.panels import Panel, add_outline, draw_panel, without_labels

_MAP = "inferno"
_MARK = "#00e5ff"
_WIDEST, _HIGHEST = 11.0, 9.0  # inches: of all layers and heads together
_SMALL = (0.45, 1.8)  # inches: the larger side of a layer's and head's panel
_LARGE = 3.4  # inches: the larger side of the slice and of the roll-out
_LEFT, _TOP, _GAP = 0.75, 0.75, 0.04
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
    # All lengths are inches.
    high, wide = heat.panel.size_mm
    longer = max(high, wide)
    rows, columns = len(heat.layers[0]), len(heat.layers)
    large_wide, large_tall = wide * _LARGE / longer, high * _LARGE / longer
    side = min((_WIDEST - _LEFT) / columns / wide, _HIGHEST / rows / high) * longer - _GAP
    side = min(max(side, _SMALL[0]), _SMALL[1]) / longer
    small_wide, small_tall = wide * side, high * side
    width = max(_LEFT + columns * (small_wide + _GAP) + 0.15, 2 * large_wide + 1.6, 6.5)
    height = _TOP + large_tall + _BELOW + rows * (small_tall + _GAP) + 0.35
    figure = new_figure(width, height)

    def label(x: float, y: float, text: str, ha: str) -> None:
        add_text(figure, x / width, 1 - y / height, text, ha=ha, va="center", fontsize=7)

    add_text(figure, 0.5, 1 - 0.28 / height, title, ha="center", va="center", fontsize=11)
    slice_left, rollout_left = width / 2 - large_wide - 0.15, width / 2 + 0.15
    axes = axes_at(figure, slice_left, _TOP, large_wide, large_tall)
    draw_panel(axes, heat.panel, line=1.4)
    _add_mark(axes, heat, 11)

    axes = axes_at(figure, rollout_left, _TOP, large_wide, large_tall)
    draw_panel(axes, without_labels(heat.panel))
    axes.set_title("roll-out over all layers", fontsize=8, pad=3)
    opacity = _FAINT * np.clip(heat.rollout / _largest(heat.rollout), 0, 1)
    shown = _show(axes, heat, heat.rollout, 1.0, 11, alpha=opacity)
    bar = axes_at(figure, rollout_left, _TOP + large_tall + 0.1, large_wide, 0.12)
    scale = figure.colorbar(shown, cax=bar, orientation="horizontal")
    scale.solids.set_alpha(1)
    scale.set_label("times the share of each token if all got the same", fontsize=7)
    bar.tick_params(labelsize=7)
    if names:
        middle = (slice_left + large_wide / 2) / width
        below = 1 - (_TOP + large_tall + 0.02) / height
        add_legend(figure, names, loc="upper center", bbox_to_anchor=(middle, below), ncols=2)

    top = _TOP + large_tall + _BELOW
    left = (width - columns * (small_wide + _GAP) + _LEFT - 0.15) / 2
    for row in range(rows):
        name = "mean" if row == rows - 1 else f"head {row}"
        label(left - 0.08, top + row * (small_tall + _GAP) + small_tall / 2, name, "right")
    for column, maps in enumerate(heat.layers):
        x = left + column * (small_wide + _GAP)
        label(x + small_wide / 2, top - 0.09, f"layer {column}", "center")
        for row, values in enumerate(maps):
            axes = axes_at(figure, x, top + row * (small_tall + _GAP), small_wide, small_tall)
            axes.set_axis_off()
            step = -(-max(values.shape) // _MOST_PIXELS)
            _show(axes, heat, values[::step, ::step], 0.5, 4, vmax=_largest(values))
            axes.set(xlim=(0, wide), ylim=(high, 0))
            style = {"color": "white", "fontsize": 6, "ha": "right", "va": "bottom"}
            corner = {"transform": axes.transAxes, "path_effects": [halo(1.5)]}
            add_text(axes, 0.97, 0.03, f"{_largest(values):.2g}", **corner, **style)
    note = "Each from 0 (black) to its largest value, which stands in its corner (same unit)."
    label(width / 2, height - 0.16, note, "center")
    return save_figure(figure, path)


def draw_masks(
    panel: Panel, masks: Mapping[str, Heat], names: Mapping[str, str], path: Path, title: str
) -> Path:
    """Draw a slice and masks of it from 0 to 1 side by side; return `path` (.png, .svg or .pdf).

    Args:
        panel: the slice, with its labels.
        masks: what stands over each -> the mask.
        names: name -> colour of the labels.
        path: where it is written.
        title: what is shown.

    Raises:
        ConfigError: without matplotlib, or for a path that cannot be written.
    """
    # All lengths are inches.
    high, wide = panel.size_mm
    columns = min(5, len(masks) + 1)
    rows = -(-(len(masks) + 1) // columns)
    tall = _SMALL[1] * high / max(high, wide)
    cell_wide, cell_tall = _SMALL[1] + 0.15, tall + 0.3
    figure = new_figure(columns * cell_wide + 0.3, _TOP + rows * cell_tall + 0.5)
    middle = 1 - 0.28 / figure.get_figheight()
    add_text(figure, 0.5, middle, title, ha="center", va="center", fontsize=11)
    for place, (caption, values) in enumerate([("", None), *masks.items()]):
        left = 0.2 + place % columns * cell_wide
        axes = axes_at(figure, left, _TOP + place // columns * cell_tall, _SMALL[1], tall)
        if values is None:
            draw_panel(axes, panel)
            continue
        axes.set_axis_off()
        shown = {"vmin": 0, "vmax": 1, "interpolation": "bilinear", "cmap": _MAP}
        axes.imshow(values, extent=(0, wide, high, 0), **shown)
        if panel.values:
            add_outline(axes, panel, panel.labels > 0, "white", 0, 0.5)
        axes.set(xlim=(0, wide), ylim=(high, 0))
        axes.set_title(caption, fontsize=6, pad=3)
    if names:
        add_legend(figure, names, loc="lower center", bbox_to_anchor=(0.5, 0), ncols=4)
    return save_figure(figure, path)


def _show(axes: Any, heat: HeatMaps, values: Heat, line: float, mark: float, **style: Any) -> Any:
    """Draw a map with the outline of all labels and the mark; return what is drawn."""
    high, wide = heat.panel.size_mm
    style = {"vmin": 0, "vmax": _largest(values), "interpolation": "bilinear"} | style
    shown = axes.imshow(values, extent=(0, wide, high, 0), cmap=_MAP, **style)
    if heat.panel.values:
        add_outline(axes, heat.panel, heat.panel.labels > 0, "white", 0, line)
    _add_mark(axes, heat, mark)
    return shown


def _largest(values: Heat) -> float:
    return max(float(values.max()), 1e-6)


def _add_mark(axes: Any, heat: HeatMaps, size: float) -> None:
    if heat.mark is not None:
        (row, column), (high, wide) = heat.mark, heat.panel.pixel_mm
        style = {"markersize": size, "markeredgecolor": _MARK, "markeredgewidth": size / 6}
        axes.plot([(column + 0.5) * wide], [(row + 0.5) * high], "+", **style)

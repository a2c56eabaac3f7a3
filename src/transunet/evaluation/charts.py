"""Charts as inline SVG: one row per structure, every case a dot, colours from the page's style."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

import numpy as np
from markupsafe import Markup, escape

from transunet.evaluation.bootstrap import Values

_WIDTH = 560
_LEFT, _RIGHT, _TOP, _BOTTOM = 132, 22, 8, 30
_ROW = 34
_BOX = 15
_JITTER = 9  # how far dots stray from their row's middle, so that equal ones stay apart
_MANY = 60  # cases above which dots are paler
_LETTERS = 20  # of a structure's name; the whole name is in its tooltip
_WHISKER = 1.5  # interquartile ranges, as Tukey drew them
_LEAST_EXTENT = 0.5  # of the largest value: how far off the boxes a case always stays in sight


def box_plots(
    names: Sequence[str],
    cases: Sequence[str],
    values: Values,
    text: Callable[[float], str],
    share: bool,
) -> Markup:
    """Draw a box plot per structure: median, quartiles, whiskers, and a dot per case.

    Args:
        names: of the structures.
        cases: their names.
        values: (cases, structures), NaN where nothing counts.
        text: writes a value for a tooltip.
        share: whether values are shares of 1 rather than distances.
    """
    low, high = _extent(values)
    # Shares from a tenth below the smallest one: boxes near 1 stay readable.
    floored = max(min(floor(low * 10 - 1e-9) / 10, 0.9), 0.0)
    scale = _Scale(floored, 1.0) if share else _Scale(0.0, _ceiling(high))
    drawn = []
    for column, y in zip(values.T, _middles(names), strict=True):
        drawn.append(_dots(column, cases, scale, y, text))
        counted = column[np.isfinite(column)]
        if not counted.size:
            drawn.append(f'<text class="none" x="{_LEFT + 6}" y="{y + 4}">no case counts</text>')
            continue
        first, median, third = (scale(float(v)) for v in np.percentile(counted, (25, 50, 75)))
        least, most = (scale(end) for end in _whiskers(counted))
        top = y - _BOX / 2
        drawn.append(
            f'<path class="whisker" d="M{least} {y}H{first}M{third} {y}H{most}"/>'
            f'<rect class="box" x="{first}" y="{top}" width="{max(third - first, 1):.2f}" '
            f'height="{_BOX}" rx="2"/>'
            f'<line class="median" x1="{median}" x2="{median}" y1="{top}" y2="{y + _BOX / 2}"/>'
        )
    return _chart(names, scale, drawn)


def difference_plot(
    names: Sequence[str],
    cases: Sequence[str],
    values: Values,
    means: Sequence[tuple[float, float, float]],
    text: Callable[[float], str],
) -> Markup:
    """Draw paired differences around zero: a dot per case, the mean and its interval per structure.

    Args:
        names: of the structures.
        cases: their names.
        values: (cases, structures), NaN where nothing counts.
        means: per structure the mean difference and the ends of its interval, NaN where unknown.
        text: writes a value for a tooltip.
    """
    # Means and intervals stay on the axis, also where a far case has drawn them out.
    ends = [*_extent(values), *(end for mean in means for end in mean if np.isfinite(end))]
    reach = _ceiling(max(abs(end) for end in ends))
    scale = _Scale(-reach, reach)
    zero = scale(0)
    drawn = [f'<line class="zero" x1="{zero}" x2="{zero}" y1="{_TOP}" y2="{_bottom(names)}"/>']
    for column, (mean, low, high), y in zip(values.T, means, _middles(names), strict=True):
        drawn.append(_dots(column, cases, scale, y, text))
        if not np.isfinite(mean):
            continue
        if low <= high:
            drawn.append(f'<path class="interval" d="M{scale(low)} {y}H{scale(high)}"/>')
        x = scale(mean)
        diamond = f"M{x} {y - 6}L{x + 6} {y}L{x} {y + 6}L{x - 6} {y}Z"
        drawn.append(f'<path class="mean" d="{diamond}"/>')
    return _chart(names, scale, drawn)


@dataclass(frozen=True)
class _Scale:
    """Values to pixels across the chart."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(_LEFT + min(max(share, 0), 1) * (_WIDTH - _LEFT - _RIGHT), 2)

    def beyond(self, value: float) -> int:
        """-1 or 1 where `value` lies off the axis to the left or right, else 0."""
        slack = 1e-9 * (self.high - self.low)
        return int(value > self.high + slack) - int(value < self.low - slack)

    def ticks(self) -> list[float]:
        step = _step(self.high - self.low)
        first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
        return [round(index * step, 10) for index in range(first, last + 1)]


def _chart(names: Sequence[str], scale: _Scale, drawn: Sequence[str]) -> Markup:
    """Put what was drawn onto the axis and beside the structures' names."""
    bottom = _bottom(names)
    parts = [
        f'<line class="grid" x1="{scale(tick)}" x2="{scale(tick)}" y1="{_TOP}" y2="{bottom}"/>'
        f'<text class="tick" x="{scale(tick)}" y="{bottom + 18}">{tick:g}</text>'
        for tick in scale.ticks()
    ]
    for name, y in zip(names, _middles(names), strict=True):
        short = name if len(name) <= _LETTERS else name[: _LETTERS - 1] + "…"
        parts.append(
            f'<text class="name" x="{_LEFT - 12}" y="{y + 4}"><title>{escape(name)}</title>'
            f"{escape(short)}</text>"
        )
    return Markup(
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {bottom + _BOTTOM}" role="img">'
        f"{''.join(parts)}{''.join(drawn)}</svg>"
    )


def _dots(
    column: Values, cases: Sequence[str], scale: _Scale, y: float, text: Callable[[float], str]
) -> str:
    """A dot per case; at the edge a triangle that points to where its value would be."""
    kind = "dot many" if len(cases) > _MANY else "dot"
    dots = []
    for index, (value, case) in enumerate(zip(column.tolist(), cases, strict=True)):
        if not np.isfinite(value):
            continue
        # The golden ratio spreads neighbours apart without chance: equal figures, equal pages.
        stray = ((index * 0.618034) % 1 - 0.5) * 2 * _JITTER
        x, middle, side = scale(value), y + stray, scale.beyond(value)
        hint = f"<title>{escape(case)}: {text(value)}</title>"
        if side:
            path = f"M{x} {middle - 4:.1f}L{x + 7 * side} {middle:.1f}L{x} {middle + 4:.1f}Z"
            dots.append(f'<path class="beyond" d="{path}">{hint}</path>')
        else:
            dots.append(
                f'<circle class="{kind}" cx="{x}" cy="{middle:.1f}" r="2.6">{hint}</circle>'
            )
    return "".join(dots)


def _middles(names: Sequence[str]) -> list[float]:
    """Of each structure's row."""
    return [_TOP + _ROW * (index + 0.5) for index in range(len(names))]


def _bottom(names: Sequence[str]) -> float:
    """Of the last structure's row."""
    return _TOP + _ROW * len(names)


def _extent(values: Values) -> tuple[float, float]:
    """Ends of the axis: all values, unless a few far ones would squeeze the boxes to nothing."""
    columns = [column[np.isfinite(column)] for column in values.T]
    ends = [end for column in columns if column.size for end in _whiskers(column)]
    if not ends:
        return 0.0, 1.0
    low, high = min(ends), max(ends)
    room = max(high - low, _LEAST_EXTENT * max(abs(low), abs(high)))
    near = values[(values >= low - room) & (values <= high + room)]
    return float(near.min()), float(near.max())


def _whiskers(values: Values) -> tuple[float, float]:
    """The outermost values within 1.5 interquartile ranges of the box."""
    first, third = (float(value) for value in np.percentile(values, (25, 75)))
    reach = _WHISKER * (third - first)
    inside = values[(values >= first - reach) & (values <= third + reach)]
    return float(inside.min()), float(inside.max())


def _ceiling(most: float) -> float:
    if most <= 0:
        return 1.0
    step = _step(most)
    return step * ceil(most / step - 1e-9)


def _step(extent: float) -> float:
    """A round distance between ticks that gives about five of them."""
    rough = extent / 5
    power = 10.0 ** floor(log10(rough))
    return power * next(step for step in (1, 2, 5, 10) if step * power >= rough * 0.999)

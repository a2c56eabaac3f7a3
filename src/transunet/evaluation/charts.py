"""Charts as inline SVG: one row per structure, every case a dot, colours from the page's style."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

_WIDTH = 560
_LEFT, _RIGHT, _TOP, _BOTTOM = 132, 22, 8, 30
_ROW = 34
_BOX = 15
_JITTER = 9  # how far dots stray from their row's middle, so that equal ones stay apart
_MANY = 60  # cases above which dots are paler
_LETTERS = 20  # of a structure's name; the whole name is in its tooltip
_WHISKER = 1.5  # interquartile ranges, as Tukey drew them
_LEAST_EXTENT = (
    0.5  # of the largest value: how far a case may lie off the boxes, however small they are
)


@dataclass(frozen=True)
class Rows:
    """What a chart shows: one row of dots per structure."""

    names: Sequence[str]
    cases: Sequence[str]
    values: Values
    """(cases, structures), NaN where nothing counts."""


def box_plots(rows: Rows, text: Callable[[float], str], share: bool) -> str:
    """Draw a box plot per structure: median, quartiles, whiskers, and a dot per case.

    Args:
        rows: what to draw.
        text: writes a value for a tooltip.
        share: whether values are shares of 1 rather than distances.
    """
    low, high = _extent(rows.values)
    scale = _Scale(_share_floor(low), 1.0) if share else _Scale(0.0, _ceiling(high))
    drawn = [
        _dots(column, rows.cases, scale, y, text) + _box(column, scale, y)
        for column, y in zip(rows.values.T, _middles(rows), strict=True)
    ]
    return _chart(rows, scale, drawn)


def difference_plot(
    rows: Rows, means: Sequence[tuple[float, float, float]], text: Callable[[float], str]
) -> str:
    """Draw paired differences around zero: a dot per case, the mean and its interval per structure.

    Args:
        rows: what to draw.
        means: per structure the mean difference and the ends of its interval, NaN where unknown.
        text: writes a value for a tooltip.
    """
    # Means and intervals stay on the axis, also where a far case has drawn them out.
    ends = [*_extent(rows.values), *(end for mean in means for end in mean if np.isfinite(end))]
    reach = _ceiling(max(abs(end) for end in ends))
    scale = _Scale(-reach, reach)
    drawn = [f'<line class="zero" x1="{scale(0)}" x2="{scale(0)}" y1="{_TOP}" y2="{_end(rows)}"/>']
    for column, mean, y in zip(rows.values.T, means, _middles(rows), strict=True):
        drawn.append(_dots(column, rows.cases, scale, y, text) + _mean(mean, scale, y))
    return _chart(rows, scale, drawn)


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


def _chart(rows: Rows, scale: _Scale, drawn: Sequence[str]) -> str:
    height = _end(rows) + _BOTTOM
    names = "".join(_name(one, y) for one, y in zip(rows.names, _middles(rows), strict=True))
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {height}" role="img">'
        f"{_axis(scale, _end(rows))}{names}{''.join(drawn)}</svg>"
    )


def _axis(scale: _Scale, end: float) -> str:
    parts = [
        f'<line class="grid" x1="{scale(tick)}" x2="{scale(tick)}" y1="{_TOP}" y2="{end}"/>'
        f'<text class="tick" x="{scale(tick)}" y="{end + 18}">{tick:g}</text>'
        for tick in scale.ticks()
    ]
    return "".join(parts)


def _name(name: str, y: float) -> str:
    short = name if len(name) <= _LETTERS else name[: _LETTERS - 1] + "…"
    return (
        f'<text class="name" x="{_LEFT - 12}" y="{y + 4}"><title>{escape(name)}</title>'
        f"{escape(short)}</text>"
    )


def _box(column: Values, scale: _Scale, y: float) -> str:
    kept = column[np.isfinite(column)]
    if not kept.size:
        return f'<text class="none" x="{_LEFT + 6}" y="{y + 4}">no case counts</text>'
    first, median, third = (float(value) for value in np.percentile(kept, (25, 50, 75)))
    low, high = (scale(end) for end in _whiskers(kept))
    left, right = scale(first), scale(third)
    return (
        f'<path class="whisker" d="M{low} {y}H{left}M{right} {y}H{high}"/>'
        f'<rect class="box" x="{left}" y="{y - _BOX / 2}" width="{max(right - left, 1):.2f}" '
        f'height="{_BOX}" rx="2"/>'
        f'<line class="median" x1="{scale(median)}" x2="{scale(median)}" y1="{y - _BOX / 2}" '
        f'y2="{y + _BOX / 2}"/>'
    )


def _dots(
    column: Values, cases: Sequence[str], scale: _Scale, y: float, text: Callable[[float], str]
) -> str:
    # The golden ratio spreads neighbours apart without chance: the same page for the same figures.
    strays = [((index * 0.618034) % 1 - 0.5) * 2 * _JITTER for index in range(len(cases))]
    kind = "dot many" if len(cases) > _MANY else "dot"
    return "".join(
        _dot(float(value), scale, y + stray, kind, f"{escape(case)}: {text(float(value))}")
        for value, case, stray in zip(column, cases, strays, strict=True)
        if np.isfinite(value)
    )


def _dot(value: float, scale: _Scale, y: float, kind: str, title: str) -> str:
    """A dot, or at the edge a triangle that points to where the value would be."""
    x, side = scale(value), scale.beyond(value)
    hint = f"<title>{title}</title>"
    if not side:
        return f'<circle class="{kind}" cx="{x}" cy="{y:.1f}" r="2.6">{hint}</circle>'
    tip = x + 7 * side
    return f'<path class="beyond" d="M{x} {y - 4:.1f}L{tip} {y:.1f}L{x} {y + 4:.1f}Z">{hint}</path>'


def _mean(mean: tuple[float, float, float], scale: _Scale, y: float) -> str:
    middle, low, high = mean
    if not np.isfinite(middle):
        return ""
    bar = f'<path class="interval" d="M{scale(low)} {y}H{scale(high)}"/>' if low <= high else ""
    x = scale(middle)
    diamond = f"M{x} {y - 6}L{x + 6} {y}L{x} {y + 6}L{x - 6} {y}Z"
    return f'{bar}<path class="mean" d="{diamond}"/>'


def _middles(rows: Rows) -> list[float]:
    return [_TOP + _ROW * (index + 0.5) for index in range(len(rows.names))]


def _end(rows: Rows) -> float:
    return _TOP + _ROW * len(rows.names)


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


def _whiskers(kept: Values) -> tuple[float, float]:
    """The outermost values within 1.5 interquartile ranges of the box."""
    first, third = (float(value) for value in np.percentile(kept, (25, 75)))
    reach = _WHISKER * (third - first)
    inside = kept[(kept >= first - reach) & (kept <= third + reach)]
    return float(inside.min()), float(inside.max())


def _share_floor(low: float) -> float:
    """From a tenth below the smallest share shown: boxes near 1 stay readable."""
    return max(min(floor(low * 10 - 1e-9) / 10, 0.9), 0.0)


def _ceiling(most: float) -> float:
    if most <= 0:
        return 1.0
    step = _step(most)
    return step * ceil(most / step - 1e-9)


def _step(extent: float) -> float:
    """A round distance between ticks that gives about five of them."""
    rough = extent / 5
    power = 10.0 ** floor(log10(rough))
    return power * next(one for one in (1, 2, 5, 10) if one * power >= rough * 0.999)

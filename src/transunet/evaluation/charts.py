"""Charts as inline SVG: one row per structure, every case a dot, colours from the page's style."""

from collections.abc import Callable, Sequence
from math import ceil, floor, log10
from typing import NamedTuple

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
_SCATTER, _SCATTER_LEFT = 360, 110  # side of a scatter plot, and where it begins
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
    ends = (floored, 1.0) if share else (0.0, _ceiling(high))
    chart = _Chart(names, cases, text, *ends)
    for column, y in zip(values.T, chart.middles, strict=True):
        chart.add_dots(column, y)
        counted = column[np.isfinite(column)]
        if not counted.size:
            chart.add(f'<text class="none" x="{_LEFT + 6}" y="{y + 4}">no case counts</text>')
            continue
        first, median, third = (chart.x(float(v)) for v in np.percentile(counted, (25, 50, 75)))
        least, most = (chart.x(end) for end in _whiskers(counted))
        top = y - _BOX / 2
        chart.add(
            f'<path class="whisker" d="M{least} {y}H{first}M{third} {y}H{most}"/>'
            f'<rect class="box" x="{first}" y="{top}" width="{max(third - first, 1):.2f}" '
            f'height="{_BOX}" rx="2"/>'
            f'<line class="median" x1="{median}" x2="{median}" y1="{top}" y2="{y + _BOX / 2}"/>'
        )
    return chart.drawn()


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
    chart = _Chart(names, cases, text, -reach, reach)
    zero = chart.x(0)
    chart.add(f'<line class="zero" x1="{zero}" x2="{zero}" y1="{_TOP}" y2="{chart.bottom}"/>')
    for column, (mean, low, high), y in zip(values.T, means, chart.middles, strict=True):
        chart.add_dots(column, y)
        if not np.isfinite(mean):
            continue
        if low <= high:
            chart.add(f'<path class="interval" d="M{chart.x(low)} {y}H{chart.x(high)}"/>')
        x = chart.x(mean)
        chart.add(f'<path class="mean" d="M{x} {y - 6}L{x + 6} {y}L{x} {y + 6}L{x - 6} {y}Z"/>')
    return chart.drawn()


class Point(NamedTuple):
    """One of a scatter plot."""

    name: str
    x: float
    y: float
    marked: bool


def scatter_plot(points: Sequence[Point], threshold: float) -> Markup:
    """Draw shares of 1 against what was expected of them, with the line on which both are equal.

    Args:
        points: at least one; `x` is what was expected, `y` what came of it.
        threshold: drawn across, both ways.
    """
    least = min(threshold, *(min(point.x, point.y) for point in points))
    low = max(floor(10 * least - 1e-9) / 10, 0.0)
    left, bottom = _SCATTER_LEFT, _TOP + _SCATTER
    right = left + _SCATTER

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = ((value - low) / (1 - low) * _SCATTER for value in (x, y))
        return round(left + across, 2), round(bottom - up, 2)

    parts = []
    for tick in _ticks(low, 1):
        x, y = at(tick, tick)
        parts.append(
            f'<path class="grid" d="M{x} {_TOP}V{bottom}M{left} {y}H{right}"/>'
            f'<text class="tick" x="{x}" y="{bottom + 18}">{tick:g}</text>'
            f'<text class="tick" x="{left - 16}" y="{y + 4}">{tick:g}</text>'
        )
    x, y = at(threshold, threshold)
    parts.append(
        f'<path class="zero" d="M{left} {bottom}L{right} {_TOP}"/>'
        f'<path class="threshold" d="M{x} {_TOP}V{bottom}M{left} {y}H{right}"/>'
        f'<text class="name" x="{right}" y="{bottom + 36}">expected</text>'
        f'<text class="name" x="{left - 34}" y="{_TOP + 10}">true</text>'
    )
    for point in points:
        x, y = at(point.x, point.y)
        hint = f"{escape(point.name)}: expected {point.x:.3f}, true {point.y:.3f}"
        kind = "dot marked" if point.marked else "dot"
        parts.append(
            f'<circle class="{kind}" cx="{x}" cy="{y}" r="3"><title>{hint}</title></circle>'
        )
    return Markup(
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {bottom + 44}" role="img">{"".join(parts)}</svg>'
    )


class _Chart:
    """Rows of structures over an axis from `low` to `high`, and what is drawn on them."""

    def __init__(
        self,
        names: Sequence[str],
        cases: Sequence[str],
        text: Callable[[float], str],
        low: float,
        high: float,
    ) -> None:
        self.names, self.cases, self.text, self.low, self.high = names, cases, text, low, high
        self.middles = [_TOP + _ROW * (index + 0.5) for index in range(len(names))]
        self.bottom = _TOP + _ROW * len(names)
        self.parts: list[str] = []
        for tick in _ticks(low, high):
            x = self.x(tick)
            self.add(
                f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP}" y2="{self.bottom}"/>'
                f'<text class="tick" x="{x}" y="{self.bottom + 18}">{tick:g}</text>'
            )
        for name, y in zip(names, self.middles, strict=True):
            short = name if len(name) <= _LETTERS else name[: _LETTERS - 1] + "…"
            self.add(
                f'<text class="name" x="{_LEFT - 12}" y="{y + 4}"><title>{escape(name)}</title>'
                f"{escape(short)}</text>"
            )

    def add(self, part: str) -> None:
        self.parts.append(part)

    def x(self, value: float) -> float:
        """Return how many pixels from the left a value lies; at an edge, what is beyond it."""
        share = (value - self.low) / (self.high - self.low)
        return round(_LEFT + min(max(share, 0), 1) * (_WIDTH - _LEFT - _RIGHT), 2)

    def add_dots(self, column: Values, y: float) -> None:
        """Draw a dot per case; at the edge a triangle that points to where its value would be."""
        kind = "dot many" if len(self.cases) > _MANY else "dot"
        slack = 1e-9 * (self.high - self.low)
        for index, (value, case) in enumerate(zip(column.tolist(), self.cases, strict=True)):
            if not np.isfinite(value):
                continue
            # The golden ratio spreads neighbours apart without chance: equal figures, equal pages.
            stray = ((index * 0.618034) % 1 - 0.5) * 2 * _JITTER
            x, middle = self.x(value), y + stray
            side = int(value > self.high + slack) - int(value < self.low - slack)
            hint = f"<title>{escape(case)}: {self.text(value)}</title>"
            if side:
                path = f"M{x} {middle - 4:.1f}L{x + 7 * side} {middle:.1f}L{x} {middle + 4:.1f}Z"
                self.add(f'<path class="beyond" d="{path}">{hint}</path>')
            else:
                self.add(
                    f'<circle class="{kind}" cx="{x}" cy="{middle:.1f}" r="2.6">{hint}</circle>'
                )

    def drawn(self) -> Markup:
        return Markup(
            f'<svg class="chart" viewBox="0 0 {_WIDTH} {self.bottom + _BOTTOM}" role="img">'
            f"{''.join(self.parts)}</svg>"
        )


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


def _ticks(low: float, high: float) -> list[float]:
    step = _step(high - low)
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def _step(extent: float) -> float:
    """A round distance between ticks that gives about five of them."""
    rough = extent / 5
    power = 10.0 ** floor(log10(rough))
    return power * next(step for step in (1, 2, 5, 10) if step * power >= rough * 0.999)

"""A comparison of two predictions as a page to read."""

from functools import partial
from math import isnan

from transunet.evaluation import html_page
from transunet.evaluation.bootstrap import nanmean
from transunet.evaluation.charts import Rows, difference_plot
from transunet.evaluation.comparison import TEST, Comparison, PairedTest
from transunet.evaluation.html import banner, interval_text, method
from transunet.evaluation.html_page import Content, Markup, tag
from transunet.evaluation.records import Metric
from transunet.evaluation.table import number, p_text, signed

_TITLE = "Two predictions compared"


def comparison_page(comparison: Comparison) -> str:
    """Return the whole page."""
    body = [
        tag("h1", _TITLE),
        _subject(comparison),
        *banner(comparison.first),
        _tiles(comparison),
        _charts(comparison),
        *(_table(comparison, metric) for metric in comparison.metrics),
        _cases(comparison),
        method(comparison.first, [("Paired test", TEST)]),
    ]
    return html_page.page(_TITLE, body)


def _subject(comparison: Comparison) -> Markup:
    return tag(
        "p",
        *("A: ", tag("span", comparison.first.predictions, class_="path"), " · "),
        *("B: ", tag("span", comparison.second.predictions, class_="path"), " · "),
        *("reference: ", tag("span", comparison.first.references, class_="path")),
        class_="soft",
    )


def _tiles(comparison: Comparison) -> Markup:
    metric = comparison.metrics[0]
    found = comparison.overall[metric.key]
    sides = [
        html_page.tile(
            f"{side}: mean foreground {metric.title}",
            number(one.summaries[metric.key].mean_foreground, metric),
            interval_text(*one.summaries[metric.key].interval_95, metric),
        )
        for side, one in (("A", comparison.first), ("B", comparison.second))
    ]
    interval = _signed_interval(found, metric)
    difference = html_page.tile(
        "A minus B", signed(found.mean_difference, metric), interval, lead=True
    )
    note = f"of {found.compared} cases; B in {found.b_better}"
    better = html_page.tile("A is better in", str(found.a_better), note)
    test = html_page.tile(
        "Wilcoxon signed-rank", f"p {p_text(found.p_value)}", "means of the structures"
    )
    return html_page.tiles(*sides, difference, better, test)


def _charts(comparison: Comparison) -> Markup:
    drawn = []
    for metric in comparison.metrics:
        rows = Rows(
            [one.name for one in comparison.structures],
            [case.name for case in comparison.first.cases],
            comparison.differences(metric),
        )
        means = [(t.mean_difference, *t.interval_95) for t in comparison.tests[metric.key]]
        side = "right" if metric.higher_is_better else "left"
        drawing = difference_plot(rows, means, partial(signed, metric=metric))
        drawn.append(
            html_page.chart(f"{metric.title}: A minus B", f"A is better {side} of 0", drawing)
        )
    intro = (
        "A dot is a case; point at it for its name. The diamond is the mean difference, the bar "
        "its 95 % interval: where it leaves out 0, chance alone hardly explains the difference. A "
        "triangle at the edge is a case far off the axis."
    )
    return html_page.section("Differences case by case", intro, tag("div", *drawn, class_="charts"))


def _table(comparison: Comparison, metric: Metric) -> Markup:
    head = ["Structure", "A", "B", "A minus B", "95 % interval", "A / B better", "p", "p (Holm)"]
    tests = comparison.tests[metric.key]
    rows = [_row(comparison, metric, index, test) for index, test in enumerate(tests)]
    uncompared = sum(test.not_compared for test in tests)
    one_sided = sum(test.only_one for test in tests)
    intro = ""
    if uncompared:
        intro = (
            f"{uncompared} pairs are not compared, because a structure is empty; in {one_sided} of "
            "them one prediction has voxels of a structure that neither the reference nor the "
            "other one has."
        )
    return html_page.section(metric.title, intro, html_page.table(head, rows))


def _row(comparison: Comparison, metric: Metric, index: int, test: PairedTest) -> list[Content]:
    means = [
        number(one.summaries[metric.key].structures[index].mean, metric)
        for one in (comparison.first, comparison.second)
    ]
    return [
        comparison.structures[index].name,
        *means,
        _judged(test, metric),
        _signed_interval(test, metric) or "-",
        f"{test.a_better} / {test.b_better} of {test.compared}",
        p_text(test.p_value),
        p_text(test.p_holm),
    ]


def _judged(test: PairedTest, metric: Metric) -> Content:
    """The mean difference, coloured where its interval leaves out 0."""
    text = signed(test.mean_difference, metric)
    low, high = test.interval_95
    if isnan(low) or low <= 0 <= high:
        return text
    better = (low > 0) == metric.higher_is_better
    return tag("span", text, class_="better" if better else "worse")


def _signed_interval(test: PairedTest, metric: Metric) -> str:
    low, high = test.interval_95
    return "" if isnan(low) else f"{signed(low, metric)} to {signed(high, metric)}"


def _cases(comparison: Comparison) -> Markup:
    metric = comparison.metrics[0]
    first, second = (
        nanmean(one.values(metric), 1) for one in (comparison.first, comparison.second)
    )
    differences = nanmean(comparison.differences(metric), 1)
    order = sorted(range(len(first)), key=lambda i: (isnan(differences[i]), differences[i]))
    rows = [
        [
            comparison.first.cases[index].name,
            number(float(first[index]), metric),
            number(float(second[index]), metric),
            signed(float(differences[index]), metric),
        ]
        for index in order
    ]
    return html_page.section(
        "All cases",
        f"{metric.title}, mean over each case's structures; where B gains most comes first.",
        html_page.table(["Case", "A", "B", "A minus B"], rows),
    )

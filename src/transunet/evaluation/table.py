"""An evaluation as tables for a terminal; whoever calls prints them."""

from collections.abc import Callable, Iterator, Sequence
from math import isnan

from rich.table import Table
from rich.text import Text

from transunet.evaluation.bootstrap import Interval
from transunet.evaluation.comparison import Comparison, PairedTest
from transunet.evaluation.records import CaseRecord, Evaluation, Metric, MetricSummary, Structure

_COLUMNS = 8
"""Structures side by side before a further table is begun."""
_ROWS = 60
"""Cases shown on the terminal, the worst first; files hold all of them."""


def cases_tables(evaluation: Evaluation) -> Iterator[Table]:
    """Yield tables of the first metric (Dice) per case and structure, the worst case first."""
    metric = evaluation.metrics[0]
    ranked = [case for case, _ in evaluation.ranked()]
    indices = range(len(evaluation.structures))
    for start in indices[::_COLUMNS]:
        group = indices[start : start + _COLUMNS]
        yield _cases_table(evaluation, metric, ranked[:_ROWS], group)


def summary_table(evaluation: Evaluation) -> Table:
    """Mean, standard deviation and interval of every metric, structure by structure."""
    table = Table(title="Over all cases")
    table.add_column("structure", overflow="fold")
    for title in ("metric", "counted", "mean", "SD", "95 % interval of the mean"):
        table.add_column(title, justify="left" if title == "metric" else "right")
    for index, structure in enumerate(evaluation.structures):
        name = Text(structure.name)  # brackets in a name are no markup
        for metric in evaluation.metrics:
            summary = evaluation.summaries[metric.key].structures[index]
            counted = f"{summary.counted} of {len(evaluation.cases)}"
            figures = number(summary.mean, metric), number(summary.sd, metric)
            ends = interval(summary.interval_95, metric) or "-"
            table.add_row(name, metric.title, counted, *figures, ends)
            name = Text()
        table.add_section()
    return table


def closing_line(evaluation: Evaluation) -> str:
    """Return the line `mean foreground Dice 0.xxx`."""
    mean = evaluation.summaries[evaluation.metrics[0].key].mean_foreground
    label = " (official convention)" if evaluation.convention == "official" else ""
    return f"mean foreground Dice {number(mean, evaluation.metrics[0])}{label}"


def number(value: float, metric: Metric) -> str:
    """A figure as text: shares with three decimals, distances with two, a dash for none."""
    if isnan(value):
        return "-"
    return f"{value:.2f}" if metric.field in ("hd95", "assd") else f"{value:.3f}"


def interval(ends: Interval, metric: Metric, text: Callable[[float, Metric], str] = number) -> str:
    """An interval as text, empty where there is none."""
    low, high = (text(end, metric) for end in ends)
    return "" if isnan(ends[0]) else f"{low} to {high}"


def comparison_table(comparison: Comparison, metric: Metric) -> Table:
    """Mean difference, interval and paired test of one metric per structure."""
    table = Table(title=f"{metric.title}: A minus B, case by case")
    table.add_column("structure", overflow="fold")
    for title in ("A", "B", "A - B [95 % interval]", "A/B better", "p (Holm)"):
        table.add_column(title, justify="right", no_wrap=True)
    for index, test in enumerate(comparison.tests[metric.key]):
        means = [one.structures[index].mean for one in _sides(comparison, metric)]
        name = Text(comparison.structures[index].name)
        table.add_row(name, *_test_cells(means, test, test.p_holm, metric))
    table.add_section()
    means = [one.mean_foreground for one in _sides(comparison, metric)]
    overall = comparison.overall[metric.key]
    cells = _test_cells(means, overall, overall.p_value, metric)
    table.add_row("mean of structures", *cells, style="bold")
    return table


def signed(value: float, metric: Metric) -> str:
    """A difference as text, with its sign."""
    text = number(abs(value), metric)
    if isnan(value) or not float(text):
        return text  # what rounds to nothing has no sign
    return f"-{text}" if value < 0 else f"+{text}"


def p_text(value: float) -> str:
    """A p value as text."""
    if isnan(value):
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _sides(comparison: Comparison, metric: Metric) -> list[MetricSummary]:
    return [one.summaries[metric.key] for one in (comparison.first, comparison.second)]


def _test_cells(
    means: Sequence[float], test: PairedTest, p_value: float, metric: Metric
) -> list[str]:
    low, high = (signed(end, metric) for end in test.interval_95)
    interval = "" if isnan(test.interval_95[0]) else f" [{low}, {high}]"
    return [
        *(number(mean, metric) for mean in means),
        signed(test.mean_difference, metric) + interval,
        f"{test.a_better}/{test.b_better}",
        p_text(p_value),
    ]


def _cases_table(
    evaluation: Evaluation, metric: Metric, cases: Sequence[CaseRecord], group: Sequence[int]
) -> Table:
    structures = [evaluation.structures[index] for index in group]
    table = Table(title=f"{metric.title} per case and structure, the worst case first")
    table.add_column("case", overflow="fold")
    for structure in structures:
        table.add_column(Text(structure.name), justify="right", overflow="fold")
    for case in cases:
        table.add_row(Text(case.name), *_figures(case, structures, metric))
    left = len(evaluation.cases) - len(cases)
    table.add_section()
    if left:
        table.add_row(f"… {left} better cases", *("…" for _ in structures))
        table.add_section()
    found = evaluation.summaries[metric.key].structures
    table.add_row("mean", *(number(found[index].mean, metric) for index in group), style="bold")
    return table


def _figures(case: CaseRecord, structures: Sequence[Structure], metric: Metric) -> list[str]:
    return [number(getattr(case.metrics[one.key], metric.field), metric) for one in structures]

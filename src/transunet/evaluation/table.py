"""Figures as text, and an evaluation as tables for a terminal (the caller prints them)."""

from collections.abc import Callable, Iterator, Sequence
from math import isnan

from rich.table import Table
from rich.text import Text

from transunet.evaluation.audit import Audit, AuditedStructure
from transunet.evaluation.bootstrap import Interval
from transunet.evaluation.comparison import PairedComparison
from transunet.evaluation.groups import GroupedEvaluation
from transunet.evaluation.records import METRICS, Evaluation, Metric

AUDIT_COLUMNS = (
    *("authors' Dice", "our Dice", "nnU-Net v2's Dice"),
    *("authors' HD95 (voxels)", "our HD95 (mm)"),
)
_COLUMNS = 8
"""Structures side by side before a further table is begun."""
_ROWS = 60
"""Cases shown on the terminal, the worst first; files hold all of them."""


def cases_tables(evaluation: Evaluation) -> Iterator[Table]:
    """Yield tables of the first metric (Dice) per case and structure, the worst case first."""
    metric = evaluation.metrics[0]
    summaries = evaluation.summaries[metric.key].structures
    cases = [case for case, _ in evaluation.ranked()]
    columns = list(zip(evaluation.structures, summaries, strict=True))
    for start in range(0, len(columns), _COLUMNS):
        group = columns[start : start + _COLUMNS]
        table = Table(title=f"{metric.title} per case and structure, the worst case first")
        table.add_column("case", overflow="fold")
        for structure, _ in group:
            table.add_column(Text(structure.name), justify="right", overflow="fold")
        for case in cases[:_ROWS]:
            figures = [getattr(case.metrics[s.key], metric.field) for s, _ in group]
            table.add_row(Text(case.name), *(number(figure, metric) for figure in figures))
        table.add_section()
        if cases[_ROWS:]:
            table.add_row(f"… {len(cases) - _ROWS} better cases", *("…" for _ in group))
            table.add_section()
        table.add_row("mean", *(number(s.mean, metric) for _, s in group), style="bold")
        yield table


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


def audit_table(audit: Audit) -> Table:
    """Mean Dice and HD95 of each structure by three conventions."""
    table = Table(title="The same label maps by three conventions, means over the cases")
    table.add_column("structure", overflow="fold")
    for title in AUDIT_COLUMNS:
        table.add_column(title, justify="right")
    for row in audit.structures:
        if row is audit.structures[-1]:
            table.add_section()
        table.add_row(Text(row.name), *audit_figures(row))
    return table


def audit_figures(row: AuditedStructure) -> list[str]:
    """The figures of `AUDIT_COLUMNS` as text."""
    dice, hd95 = _dice_and_hd95(METRICS["honest"])
    return [
        *(number(value, dice) for value in (row.dice_authors, row.dice_ours, row.dice_nnunet)),
        *(number(value, hd95) for value in (row.hd95_authors_voxels, row.hd95_ours_mm)),
    ]


def groups_table(grouped: GroupedEvaluation, evaluation: Evaluation) -> Table:
    """Mean Dice and HD95 over the structures of each group; the page and JSON have all metrics."""
    dice, hd95 = _dice_and_hd95(evaluation.metrics)
    table = Table(title="Group by group, means of the structures")
    for title in ("by", "group"):
        table.add_column(title, overflow="fold")
    for title in ("subjects", "cases", dice.title, "95 % interval", hd95.title):
        table.add_column(title, justify="right")
    for grouping in grouped.groupings:
        by = Text(grouping.column)
        for group in grouping.groups:
            summary = group.metrics[dice.key]
            table.add_row(
                by,
                Text(group.name),
                *(str(group.subjects), str(len(group.cases))),
                number(summary.mean_foreground, dice),
                interval(summary.interval_95, dice) if group.is_enough else "too few",
                number(group.metrics[hd95.key].mean_foreground, hd95),
            )
            by = Text()
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


def comparison_table(comparison: PairedComparison, metric: Metric) -> Table:
    """Mean difference, interval and paired test of one metric per structure."""
    table = Table(title=f"{metric.title}: A minus B, case by case")
    table.add_column("structure", overflow="fold")
    for title in ("A", "B", "A - B [95 % interval]", "A/B better", "p (Holm)"):
        table.add_column(title, justify="right", no_wrap=True)
    first, second = (side.summaries[metric.key] for side in (comparison.first, comparison.second))
    overall = comparison.overall[metric.key]
    rows = [
        (structure.name, a.mean, b.mean, test, test.p_holm)
        for structure, a, b, test in zip(
            comparison.structures,
            first.structures,
            second.structures,
            comparison.tests[metric.key],
            strict=True,
        )
    ]
    whole = first.mean_foreground, second.mean_foreground, overall, overall.p_value
    for name, a, b, test, p in (*rows, ("mean of structures", *whole)):
        ends = interval(test.interval_95, metric, signed).replace(" to ", ", ")
        if test is overall:
            table.add_section()
        table.add_row(
            Text(name),
            number(a, metric),
            number(b, metric),
            signed(test.mean_difference, metric) + (f" [{ends}]" if ends else ""),
            f"{test.a_better}/{test.b_better}",
            p_text(p),
            style="bold" if test is overall else "",
        )
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


def _dice_and_hd95(metrics: Sequence[Metric]) -> tuple[Metric, Metric]:
    """Of a convention's metrics the two that short tables have."""
    dice, hd95 = (next(m for m in metrics if m.field == field) for field in ("dice", "hd95"))
    return dice, hd95

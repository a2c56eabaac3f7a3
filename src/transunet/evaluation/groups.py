"""The same figures group by group: by sex, age, scanner, site, or whatever a table of cases tells.

The table is CSV or TSV (BIDS' participants.tsv is one): a row per case, its name first, then one
column per grouping.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np

from transunet.data.text import some, text_of
from transunet.errors import ConfigError, DataError
from transunet.evaluation.bootstrap import Interval, difference_interval, summarise
from transunet.evaluation.records import Evaluation, MetricSummary

ENOUGH = 10
"""Subjects below which nothing is said of a group."""
BINS = 3
"""Into so many equally full ones a column of numbers is cut."""
_MOST_NUMBERS = 5
"""A column of more different numbers than these is cut."""
_UNKNOWN = frozenset({"", "n/a", "na", "nan"})
"""What stands where a value is not known, in small letters."""

POLICY = (
    "A subject is a line of the table; intervals draw subjects anew, each with all its cases. Of a "
    f"group of fewer than {ENOUGH} subjects the mean is shown, and nothing is concluded. The worst "
    "group is the one of lowest mean Dice; since it was picked as the worst, chance has a part in "
    "its distance, which the interval does not know."
)


@dataclass(frozen=True)
class GroupTable:
    """What a file tells of cases."""

    source: Path
    columns: tuple[str, ...]
    rows: Mapping[str, Sequence[str]]
    """Case -> its value in each column."""


@dataclass(frozen=True)
class GroupSummary:
    """The figures of one group's cases."""

    name: str
    cases: tuple[str, ...]
    subjects: int
    """Lines of the table that its cases belong to."""
    metrics: Mapping[str, MetricSummary]
    """Per metric key."""

    @property
    def is_enough(self) -> bool:
        """Whether it has subjects enough to say something."""
        return self.subjects >= ENOUGH


@dataclass(frozen=True)
class WorstGroup:
    """The group of lowest mean Dice among those with subjects enough."""

    name: str
    difference: float
    """Its mean foreground Dice minus that of all other cases."""
    interval_95: Interval


@dataclass(frozen=True)
class Grouping:
    """One column of the table."""

    column: str
    groups: tuple[GroupSummary, ...]
    is_cut: bool
    """Whether its numbers were cut into bins of about as many cases each."""
    unknown: tuple[str, ...]
    """The cases of which it tells nothing; they are in no group."""
    worst: WorstGroup | None
    """None where fewer than two groups have subjects enough."""

    @property
    def text(self) -> str:
        """What the groups say, and what is to be known of how they were made."""
        told = []
        if self.worst is None:
            told.append(
                f"{self.column}: too few to tell, since fewer than two groups have {ENOUGH} "
                "subjects."
            )
        else:
            low, high = self.worst.interval_95
            told.append(
                f"{self.column}: worst is {self.worst.name}, Dice {self.worst.difference:+.3f} "
                f"[{low:+.3f}, {high:+.3f}] against all others."
            )
        if self.is_cut:
            told.append("Its numbers are cut into bins of about as many cases each.")
        if self.unknown:
            told.append(f"Without a value ({len(self.unknown)}): {some(self.unknown)}.")
        return " ".join(told)


@dataclass(frozen=True)
class GroupedEvaluation:
    """An evaluation by every column of a table."""

    source: str
    groupings: tuple[Grouping, ...]
    not_listed: tuple[str, ...]
    """Measured cases that the table does not know."""
    not_measured: tuple[str, ...]
    """The table's cases that were not measured."""

    @property
    def sentences(self) -> Sequence[str]:
        """What each grouping says, and which cases are on one side only."""
        told = [grouping.text for grouping in self.groupings]
        for what, cases in (
            ("Measured, but not", self.not_listed),
            ("Not measured, but", self.not_measured),
        ):
            if cases:
                told.append(f"{what} in {self.source} ({len(cases)}): {some(cases)}.")
        return told


def read_group_table(path: Path) -> GroupTable:
    """Read CSV or TSV: a header, then a row per case.

    Raises:
        ConfigError: when there is no such file.
        DataError: when it is no such table.
    """
    if not path.is_file():
        raise ConfigError(f"There is no table of groups at {path}. Check the path.")
    expected = (
        "Expected CSV or TSV with a header: the case first, then one column per grouping, such as "
        "case,sex,site."
    )
    try:
        lines = text_of(path).splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}). {expected}") from None
    delimiter = max("\t;,", key=lines[0].count) if lines else ","
    header, *rows = [*csv.reader(lines, delimiter=delimiter)] or [[]]
    if len(header) < 2:
        raise DataError(f"{path}: its first line is {lines[:1]!r:.100}. {expected}")
    table: dict[str, Sequence[str]] = {}
    for number, row in enumerate(rows, start=2):
        if not any(row):
            continue
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {number}: it has {len(row)} values, the first line "
                f"{len(header)} ({', '.join(header)}). Give every case all values; n/a for one "
                "that is not known."
            )
        case, *values = (value.strip() for value in row)
        if case in table:
            raise DataError(f"{path}, line {number}: {case} comes twice. Keep one of the lines.")
        table[case] = values
    return GroupTable(path, tuple(name.strip() for name in header[1:]), table)


def group_evaluation(evaluation: Evaluation, table: GroupTable) -> GroupedEvaluation:
    """Summarise an evaluation group by group.

    A case belongs to the row of its name, or of the longest name that its own begins with before a
    separator: `sub-01_T1w` to `sub-01`.

    Args:
        evaluation: of any convention.
        table: from `read_group_table`.

    Raises:
        DataError: when it has none of the cases.
    """
    names = [case.name for case in evaluation.cases]
    rows = {name: row for name in names if (row := _row_of(name, table.rows)) is not None}
    if not rows:
        raise DataError(
            f"{table.source}: none of the measured cases is in its first column. It has "
            f"{some(list(table.rows))}; measured are {some(names)}. Name the cases alike."
        )
    groupings = []
    for number, column in enumerate(table.columns):
        values = {name: table.rows[row][number] for name, row in rows.items()}
        groupings.append(_grouped(evaluation, column, values, rows))
    return GroupedEvaluation(
        source=str(table.source),
        groupings=tuple(groupings),
        not_listed=tuple(name for name in names if name not in rows),
        not_measured=tuple(row for row in table.rows if row not in rows.values()),
    )


def _row_of(case: str, table: Mapping[str, object]) -> str | None:
    """Return the name in the table that stands for a case, if one does."""
    if case in table:
        return case
    begun = [n for n in table if n and case.startswith(n) and not case[len(n)].isalnum()]
    return max(begun, key=len, default=None)


def _grouped(
    evaluation: Evaluation, column: str, values: Mapping[str, str], subjects: Mapping[str, str]
) -> Grouping:
    known = {case: value for case, value in values.items() if value.lower() not in _UNKNOWN}
    numbers = _numbers(known)
    is_cut = numbers is not None and len(set(numbers.values())) > _MOST_NUMBERS
    members: dict[str, list[str]] = {}
    if numbers is not None and is_cut:
        members = _bins(numbers)
    else:
        for case in sorted(known, key=(numbers or known).__getitem__):
            members.setdefault(known[case], []).append(case)
    groups = tuple(
        GroupSummary(
            name,
            tuple(cases),
            len({subjects[case] for case in cases}),
            {
                metric.key: MetricSummary(
                    *summarise(evaluation.values_of(metric, cases), [subjects[c] for c in cases])
                )
                for metric in evaluation.metrics
            },
        )
        for name, cases in members.items()
    )
    return Grouping(
        column=column,
        groups=groups,
        is_cut=is_cut,
        unknown=tuple(case for case in values if case not in known),
        worst=_worst(evaluation, groups, subjects),
    )


def _numbers(values: Mapping[str, str]) -> dict[str, float] | None:
    """The values as numbers, if all are."""
    try:
        numbers = {case: float(value) for case, value in values.items()}
    except ValueError:
        return None
    return numbers if numbers and all(map(isfinite, numbers.values())) else None


def _bins(numbers: Mapping[str, float]) -> dict[str, list[str]]:
    """Cut at the quantiles; a bin is called after the least and the most in it."""
    edges = np.quantile(list(numbers.values()), np.arange(1, BINS) / BINS)
    cases: dict[int, list[str]] = {}
    for case in sorted(numbers, key=numbers.__getitem__):
        cases.setdefault(int(np.searchsorted(edges, numbers[case])), []).append(case)
    return {f"{numbers[each[0]]:g} to {numbers[each[-1]]:g}": each for each in cases.values()}


def _worst(
    evaluation: Evaluation, groups: Sequence[GroupSummary], subjects: Mapping[str, str]
) -> WorstGroup | None:
    metric = evaluation.metrics[0]
    means = {
        group.name: mean
        for group in groups
        if group.is_enough and isfinite(mean := group.metrics[metric.key].mean_foreground)
    }
    if len(means) < 2:
        return None
    name = min(means, key=means.__getitem__)
    worst, others = (
        [case for group in groups if (group.name == name) is own for case in group.cases]
        for own in (True, False)
    )
    samples = (
        (evaluation.values_of(metric, cases), [subjects[case] for case in cases])
        for cases in (worst, others)
    )
    return WorstGroup(name, *difference_interval(*samples))

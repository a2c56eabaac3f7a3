"""Two predictions of the same cases, compared case by case against one reference."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from transunet.errors import DataError
from transunet.evaluation.bootstrap import Interval, Values, bootstrap_interval, nanmean
from transunet.evaluation.records import Evaluation, Metric, Structure
from transunet.evaluation.report import FORMAT_VERSION, identity, plain, plain_fields, provenance
from transunet.files import atomic_path

TEST = (
    "Differences are A minus B, case by case, where both have a value. p: two-sided Wilcoxon "
    "signed-rank test, cases without a difference left out; p (Holm): the same, corrected for "
    "testing several structures. With fewer than six differing cases p cannot fall below 0.05."
)


@dataclass(frozen=True)
class PairedTest:
    """One metric of one structure: does A differ from B?"""

    compared: int
    """Cases in which both have a value."""
    not_compared: int
    only_one: int
    """Of those not compared: one of A and B has a value (it found what the reference has not)."""
    a_better: int
    b_better: int
    mean_difference: float
    """Mean of A minus B."""
    interval_95: Interval
    p_value: float
    p_holm: float = nan


@dataclass(frozen=True)
class PairedComparison:
    """Two evaluations of the same cases, structures and settings.

    Raises:
        DataError: when they are not of the same cases.
    """

    first: Evaluation
    second: Evaluation

    def __post_init__(self) -> None:
        first, second = ({case.name for case in side.cases} for side in (self.first, self.second))
        if first != second:
            raise DataError(
                f"{self.first.predictions} and {self.second.predictions} are not predictions of "
                f"the same cases: {', '.join(sorted(first ^ second)[:8])} are in only one of them."
            )

    @property
    def structures(self) -> tuple[Structure, ...]:
        """What both measured."""
        return self.first.structures

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What both report."""
        return self.first.metrics

    def differences(self, metric: Metric) -> Values:
        """A minus B as (cases, structures), NaN where either has no value."""
        return self.first.values(metric) - self.second.values(metric)

    @cached_property
    def tests(self) -> Mapping[str, Sequence[PairedTest]]:
        """Per metric key, one test per structure."""
        tests = {}
        for metric in self.metrics:
            columns = zip(self.first.values(metric).T, self.second.values(metric).T, strict=True)
            tests[metric.key] = holm(
                [paired_test(a, b, metric.higher_is_better) for a, b in columns]
            )
        return tests

    @cached_property
    def overall(self) -> Mapping[str, PairedTest]:
        """Per metric key, a test of each case's mean over the structures that both have."""
        tests = {}
        for metric in self.metrics:
            sides = self.first.values(metric), self.second.values(metric)
            both = np.isfinite(sides[0]) & np.isfinite(sides[1])
            a, b = (nanmean(np.where(both, values, nan), 1) for values in sides)
            tests[metric.key] = paired_test(a, b, metric.higher_is_better)
        return tests


def paired_test(first: Values, second: Values, higher_is_better: bool) -> PairedTest:
    """Compare two 1-D arrays of the same cases, NaN where a case has no value."""
    from scipy import stats  # takes half a second to import, which a plain evaluation is spared

    differences = first - second
    compared = differences[np.isfinite(differences)]
    gains = compared if higher_is_better else -compared
    changed = compared[compared != 0]
    p_value = float(stats.wilcoxon(changed).pvalue) if changed.size else 1.0
    return PairedTest(
        compared=int(compared.size),
        not_compared=int(differences.size - compared.size),
        only_one=int(np.count_nonzero(np.isfinite(first) != np.isfinite(second))),
        a_better=int(np.count_nonzero(gains > 0)),
        b_better=int(np.count_nonzero(gains < 0)),
        mean_difference=float(compared.mean()) if compared.size else nan,
        interval_95=bootstrap_interval(compared),
        p_value=p_value if compared.size else nan,
    )


def holm(tests: Sequence[PairedTest]) -> list[PairedTest]:
    """Fill in `p_holm`: Holm's step-down correction over the tests that have a p value."""
    order = [i for i in np.argsort([test.p_value for test in tests]) if tests[i].p_value >= 0]
    corrected = {}
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min((len(order) - rank) * tests[index].p_value, 1.0))
        corrected[index] = highest
    return [replace(test, p_holm=corrected.get(i, nan)) for i, test in enumerate(tests)]


def to_json(comparison: PairedComparison) -> dict[str, Any]:
    """Everything a comparison found, ready for `json.dumps`; NaN is None."""
    about = provenance(comparison.first)
    del about["predictions"]
    return {
        "kind": "comparison",
        "format_version": FORMAT_VERSION,
        "a": comparison.first.predictions,
        "b": comparison.second.predictions,
        **about,
        "test": TEST,
        "mean_of_structures": {k: plain_fields(test) for k, test in comparison.overall.items()},
        "structures": [
            identity(structure)
            | {m.key: plain_fields(comparison.tests[m.key][i]) for m in comparison.metrics}
            for i, structure in enumerate(comparison.structures)
        ],
        "cases": [
            {"name": name, "structure": structure} | figures
            for name, structure, figures in _rows(comparison)
        ],
    }


def write_csv(comparison: PairedComparison, path: Path) -> None:
    """Write A's and B's figures of each case and structure side by side.

    Raises:
        ConfigError: when the folder cannot be written to.
    """
    keys = [f"{metric.key}_{side}" for metric in comparison.metrics for side in "ab"]
    with atomic_path(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "structure", "convention", *keys])
        for name, structure, figures in _rows(comparison):
            writer.writerow([name, structure, comparison.first.convention, *figures.values()])


def _rows(comparison: PairedComparison) -> Iterator[tuple[str, str, dict[str, float | None]]]:
    """Case, structure, and both sides' figures by their names in files."""
    for first, second in zip(comparison.first.cases, comparison.second.cases, strict=True):
        for structure in comparison.structures:
            yield (
                first.name,
                structure.name,
                {
                    f"{metric.key}_{side}": plain(
                        getattr(case.metrics[structure.key], metric.field)
                    )
                    for metric in comparison.metrics
                    for side, case in (("a", first), ("b", second))
                },
            )

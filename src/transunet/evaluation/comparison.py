"""Two predictions of the same cases, compared case by case against one reference."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from transunet.errors import DataError
from transunet.evaluation.bootstrap import Interval, Values, bootstrap_interval, nanmean
from transunet.evaluation.records import Evaluation, Metric, Structure, value_or_none
from transunet.evaluation.report import FORMAT_VERSION, plain, provenance
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
class Comparison:
    """Two evaluations of the same cases, structures and settings.

    Raises:
        DataError: when they are not of the same cases.
    """

    first: Evaluation
    second: Evaluation

    def __post_init__(self) -> None:
        first, second = ({case.name for case in one.cases} for one in (self.first, self.second))
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
        return {m.key: holm([self._test(m, i) for i in self._indices]) for m in self.metrics}

    @cached_property
    def overall(self) -> Mapping[str, PairedTest]:
        """Per metric key, a test of each case's mean over the structures that both have."""
        return {metric.key: self._overall(metric) for metric in self.metrics}

    @property
    def _indices(self) -> range:
        return range(len(self.structures))

    def _test(self, metric: Metric, index: int) -> PairedTest:
        first, second = (one.values(metric)[:, index] for one in (self.first, self.second))
        return paired_test(first, second, metric.higher_is_better)

    def _overall(self, metric: Metric) -> PairedTest:
        first, second = self.first.values(metric), self.second.values(metric)
        both = np.isfinite(first) & np.isfinite(second)
        a, b = (nanmean(np.where(both, values, nan), 1) for values in (first, second))
        return paired_test(a, b, metric.higher_is_better)


def paired_test(first: Values, second: Values, higher_is_better: bool) -> PairedTest:
    """Compare two 1-D arrays of the same cases, NaN where a case has no value."""
    differences = first - second
    kept = differences[np.isfinite(differences)]
    gains = kept if higher_is_better else -kept
    return PairedTest(
        compared=int(kept.size),
        not_compared=int(differences.size - kept.size),
        only_one=int(np.count_nonzero(np.isfinite(first) != np.isfinite(second))),
        a_better=int(np.count_nonzero(gains > 0)),
        b_better=int(np.count_nonzero(gains < 0)),
        mean_difference=float(kept.mean()) if kept.size else nan,
        interval_95=bootstrap_interval(kept),
        p_value=_wilcoxon(kept),
    )


def holm(tests: Sequence[PairedTest]) -> list[PairedTest]:
    """Fill in `p_holm`: Holm's step-down correction over the tests that have a p value."""
    order = [i for i in np.argsort([test.p_value for test in tests]) if tests[i].p_value >= 0]
    corrected = {}
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min((len(order) - rank) * tests[index].p_value, 1.0))
        corrected[index] = highest
    return [
        PairedTest(**{**asdict(test), "p_holm": corrected.get(index, nan)})
        for index, test in enumerate(tests)
    ]


def to_json(comparison: Comparison) -> dict[str, Any]:
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
        "mean_of_structures": {key: _plain_test(one) for key, one in comparison.overall.items()},
        "structures": [
            {"labels": list(structure.values), "name": structure.name}
            | {m.key: _plain_test(comparison.tests[m.key][i]) for m in comparison.metrics}
            for i, structure in enumerate(comparison.structures)
        ],
        "cases": [
            {"name": name, "structure": structure} | figures
            for name, structure, figures in _rows(comparison)
        ],
    }


def write_csv(comparison: Comparison, path: Path) -> None:
    """Write A's and B's figures of each case and structure side by side.

    Raises:
        ConfigError: when the folder cannot be written to.
    """
    keys = [f"{metric.key}_{side}" for metric in comparison.metrics for side in "ab"]
    with atomic_path(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "structure", "convention", *keys])
        for name, structure, figures in _rows(comparison):
            row = [name, structure, comparison.first.convention]
            writer.writerow([*row, *(figures[key] for key in keys)])


def _rows(comparison: Comparison) -> list[tuple[str, str, dict[str, float | None]]]:
    found = []
    for first, second in zip(comparison.first.cases, comparison.second.cases, strict=True):
        for structure in comparison.structures:
            figures = {
                f"{metric.key}_{side}": value_or_none(
                    getattr(case.metrics[structure.key], metric.field)
                )
                for metric in comparison.metrics
                for side, case in (("a", first), ("b", second))
            }
            found.append((first.name, structure.name, figures))
    return found


def _plain_test(test: PairedTest) -> dict[str, Any]:
    return {key: plain(value) for key, value in asdict(test).items()}


def _wilcoxon(differences: Values) -> float:
    from scipy import stats  # takes half a second to import, which a plain evaluation is spared

    changed = differences[differences != 0]
    if not differences.size:
        return nan
    return float(stats.wilcoxon(changed).pvalue) if changed.size else 1.0

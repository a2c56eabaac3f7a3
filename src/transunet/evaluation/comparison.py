"""Two predictions of the same cases, compared case by case against one reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import nan

import numpy as np

from transunet.errors import DataError
from transunet.evaluation.bootstrap import Interval, Values, bootstrap_interval, nanmean
from transunet.evaluation.records import Evaluation, Metric, Structure

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

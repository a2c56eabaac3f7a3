"""What many cases say together: means with their uncertainty, and whether two models differ.

Values come as one array (cases, classes) with NaN where a case does not count for a class. A mean
is taken over cases first, then over classes, so that a class that few cases have weighs as much as
the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

AGGREGATION = (
    "Mean foreground values are the mean over classes of each class's mean over cases; what is not "
    "counted is left out of both."
)
INTERVAL = (
    "95 % intervals are percentiles of 10,000 bootstrap resamples of the cases (fixed seed); with "
    "fewer than about ten cases they are too narrow."
)
_RESAMPLES = 10_000
_SEED = 1234
_INTERVAL = (2.5, 97.5)
_CHUNK = 1_000  # resamples at a time: bounds the memory for thousands of cases

Interval = tuple[float, float]


@dataclass(frozen=True)
class StructureSummary:
    """One metric of one class over all cases. NaN where too few cases count."""

    counted: int
    not_counted: int
    mean: float
    sd: float
    """Standard deviation over the counted cases, n - 1 in the denominator."""
    median: float
    interval_95: Interval
    """Bootstrap interval of the mean, over cases."""


def summarise(
    values: Values, subjects: Sequence[str] | None = None
) -> tuple[list[StructureSummary], float, Interval]:
    """Summarise (cases, classes) values.

    Args:
        values: (cases, classes).
        subjects: as of `bootstrap_means`.

    Returns:
        One summary per class, the mean foreground value, and its 95 % interval.
    """
    resampled = bootstrap_means(values, subjects=subjects)
    summaries = []
    for column, means in zip(values.T, resampled.T, strict=True):
        counted = column[np.isfinite(column)]
        summaries.append(
            StructureSummary(
                counted=int(counted.size),
                not_counted=int(column.size - counted.size),
                mean=float(counted.mean()) if counted.size else nan,
                sd=float(counted.std(ddof=1)) if counted.size > 1 else nan,
                median=float(np.median(counted)) if counted.size else nan,
                interval_95=_interval(means, int(counted.size)),
            )
        )
    counting_cases = int(np.isfinite(values).any(axis=1).sum())
    return summaries, mean_foreground(values), _interval(nanmean(resampled, 1), counting_cases)


def mean_foreground(values: Values) -> float:
    """Mean over classes of each class's mean over cases, NaN left out."""
    return float(nanmean(nanmean(values, 0), 0))


def nanmean(values: Values, axis: int) -> Values:
    """`numpy.nanmean` without its warning where everything is NaN."""
    counted = np.isfinite(values)
    totals: Values = np.where(counted, values, 0.0).sum(axis=axis)
    counts = counted.sum(axis=axis)
    return np.where(counts > 0, totals / np.maximum(counts, 1), nan)


def bootstrap_means(
    values: Values,
    resamples: int = _RESAMPLES,
    seed: int = _SEED,
    subjects: Sequence[str] | None = None,
) -> Values:
    """Means over cases, NaN left out, of cases drawn with replacement.

    Args:
        values: (cases, classes).
        resamples: how many times to draw as many cases as there are.
        seed: of the draws; the same seed draws the same cases.
        subjects: whose each case is; a subject is drawn with all its cases. If not given, each case
            is drawn by itself.

    Returns:
        (resamples, classes); NaN where no case that was drawn counts.
    """
    cases, classes = values.shape
    if not cases:
        return np.full((resamples, classes), nan)
    rng = np.random.default_rng(seed)
    counted = np.isfinite(values).astype(np.float64)
    filled = np.where(counted > 0, values, 0.0)
    if subjects is not None:  # sums over a subject's cases are drawn as one
        whose = np.equal.outer(np.unique(subjects), subjects).astype(np.float64)
        counted, filled, cases = whose @ counted, whose @ filled, len(whose)
    means = []
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        # How often each case was drawn: means of resamples become two matrix products.
        drawn = rng.multinomial(cases, np.full(cases, 1 / cases), size=rows).astype(np.float64)
        counts = drawn @ counted
        means.append(np.where(counts > 0, (drawn @ filled) / np.maximum(counts, 1), nan))
    return np.concatenate(means)


def bootstrap_interval(values: Values) -> Interval:
    """95 % interval of the mean of 1-D `values`, NaN left out."""
    counted = values[np.isfinite(values)]
    return _interval(bootstrap_means(counted[:, None])[:, 0], int(counted.size))


def difference_interval(
    first: tuple[Values, Sequence[str]], second: tuple[Values, Sequence[str]]
) -> tuple[float, Interval]:
    """Return how much higher the mean foreground value of `first` is, and its 95 % interval.

    Both are values (cases, classes) and whose each case is, of different subjects, which are drawn
    anew on each side.
    """
    ours, theirs = (
        nanmean(bootstrap_means(values, seed=_SEED + side, subjects=subjects), 1)
        for side, (values, subjects) in enumerate((first, second))
    )
    least = min(len(set(subjects)) for _, subjects in (first, second))
    return mean_foreground(first[0]) - mean_foreground(second[0]), _interval(ours - theirs, least)


def _interval(resampled: Values, counted: int) -> Interval:
    """Percentiles of resampled means; of a single case nothing can be said."""
    means = resampled[np.isfinite(resampled)]
    if counted < 2 or not means.size:
        return nan, nan
    low, high = np.percentile(means, _INTERVAL)
    return float(low), float(high)

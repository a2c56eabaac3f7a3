"""Means, spreads and intervals over cases."""

from math import isnan, nan

import numpy as np
import pytest

from transunet.evaluation.bootstrap import (
    bootstrap_interval,
    bootstrap_means,
    mean_foreground,
    nanmean,
    summarise,
)

# Class 0 counts in three cases, class 1 in one, class 2 in none.
VALUES = np.array([[0.5, nan, nan], [0.7, 0.2, nan], [0.9, nan, nan]])


def test_summary_of_each_class():
    (first, second, third), mean, _ = summarise(VALUES)
    assert (first.counted, first.not_counted) == (3, 0)
    assert first.mean == pytest.approx(0.7)
    assert first.sd == pytest.approx(0.2)  # squares 0.04 + 0 + 0.04 over n - 1 = 2
    assert first.median == pytest.approx(0.7)
    assert (second.counted, second.not_counted, second.mean) == (1, 2, pytest.approx(0.2))
    assert isnan(second.sd)
    assert all(isnan(end) for end in second.interval_95)
    assert (third.counted, third.not_counted) == (0, 3)
    assert isnan(third.mean)
    # Over cases first, then over the classes that count: (0.7 + 0.2) / 2, not the mean of all four.
    assert mean == mean_foreground(VALUES) == pytest.approx(0.45)


def test_the_interval_is_that_of_the_mean():
    rng = np.random.default_rng(0)
    values = rng.normal(0.8, 0.1, 200)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std(ddof=1) / np.sqrt(200)
    assert low == pytest.approx(values.mean() - half, abs=0.002)
    assert high == pytest.approx(values.mean() + half, abs=0.002)


@pytest.mark.slow
def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    found = [bootstrap_interval(rng.uniform(size=40)) for _ in range(60)]
    covered = sum(low <= 0.5 <= high for low, high in found)
    assert 50 <= covered <= 60


def test_the_same_seed_gives_the_same_interval():
    assert bootstrap_interval(VALUES[:, 0]) == bootstrap_interval(VALUES[:, 0])
    other = bootstrap_means(VALUES, seed=1)
    assert not np.array_equal(bootstrap_means(VALUES, seed=2)[:, 0], other[:, 0])


def test_cases_are_drawn_jointly_over_classes():
    twice = np.column_stack([VALUES[:, 0], VALUES[:, 0]])
    drawn = bootstrap_means(twice)
    assert np.array_equal(drawn[:, 0], drawn[:, 1])


def test_uncounted_cases_never_enter_a_resample():
    drawn = bootstrap_means(VALUES)[:, 1]
    assert set(np.round(drawn[np.isfinite(drawn)], 9)) == {0.2}
    assert isnan(bootstrap_means(VALUES)[0, 2])


def test_a_single_case_has_no_interval():
    assert all(isnan(end) for end in bootstrap_interval(np.array([0.9, nan])))


def test_identical_cases_have_an_interval_of_one_point():
    assert bootstrap_interval(np.full(5, 0.9)) == pytest.approx((0.9, 0.9))


def test_nanmean_of_nothing_is_nan_without_a_warning():
    assert np.isnan(nanmean(np.full((2, 2), nan), 0)).all()

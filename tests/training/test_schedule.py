import pytest

from golden_figures import facts
from transunet.training.schedule import Budget, poly_rate, rate_at, warm_cosine


def test_the_papers_rates_are_the_references():
    expected = facts()["train"]["learning_rates"]
    assert [poly_rate(step, 10, 0.01) for step in range(10)] == pytest.approx(expected, rel=1e-12)


def test_the_first_two_steps_share_the_base_rate():
    assert poly_rate(0, 100, 0.1) == poly_rate(1, 100, 0.1) == 0.1 > poly_rate(2, 100, 0.1)


def test_warm_cosine_rises_and_falls_to_nothing():
    rates = [warm_cosine(i / 100, 1.0, 0.1) for i in range(101)]
    assert rates[0] == 0
    assert rates[5] == pytest.approx(0.5)
    assert rates[10] == max(rates) == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert warm_cosine(0, 1.0, 0.0) == 1


def test_a_budget_ends_with_whichever_comes_first():
    budget = Budget(steps=100, seconds=60)
    assert budget.progress(50, 6) == 0.5
    assert budget.progress(10, 45) == 0.75
    assert budget.progress(999, 0) == 1
    assert not budget.is_spent(99, 59)
    assert budget.is_spent(100, 0)
    assert budget.is_spent(1, 60)
    assert Budget(None, 60).progress(10**9, 30) == 0.5


def test_the_rate_follows_steps_or_time():
    steps, time = Budget(10), Budget(None, 60)
    assert rate_at("poly", steps, 4, 99.0, 0.01, 0) == poly_rate(4, 10, 0.01)
    assert rate_at("poly", time, 4, 30.0, 1.0, 0) == 0.5**0.9
    rates = [rate_at("cosine", steps, step, 0, 1.0, 0.2) for step in range(10)]
    assert 0 < rates[0] < rates[1] < rates[2] > rates[3] > rates[-1] > 0

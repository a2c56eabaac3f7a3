import pytest

from golden_figures import facts
from transunet.training.schedule import Budget, rate_at


def test_the_papers_rates_are_the_references():
    expected = facts()["train"]["learning_rates"]
    rates = [rate_at("poly", Budget(10), step, 0, 0.01, 0) for step in range(10)]
    assert rates == pytest.approx(expected, rel=1e-12)


def test_the_first_two_steps_share_the_base_rate():
    first, second, third = (rate_at("poly", Budget(100), step, 0, 0.1, 0) for step in range(3))
    assert first == second == 0.1 > third


def test_a_cosine_rises_and_falls_to_nothing():
    # Half a step after each step's number.
    rates = [rate_at("cosine", Budget(1000), step, 0, 1.0, 0.1) for step in range(1000)]
    assert rates[0] == pytest.approx(0.005)
    assert rates[50] == pytest.approx(0.505)
    assert max(rates) == rates[100] == pytest.approx(1, abs=1e-6)
    assert (rates[549] + rates[550]) / 2 == pytest.approx(0.5)
    assert rates[999] == pytest.approx(0, abs=1e-6)
    assert rate_at("cosine", Budget(1000), 0, 0, 1.0, 0.0) == pytest.approx(1, abs=1e-5)


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
    assert rate_at("poly", steps, 4, 99.0, 0.01, 0) == 0.01 * 0.7**0.9
    assert rate_at("poly", time, 4, 30.0, 1.0, 0) == 0.5**0.9
    rates = [rate_at("cosine", steps, step, 0, 1.0, 0.2) for step in range(10)]
    assert 0 < rates[0] < rates[1] < rates[2] > rates[3] > rates[-1] > 0

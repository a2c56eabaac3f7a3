import pytest

from golden_figures import facts
from transunet.training.schedule import poly_rate, warm_cosine


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

"""Two predictions compared: paired tests, their corrections, what is written."""

import csv
import io
import json
from math import isnan, nan

import numpy as np
import pytest
from rich.console import Console

from transunet.errors import DataError
from transunet.evaluation import report
from transunet.evaluation.comparison import PairedComparison, PairedTest, holm, paired_test
from transunet.evaluation.pages import comparison_page
from transunet.evaluation.table import comparison_table

A = [[0.90, 0.80], [0.85, nan], [0.70, 0.60], [0.95, 0.55], [0.60, nan], [0.80, 0.50]]
B = [[0.80, 0.80], [0.80, nan], [0.62, 0.70], [0.90, 0.50], [0.59, 0.00], [0.73, 0.60]]


@pytest.fixture
def compared(evaluation_of):
    return PairedComparison(evaluation_of(A, predictions="A/"), evaluation_of(B, predictions="B/"))


def test_a_paired_test_by_hand():
    # All six differences are positive: of the 2^6 equally likely signs, 2 are this extreme.
    first, second = (np.array(values)[:, 0] for values in (A, B))
    found = paired_test(first, second, higher_is_better=True)
    assert found.mean_difference == pytest.approx((0.1 + 0.05 + 0.08 + 0.05 + 0.01 + 0.07) / 6)
    assert (found.compared, found.a_better, found.b_better) == (6, 6, 0)
    assert found.p_value == pytest.approx(2 / 64)
    low, high = found.interval_95
    assert 0.01 < low < found.mean_difference < high < 0.1


def test_ranks_decide_not_sizes():
    # Differences -1, 2, 3, 4: negative ranks sum to 1. Sums of 0 or 1 and their mirror images arise
    # for 4 of the 16 signs.
    found = paired_test(np.array([0.0, 2, 3, 4]), np.array([1.0, 0, 0, 0]), True)
    assert found.p_value == pytest.approx(4 / 16)


def test_lower_is_better_for_distances():
    found = paired_test(np.array([1.0, 2, 3]), np.array([2.0, 3, 3]), higher_is_better=False)
    assert (found.a_better, found.b_better) == (2, 0)
    assert found.mean_difference == pytest.approx(-2 / 3)


def test_cases_that_only_one_has_are_counted_not_compared():
    found = paired_test(np.array([0.5, nan, nan, 0.7]), np.array([0.4, nan, 0.0, 0.7]), True)
    assert (found.compared, found.not_compared, found.only_one) == (2, 2, 1)


def test_no_difference_and_nothing_to_compare():
    same = paired_test(np.array([0.5, 0.6]), np.array([0.5, 0.6]), True)
    assert same.p_value == 1
    assert same.mean_difference == 0
    nothing = paired_test(np.array([nan]), np.array([0.5]), True)
    assert isnan(nothing.p_value)
    assert isnan(nothing.mean_difference)


def test_holm_steps_down():
    tests = [PairedTest(5, 0, 0, 0, 0, 0.0, (nan, nan), p) for p in (0.04, 0.01, nan, 0.03)]
    corrected = [test.p_holm for test in holm(tests)]
    # Three tests: 0.01 * 3, 0.03 * 2, and 0.04 * 1 raised to the one before it.
    assert corrected[:2] == pytest.approx([0.06, 0.03])
    assert isnan(corrected[2])
    assert corrected[3] == pytest.approx(0.06)


def test_each_structure_and_the_whole_are_tested(compared):
    liver, spleen = compared.tests["dice"]
    assert liver.p_holm == pytest.approx(2 * 2 / 64)
    assert (spleen.compared, spleen.not_compared, spleen.only_one) == (4, 2, 1)
    whole = compared.overall["dice"]
    assert whole.compared == 6
    # The mean of the structures that both have: case 4 is compared by its liver alone.
    means = [(0.1 + 0) / 2, 0.05, (0.08 - 0.1) / 2, (0.05 + 0.05) / 2, 0.01, (0.07 - 0.1) / 2]
    assert whole.mean_difference == pytest.approx(np.mean(means))


def test_other_cases_are_refused(evaluation_of):
    with pytest.raises(DataError, match=r"not predictions of the same cases: case01"):
        PairedComparison(evaluation_of(A[:2]), evaluation_of(A[:1]))


def test_json_is_complete_and_valid(compared):
    found = json.loads(json.dumps(report.comparison_to_json(compared), allow_nan=False))
    assert (found["kind"], found["a"], found["b"]) == ("comparison", "A/", "B/")
    assert "Wilcoxon" in found["test"]
    assert "not counted" in found["policy"]
    liver = found["structures"][0]["dice"]
    assert liver["p_value"] == pytest.approx(2 / 64)
    assert found["mean_of_structures"]["dice"]["p_holm"] is None
    assert found["cases"][3]["dice_a"] is None
    assert found["cases"][9] == found["cases"][9] | {"name": "case04", "dice_a": None, "dice_b": 0}


def test_csv_has_both_side_by_side(compared, tmp_path):
    report.write_comparison_csv(compared, tmp_path / "c.csv")
    with (tmp_path / "c.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert float(rows[0]["dice_a"]) == 0.9
    assert float(rows[0]["hd95_mm_b"]) == pytest.approx(2)


def test_the_table_shows_difference_interval_and_test(compared):
    out = io.StringIO()
    Console(file=out, width=80).print(comparison_table(compared, compared.metrics[0]))
    text = out.getvalue()
    row = next(line for line in text.splitlines() if "liver" in line)
    assert "0.800" in row
    assert "0.740" in row
    assert "+0.060 [+0.0" in row
    assert "6/0" in row
    assert "0.062" in row
    assert max(len(line) for line in text.splitlines()) <= 80


def test_the_page_shows_both_and_escapes(evaluation_of):
    hostile = "<script>"
    found = PairedComparison(
        evaluation_of(A, names=(hostile, "spleen"), predictions=hostile),
        evaluation_of(B, names=(hostile, "spleen"), predictions="B/"),
    )
    content = comparison_page(found)
    assert "<script" not in content
    assert "&lt;script&gt;" in content
    assert "Wilcoxon signed-rank" in content
    assert content.count('<svg class="chart"') == 5
    assert "is empty; in 1 of them one prediction has voxels" in content
    assert "the image&#39;s diagonal" in content


def test_the_official_convention_is_labelled(evaluation_of):
    both = [evaluation_of([[0.5, 0.6], [0.6, 0.7]], convention="official") for _ in range(2)]
    content = comparison_page(PairedComparison(*both))
    assert "Official convention" in content
    assert "Dice (official)" in content
    written = report.comparison_to_json(PairedComparison(*both))
    assert "dice_official" in written["mean_of_structures"]

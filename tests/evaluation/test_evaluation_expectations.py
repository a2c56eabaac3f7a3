"""What was expected of label maps against what is true: figures by hand."""

import csv
import json
from math import isnan, nan
from pathlib import Path

import pytest

from transunet.evaluation import report
from transunet.evaluation.charts import Point, scatter_plot
from transunet.evaluation.expectations import judge_expectations
from transunet.evaluation.pages import report_page


def told(expected: float | None, look: bool, within: float = 0.1, volume=(8, 12)) -> dict:
    figures = {"voxels": 9, "volume_ml": 10.0, "look": look, "volume_interval_ml": volume}
    if expected is not None:
        figures |= {"expected_dice": expected, "expected_within": within}
    return figures


@pytest.fixture
def evaluation(evaluation_of, tmp_path: Path):
    """Three cases, whose references measure 10 ml (case02's spleen nothing), and what was told."""
    statistics = {
        "case00": {"liver": told(0.92, False), "spleen": told(0.75, False)},
        "case01": {"liver": told(0.6, True), "spleen": told(0.65, True, volume=(11, 13))},
        "case02": {"liver": told(None, True), "spleen": told(0.9, False)},
    }
    (tmp_path / "statistics.json").write_text(json.dumps(statistics))
    return evaluation_of([[0.9, 0.6], [0.5, 0.9], [0.0, nan]], predictions=str(tmp_path))


def test_expected_and_true_are_held_against_each_other(evaluation) -> None:
    judged = judge_expectations(evaluation)
    assert judged is not None
    assert len(judged.predictions) == 6
    assert judged.compared == 4  # the missed liver has no expected Dice, the last spleen no true
    assert judged.mean_error == pytest.approx((0.02 + 0.15 + 0.1 + 0.25) / 4)
    assert judged.dice_coverage == pytest.approx(2 / 4)
    assert (judged.bad, judged.bad_flagged) == (3, 2)
    assert (judged.good, judged.good_flagged) == (2, 1)
    assert judged.volume_coverage == pytest.approx(4 / 6)  # one is too large, one is not there
    assert "asked to look at 2; of the 2 others at 1 (50 %)" in judged.sentences[1]


def test_they_stand_in_all_reports(evaluation, tmp_path: Path) -> None:
    judged = judge_expectations(evaluation)
    assert judged is not None
    report.write_csv(evaluation, tmp_path / "metrics.csv", judged)
    rows = [*csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines())]
    assert [row["expected_dice"] for row in rows] == ["0.92", "0.75", "0.6", "0.65", "", "0.9"]
    ends = rows[3]["volume_low_ml"], rows[3]["volume_high_ml"]
    assert (rows[3]["look"], *ends) == ("True", "11.0", "13.0")
    content = json.loads(json.dumps(report.to_json(evaluation, judged=judged), allow_nan=False))
    assert content["expectations"]["mean_error"] == pytest.approx(0.13)
    assert content["expectations"]["bad_below_dice"] == 0.7
    assert content["cases"][0]["structures"][1]["expected_dice"] == 0.75
    page = report_page(evaluation, {}, judged=judged)
    assert "case01 spleen: expected 0.650, true 0.900" in page
    assert page.count('class="dot marked"') == 2


@pytest.mark.parametrize(
    "content",
    [
        *(None, "{", "[]", '{"other": {}}', '{"case00": {"liver": {"voxels": 3}}}'),
        '{"case00": {"liver": {"look": true, "expected_dice": NaN}}}',
    ],
)
def test_nothing_changes_where_nothing_was_expected(evaluation_of, tmp_path: Path, content) -> None:
    if content is not None:
        (tmp_path / "statistics.json").write_text(content)
    evaluation = evaluation_of([[0.9, 0.6]], predictions=str(tmp_path))
    assert judge_expectations(evaluation) is None
    assert "What was expected" not in report_page(evaluation, {})
    assert "expectations" not in report.to_json(evaluation)
    report.write_csv(evaluation, tmp_path / "metrics.csv")
    assert "look" not in (tmp_path / "metrics.csv").read_text()


def test_another_convention_has_another_dice(evaluation_of, evaluation) -> None:
    official = evaluation_of(
        [[0.9, 0.6]], convention="official", predictions=evaluation.predictions
    )
    assert judge_expectations(official) is None


def test_a_structure_that_is_in_neither_counts_neither_way(evaluation) -> None:
    judged = judge_expectations(evaluation)
    assert judged is not None
    assert isnan(judged.predictions[-1].dice)
    assert judged.bad + judged.good == 5


def test_what_is_as_expected_lies_on_the_line() -> None:
    drawing = str(scatter_plot([Point("a <b>", 0.8, 0.8, False), Point("c", 1, 0.5, True)], 0.7))
    assert "a &lt;b&gt;: expected 0.800, true 0.800" in drawing
    assert 'cx="350.0" cy="128.0"' in drawing  # from 0.4 to 1 on 360 pixels from 110 and to 368
    assert '<circle class="dot marked" cx="470.0" cy="308.0"' in drawing

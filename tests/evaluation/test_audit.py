"""The same label maps by the authors' rules, by ours and by nnU-Net's, worked out by hand."""

import json
from math import isnan, nan

import numpy as np
import pytest

from transunet.evaluation.audit import ChosenEpoch, audit_of
from transunet.evaluation.evaluate import EvaluationRequest, audit, evaluate, write_report
from transunet.training.chosen_epoch import chosen_epoch

DIAGONAL = np.sqrt(12**2 + 10**2 + 12**2)  # 12 x 10 x 6 voxels of 1 x 1 x 2 mm


@pytest.fixture
def result(tmp_path, save, blocks):
    """Label 1: two slices off (of 3) in `a`, else right. Label 2: right, missed, invented, none."""
    for name, predicted, real in (("a", 1, 1), ("b", 0, 1), ("c", 1, 0), ("d", 0, 0)):
        reference, prediction = (blocks(second=bool(second)) for second in (real, predicted))
        if name == "a":
            prediction[prediction == 1] = 0
            prediction[1:5, 2:6, 3:6] = 1
        save(tmp_path / "references" / f"{name}.nii.gz", reference)
        save(tmp_path / "predictions" / f"{name}.nii.gz", prediction)
    return evaluate(tmp_path / "predictions", EvaluationRequest(tmp_path / "references"))


def test_means_of_three_conventions(result):
    first, second, mean = audit(result).structures
    shifted = 1 / 3  # one of three slices in common
    assert first.dice_authors == first.dice_ours == first.dice_nnunet
    assert first.dice_ours == pytest.approx((shifted + 3) / 4)
    assert (first.hd95_authors_voxels, first.hd95_ours_mm) == (2 / 4, 4 / 4)  # slices of 2 mm
    assert second.dice_authors == (1 + 0 + 1 + 0) / 4
    assert second.dice_ours == second.dice_nnunet == pytest.approx(1 / 3)
    assert second.hd95_authors_voxels == 0
    assert second.hd95_ours_mm == pytest.approx(2 * DIAGONAL / 3)
    assert mean.dice_authors == pytest.approx((first.dice_authors + 0.5) / 2)
    assert mean.dice_nnunet == pytest.approx(mean.dice_ours)


def test_rules_make_up_the_whole_difference_between_the_means(result):
    found = audit(result)
    invented, missed, absent = found.rules
    assert [rule.count for rule in found.rules] == [1, 1, 1]
    assert invented.dice == pytest.approx(1 / 8)  # one of four cases, of one of two structures
    assert missed.dice == 0
    assert absent.dice == pytest.approx((0.25 - 1 / 3) / 2)
    assert invented.hd95_mm == missed.hd95_mm == pytest.approx(-DIAGONAL / 8)
    mean = found.structures[-1]
    assert sum(rule.dice for rule in found.rules) == pytest.approx(
        mean.dice_authors - mean.dice_ours
    )
    voxels, mm = found.hd95_of_both
    assert (voxels, mm) == (0.25, 0.5)
    assert sum(rule.hd95_mm for rule in found.rules) == pytest.approx(mm - mean.hd95_ours_mm)
    text = "\n".join(found.sentences)
    assert "0.125 of the authors' mean Dice of 0.667 comes from false positives on" in text
    assert "(1 of 8) that count as 1" in text
    assert "HD95 is 0.25 voxels, 0.50 mm" in text
    assert "not known" in text


def test_nnunets_mean_is_none_where_a_structure_is_nowhere(evaluation_of):
    ours = evaluation_of([[0.5, nan], [0.7, nan]])
    found = audit_of(ours, evaluation_of([[0.5, 0.0], [0.7, 0.0]], convention="official"))
    mean = found.structures[-1]
    assert isnan(mean.dice_nnunet)
    assert (mean.dice_ours, mean.dice_authors) == (pytest.approx(0.6), pytest.approx(0.3))


def test_the_audit_is_in_json_and_page(result, tmp_path):
    write_report(result, tmp_path / "out", audited=audit(result))
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())["audit"]
    assert written["mean_foreground"]["dice_authors"] == pytest.approx(2 / 3)
    assert [rule["count"] for rule in written["authors_rules"]] == [1, 1, 1]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "by three conventions" in page
    assert "0.125 of the authors&#39; mean Dice" in page


def test_a_log_tells_which_cases_chose_the_epoch(tmp_path):
    entries = [
        {"event": "validation", "step": 1, "mean_dice": 0.5, "best": True, "cases": {"a": {}}},
        {"event": "validation", "step": 2, "mean_dice": 0.8, "best": True, "cases": {"a": {}}},
        {"event": "validation", "step": 3, "mean_dice": 0.7, "best": False, "cases": {"a": {}}},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    parts = [{"train": ["x"]}, {"train": ["b", "y"]}]
    record = {"recipe": {"fold": 1}, "splits": {"parts": parts}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    run = str(tmp_path)
    expected = ChosenEpoch(run, 3, 0.8, 0.7, 3, chosen_by=("a",), trained_on=("b",))
    assert chosen_epoch(tmp_path / "best", "abc") == chosen_epoch(tmp_path, "abc") == expected
    assert "trained on 1 of the 3 cases; its epoch was chosen by 1 of" in expected.text
    last = chosen_epoch(tmp_path / "last", "ac")
    assert (last.dice, last.chosen_by, last.trained_on) == (0.7, (), ())
    assert "neither" in last.text
    assert chosen_epoch(tmp_path / "elsewhere" / "best", "a") is None

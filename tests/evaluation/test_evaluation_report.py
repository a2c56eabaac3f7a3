"""JSON, CSV and terminal tables."""

import csv
import io
import json
from math import nan

import numpy as np
import pytest
from rich.console import Console

from transunet.errors import ConfigError
from transunet.evaluation import report, table
from transunet.evaluation.measure import Settings, gather
from transunet.evaluation.metrics import POLICIES, case_metrics
from transunet.evaluation.records import CaseRecord, Structure

DICE = [[0.9, 0.8], [0.7, nan], [0.5, nan]]


def printed(*tables, width=80):
    out = io.StringIO()
    console = Console(file=out, width=width)
    for one in tables:
        console.print(one)
    return out.getvalue()


def test_json_says_everything_with_units(evaluation_of):
    found = json.loads(json.dumps(report.to_json(evaluation_of(DICE)), allow_nan=False))
    assert found["kind"] == "evaluation"
    assert found["convention"] == "honest"
    assert found["policy"].startswith(POLICIES["honest"])
    assert "within 2 mm" in found["policy"]
    assert found["tolerance_mm"] == 2.0
    assert found["mean_foreground"]["dice"]["mean"] == pytest.approx((0.7 + 0.8) / 2)
    low, high = found["mean_foreground"]["dice"]["interval_95"]
    assert low < 0.75 < high
    liver, spleen = found["structures"]
    assert (liver["labels"], liver["name"]) == ([1], "liver")
    assert liver["dice"]["sd"] == pytest.approx(0.2)
    assert liver["hd95_mm"]["mean"] == pytest.approx(3)
    assert (spleen["dice"]["counted"], spleen["dice"]["not_counted"]) == (1, 2)
    assert spleen["dice"]["sd"] is None
    assert spleen["dice"]["interval_95"] is None
    assert found["versions"]["transunet-torch"]


def test_json_of_cases_has_null_for_what_is_not_counted(evaluation_of):
    cases = report.to_json(evaluation_of(DICE))["cases"]
    assert cases[0]["structures"][1]["dice"] == 0.8
    assert cases[1]["structures"][1] == {
        "labels": [2],
        "name": "spleen",
        "dice": None,
        "iou": None,
        "hd95_mm": None,
        "assd_mm": None,
        "nsd": None,
        "prediction_volume_ml": 0.0,
        "reference_volume_ml": 0.0,
    }


def test_the_official_convention_is_labelled_everywhere(evaluation_of):
    evaluation = evaluation_of([[0.9, 0.8], [0.7, 0.6]], convention="official")
    found = report.to_json(evaluation)
    assert found["convention"] == "official"
    assert found["policy"] == POLICIES["official"]
    assert found["tolerance_mm"] is None
    assert set(found["mean_foreground"]) == {"dice_official", "hd95_official_voxels"}
    figures = found["cases"][0]["structures"][0]
    assert "dice" not in figures
    assert "hd95_mm" not in figures
    tables = [table.summary_table(evaluation), *table.cases_tables(evaluation)]
    text = printed(*tables, width=120)
    assert "Dice (official)" in text
    assert "HD95 (official, voxels)" in text
    assert table.closing_line(evaluation) == "mean foreground Dice 0.750 (official convention)"


def test_csv_has_a_row_per_case_and_structure(evaluation_of, tmp_path):
    report.write_csv(evaluation_of(DICE, names=("liver, left", "=spleen")), tmp_path / "m.csv")
    with (tmp_path / "m.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert rows[0]["structure"] == "liver, left"
    assert float(rows[0]["hd95_mm"]) == pytest.approx(1)
    assert float(rows[0]["reference_volume_ml"]) == 10
    assert rows[0]["convention"] == "honest"
    assert (rows[3]["case"], rows[3]["dice"], rows[3]["hd95_mm"]) == ("case01", "", "")


@pytest.mark.parametrize(
    ("convention", "both", "missed", "invented"),
    [
        ("honest", "both: not counted", "prediction: scored 0", "reference: scored 0"),
        ("official", "both: Dice 0", "prediction: Dice 0, HD95 0", "reference: Dice 1, HD95 0"),
    ],
)
def test_csv_says_what_an_empty_structure_scores(tmp_path, convention, both, missed, invented):
    none, some = np.zeros((4, 4), int), np.eye(4, dtype=int)
    maps = {"both": (none, none), "missed": (none, some), "invented": (some, none)}
    cases = [
        CaseRecord(name, case_metrics(*pair, (1, 1), [1], convention))
        for name, pair in maps.items()
    ]
    cases = [CaseRecord(one.name, {"1": one.metrics[1]}) for one in cases]
    settings = Settings((Structure((1,), "liver"),), convention)
    report.write_csv(gather(cases, [], settings, "P", "R"), tmp_path / "m.csv")
    with (tmp_path / "m.csv").open(newline="", encoding="utf-8") as file:
        found = [row["empty"] for row in csv.DictReader(file)]
    starts = zip(found, (both, missed, invented), strict=True)
    assert all(text.startswith(start) for text, start in starts)


def test_files_are_written_whole_or_not_at_all(evaluation_of, tmp_path):
    (tmp_path / "m.json").write_text("before")
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.write_json({"bad": nan}, tmp_path / "m.json")
    assert (tmp_path / "m.json").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["m.json"]


def test_an_unwritable_place_is_wrong_use(evaluation_of, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="Cannot write to the folder"):
        report.write_json({}, tmp_path / "file" / "m.json")


def test_the_table_has_dice_per_case_and_structure_worst_first(evaluation_of):
    text = printed(*table.cases_tables(evaluation_of(DICE)))
    lines = [line for line in text.splitlines() if "case0" in line]
    assert ["0.500" in lines[0], "case02" in lines[0]] == [True, True]
    assert "case00" in lines[2]
    assert "0.900" in lines[2]
    assert "0.800" in lines[2]
    assert "-" in lines[0]
    mean = next(line for line in text.splitlines() if "mean" in line)
    assert "0.700" in mean
    assert "0.800" in mean


def test_many_structures_are_spread_over_tables(evaluation_of):
    names = [f"organ {index}" for index in range(13)]
    tables = list(table.cases_tables(evaluation_of([[0.5] * 13], names=names)))
    assert len(tables) == 2
    assert [len(one.columns) for one in tables] == [9, 6]


def test_many_cases_show_the_worst_and_say_so(evaluation_of):
    evaluation = evaluation_of([[index / 100, 0.9] for index in range(90)])
    text = printed(*table.cases_tables(evaluation))
    assert "case00" in text
    assert "case89" not in text
    assert "30 better cases" in text


def test_the_summary_has_interval_and_count(evaluation_of):
    text = printed(table.summary_table(evaluation_of(DICE)))
    row = next(line for line in text.splitlines() if "liver" in line)
    assert "3 of 3" in row
    assert "0.700" in row
    assert "0.200" in row
    assert " to " in row
    assert "1 of 3" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_names_are_no_markup(evaluation_of):
    evaluation = evaluation_of([[0.5, 0.5]], names=("[bold]a[/]", "b"))
    assert "[bold]a[/]" in printed(*table.cases_tables(evaluation))
    assert "[bold]a[/]" in printed(table.summary_table(evaluation))


def test_the_closing_line(evaluation_of):
    assert table.closing_line(evaluation_of(DICE)) == "mean foreground Dice 0.750"


def test_ranking_puts_cases_without_any_structure_last(evaluation_of):
    ranked = evaluation_of([[nan, nan], [0.9, nan], [0.2, 0.8]]).ranked()
    assert [case.name for case, _ in ranked] == ["case02", "case01", "case00"]
    assert [mean for _, mean in ranked[:2]] == pytest.approx([0.5, 0.9])


@pytest.mark.parametrize(
    ("value", "text"), [(0.0004, "0.000"), (-0.0004, "0.000"), (0.02, "+0.020"), (-1, "-1.000")]
)
def test_differences_have_a_sign_unless_they_round_to_nothing(evaluation_of, value, text):
    metric = evaluation_of(DICE).metrics[0]
    assert table.signed(value, metric) == text


def test_p_values_as_text():
    assert [table.p_text(value) for value in (0.00001, 0.0312, nan)] == ["< 0.001", "0.031", "-"]

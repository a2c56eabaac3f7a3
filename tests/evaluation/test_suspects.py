"""References that predictions contradict: ranked, explained, drawn."""

import csv

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from small_data import describe_decathlon
from transunet.cli.check import check
from transunet.errors import ConfigError
from transunet.evaluation.evaluate import EvaluationRequest, evaluate
from transunet.evaluation.suspects import rank_suspects, reasons, worst_of_each_case

app = typer.Typer()
app.command()(check)


def swapped(labels):
    return np.choose(labels, [0, 2, 1]).astype(np.uint8)


def without_second(labels):
    return np.where(labels == 2, 0, labels).astype(np.uint8)


def with_a_gap(labels):
    return np.where(np.arange(6) == 2, 0, labels).astype(np.uint8)


def moved(labels):
    return np.roll(labels, 3, axis=0)


def halved(labels):
    return np.where(np.arange(10)[:, None] < 4, 0, labels).astype(np.uint8)


WRONG = {"c1": swapped, "c2": without_second, "c3": with_a_gap, "c4": moved, "c5": halved}


@pytest.fixture
def data(tmp_path, save, blocks):
    """A Decathlon data set of ten cases, five with a wrong reference; `maps` predicts all well."""
    folder = tmp_path / "dataset"
    names = [f"c{index}" for index in range(10)]
    for name in names:
        right = blocks()
        save(tmp_path / "maps" / f"{name}.nii.gz", right)
        save(folder / "imagesTr" / f"{name}.nii.gz", right.astype(np.int16))
        save(folder / "labelsTr" / f"{name}.nii.gz", WRONG.get(name, np.copy)(right))
    return describe_decathlon(folder, ["liver", "spleen"], names, "CT")


def test_wrong_references_come_first_with_what_is_wrong(data, tmp_path):
    result = evaluate(tmp_path / "maps", EvaluationRequest(data))
    ranked = rank_suspects(result)
    assert len(ranked) == 20
    assert {suspect.case for suspect in ranked[:6]} <= set(WRONG)
    worst = worst_of_each_case(ranked)
    assert {suspect.case for suspect in worst[:5]} == set(WRONG)
    assert len(worst) == 10
    told = reasons(result, worst[:5])
    assert {suspect.case: reason for suspect, reason in told.items()} == {
        "c1": "lies where spleen is predicted (Dice 1.00): labels swapped?",
        "c2": "not in the reference, predicted with 0.072 ml",
        "c3": "empty slices in its midst: 1",
        "c4": "fits when moved by 3.0 mm (Dice 1.00)",
        "c5": "0.5 times as large as predicted",
    }
    assert worst[0].usual_dice == 1
    halved_liver = next(s for s in ranked if (s.case, s.structure.name) == ("c5", "liver"))
    assert halved_liver.spreads_below == pytest.approx((1 - 2 / 3) / 0.02)


def test_the_command_shows_the_worst_and_writes_all(data, tmp_path):
    out = tmp_path / "out"
    arguments = [data, "--suspect", tmp_path / "maps", "-o", out, "--worst", "2"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None, result.output
    assert "The 2 most suspect of 10 references" in result.stdout
    with (out / "suspects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    assert float(rows[0]["dice"]) == 0
    assert sum(bool(row["reason"]) for row in rows) == 2
    assert sorted(path.name[:2] for path in (out / "pictures").iterdir()) == ["01", "02"]


def test_wrong_use_is_told(data, tmp_path):
    result = CliRunner().invoke(app, [str(data), "-o", str(tmp_path / "out")])
    assert isinstance(result.exception, ConfigError)
    result = CliRunner().invoke(app, [str(data), "--suspect", str(tmp_path / "nowhere")])
    assert isinstance(result.exception, ConfigError)
    assert not (tmp_path / "out").exists()

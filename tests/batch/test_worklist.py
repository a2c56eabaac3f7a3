"""Images in the order of doubt: figures by hand, and the command over real predictions."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from prediction import noise, save_nifti, tiny_bundle, tiny_trust
from small_data import describe_decathlon, pair_of_arrays, write_pair
from transunet.batch.case_records import PredictionRecord
from transunet.batch.worklist import order_by_doubt, read_worklist
from transunet.bundle.bundle_config import keep_trust
from transunet.cli.main import app
from transunet.errors import ConfigError, DataError
from transunet.inference.predictor import Predictor


def record(case: str, warnings: tuple[str, ...] = (), **structures: dict) -> PredictionRecord:
    filled = {name: {"voxels": 9, **figures} for name, figures in structures.items()}
    return PredictionRecord(
        case, "done", "", "", (f"{case}.nii.gz",), "", structures=filled, warnings=warnings
    )


def test_the_least_expected_structure_counts_and_what_is_missing_most() -> None:
    trust = tiny_trust(left=0.9, right=0.8, top=None)
    some_have_right = trust.structures["right"].model_copy(update={"present": 0.6})
    trust = trust.model_copy(update={"structures": {**trust.structures, "right": some_have_right}})
    absent = {"voxels": 0, "look": False}
    records = [
        record("good", left={"expected_dice": 0.93}, right={"expected_dice": 0.91}, top={}),
        record("unlike", ("tilted",), left={"expected_dice": 0.9}, right={"expected_dice": 0.6}),
        record("no right", left={"expected_dice": 0.99}, right=absent),
        record("no left", left={**absent, "reason": "not found"}, right={"expected_dice": 0.9}),
    ]
    worklist = order_by_doubt(records, ["b"], trust)
    assert worklist.order == "expected Dice"
    assert [(case.case, case.dice, case.structure) for case in worklist.cases] == [
        ("no left", 0, "left"),
        ("no right", 0.4, "right"),  # 60 % of the held-out cases have it
        ("unlike", 0.6, "right"),
        ("good", 0.91, "right"),
    ]
    assert [case.reasons for case in worklist.cases] == [
        ("left: not found",),
        (),
        ("tilted",),
        (),
    ]
    assert worklist.cases[0].images == (Path("no left.nii.gz").absolute(),)


def test_without_knowledge_what_is_found_counts_by_its_soft_dice() -> None:
    absent = {"voxels": 0}
    records = [
        record("sure", left={"soft_dice": 0.9}, right=absent),
        record("empty", left=absent, right=absent),
        record("unsure", left={"soft_dice": 0.8}, right={"soft_dice": 0.7}),
    ]
    for trust in (None, tiny_trust(left=None, right=None)):
        worklist = order_by_doubt(records, [], trust)
        assert worklist.order == "soft Dice"
        found = [(case.case, case.dice) for case in worklist.cases]
        assert found == [("empty", 0), ("unsure", 0.7), ("sure", 0.9)]
        assert worklist.cases[0].reasons == ("nothing was found",)


def queue(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["queue", *map(str, words), "--device", "cpu"])
    assert isinstance(done.exception, SystemExit | ConfigError | DataError | type(None))
    return done.exit_code, done.output + str(done.exception or "")


def soft_dice(predictor: Predictor, image: Path, folder: Path) -> dict[int, float]:
    """Soft Dice of each structure, from probabilities in a file."""
    labels = predictor(image, probabilities=folder / "p.npy").array[0]
    probabilities = np.load(folder / "p.npy").astype(np.float64)
    return {
        index: 2 * p[labels == index].sum() / ((labels == index).sum() + p.sum())
        for index, p in enumerate(probabilities)
        if index
    }


def test_the_command_orders_keeps_and_tells(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = tiny_bundle(tmp_path / "bundle")
    for seed in range(3):
        save_nifti(tmp_path / "in" / f"p{seed}.nii.gz", noise(seed=seed))
    code, said = queue(bundle, "in")
    assert code == 0, said
    assert "does not know how good its results are" in said
    assert "transunet calibrate" in said
    worklist = read_worklist(tmp_path / "queue" / "worklist.json")
    predictor = Predictor.from_pretrained(bundle, device="cpu")
    expected = {
        f"p{seed}": min(soft_dice(predictor, tmp_path / f"in/p{seed}.nii.gz", tmp_path).values())
        for seed in range(3)
    }
    assert [case.case for case in worklist.cases] == sorted(expected, key=expected.__getitem__)
    for case in worklist.cases:
        assert case.dice == pytest.approx(expected[case.case], abs=2e-3)  # float16 in the file
        assert case.images == (tmp_path / "in" / f"{case.case}.nii.gz",)
    with (tmp_path / "queue" / "worklist.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == [case.case for case in worklist.cases]
    assert float(rows[0]["soft_dice"]) == worklist.cases[0].dice

    maps = {path: path.stat().st_mtime_ns for path in Path("queue").glob("*.nii.gz")}
    save_nifti(tmp_path / "in" / "p3.nii.gz", noise(seed=3))
    Path("in/p4.nii.gz").write_text("no image")
    code, said = queue(bundle, "in")
    assert code == 1
    assert "p4.nii.gz" in said
    assert len(read_worklist(tmp_path / "queue" / "worklist.json").cases) == 4
    assert {path: path.stat().st_mtime_ns for path in maps} == maps

    keep_trust(bundle, tiny_trust(left=0.93, right=0.61))
    code, said = queue(bundle, "in/p0.nii.gz", "-o", "known")
    assert (code, "soft Dice" in said) == (0, False)
    (case,) = read_worklist(tmp_path / "known" / "worklist.json").cases
    assert (case.dice, case.structure) == (0.61, "right")
    below, unlike = case.reasons
    assert below == "right: less than Dice 0.7 is expected"
    assert "as a CT's do" in unlike


def test_what_cannot_be_a_worklist_is_told(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    write_pair(tmp_path / "data", "a", *pair_of_arrays(0, (8, 9, 5)))
    describe_decathlon(tmp_path / "data", ["left", "right"], ["a"])
    code, said = queue(bundle, tmp_path / "data", "-o", tmp_path / "out")
    assert (code, "Every case has a label map already" in said) == (1, True)
    assert not (tmp_path / "out").exists()
    assert "is to be a folder" in queue(bundle, tmp_path, "-o", tmp_path / "list.csv")[1]
    assert "There is no bundle" in queue(tmp_path / "gone", tmp_path)[1]

    with pytest.raises(ConfigError, match=r"There is no file .*Give the worklist\.json"):
        read_worklist(tmp_path / "none.json")
    wrong = tmp_path / "list.json"
    for text, error, says in (
        ("[", DataError, "cannot be read as JSON"),
        ("[]", ConfigError, "expected an object"),
        (json.dumps({"order": "age", "bundles": [], "cases": []}), ConfigError, "order"),
    ):
        wrong.write_text(text)
        with pytest.raises(error, match=says):
            read_worklist(wrong)

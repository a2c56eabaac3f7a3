"""What a dossier tells, against the run, the data and the evaluation that it tells of."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from typer.testing import CliRunner

from transunet.bundle.bundle_config import keep_trust, read_config
from transunet.bundle.trust_config import Calibration, ExpectedQuality, StructureTrust, Trust
from transunet.cli.main import app
from transunet.data.split_rules import named_splits
from transunet.document import CardTable
from transunet.dossier.dicom_statement import dicom_sections
from transunet.dossier.environment import installed_closure
from transunet.errors import ConfigError, DataError, TransUNetError
from transunet.evaluation.bootstrap import summarise
from transunet.files import sha256_of
from transunet.training.log import read_log
from transunet.training.loop import train
from transunet.training.recipe import Recipe, load_recipe
from transunet.training.runs import Run, begin, prepare_folds, start_fold

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_curves")]  # a run is trained

HEADINGS = (
    *("Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data"),
    *("Quantitative analyses", "Ethical considerations", "Caveats and recommendations"),
)
"""Of Mitchell et al., Model cards for model reporting."""

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a dossier into `dossier` and return its card."""

    def invoke(source: Path, *words: object, error: type[TransUNetError] | None = None) -> Any:
        out = tmp_path / "dossier"
        said = CliRunner().invoke(app, ["dossier", str(source), "-o", str(out), *map(str, words)])
        if error is not None:
            assert isinstance(said.exception, error), said.output
            assert not out.exists()
            return str(said.exception)
        assert said.exit_code == 0, said.output + repr(said.exception)
        card = json.loads((out / "model_card.json").read_text())
        assert all(f"- {limit}" in said.output for limit in card["limits"])
        return card

    return invoke


@pytest.fixture
def bundle(run: Path, tmp_path: Path) -> Path:
    """The run's best bundle, without the run."""
    return Path(shutil.copytree(run / "best", tmp_path / "bundle"))


def test_a_card_tells_what_run_data_and_evaluation_hold(
    make: Make, run: Path, report: Path, dataset: Path, tmp_path: Path
) -> None:
    card = make(run, "--evaluation", report, "--purpose", "discs", "--prove", 2)
    assert card["purpose"] == "discs"
    assert card["model"]["structures"] == {"1": "disc", "2": "<b>spot|"}
    assert card["model"]["weights"][0]["sha256"] == sha256_of(run / "best/model.safetensors")
    assert card["data"]["name"] == "Toy"
    assert card["data"]["said"] == {"licence": "CC-BY 4.0"}
    assert card["data"]["classes"]["background"]["cases"] == 5
    assert sum(each["voxels"] for each in card["data"]["classes"].values()) == 5 * 24 * 28 * 3
    part = card["split"]["parts"][0]
    assert len(part["train"]) == 4
    assert len(part["validation"]) == 1
    assert card["training"][0]["ended"]
    assert card["training"][0]["steps"] == 4
    kept = [entry for entry in read_log(run, "validation") if entry["best"]][-1]
    assert card["validation"]["dice"] == kept["cases"]
    told = json.loads((report / "metrics.json").read_text())
    figures = card["evaluations"][0]
    assert figures["mean_dice"] == pytest.approx(told["mean_foreground"]["dice"]["mean"])
    for ours, theirs in zip(figures["structures"].values(), told["structures"], strict=True):
        assert ours["mean"] == pytest.approx(theirs["dice"]["mean"])
        assert ours["interval_95"] == pytest.approx(theirs["dice"]["interval_95"])
    assert card["trust"] is None

    files = {path.name: path.read_text() for path in (tmp_path / "dossier").glob("*.[!p]*")}
    for heading in HEADINGS:
        assert f"\n## {heading}\n" in files["model_card.md"]
    assert r"\<b>spot\|" in files["model_card.md"]
    page = files["index.html"]
    assert "<b>" not in page
    assert not re.search(r'(src|href)="(?!data:)[^"]*//', page)
    for name in re.findall(r'href="([^"]+)"', page):
        assert (tmp_path / "dossier" / name).is_file()
    for limit in card["limits"]:
        assert limit in unescape(page)
    again = json.loads(files["reproduction.json"])
    assert f"Trained again: proved, {again['why']}." in files["model_card.md"]
    assert again["proved"]
    assert again["largest_difference_from_the_log"] == 0
    assert again["losses"][0] == [entry["loss"] for entry in read_log(run, "train")][:2]
    assert (
        f"transunet train {dataset} --recipe recipe.json --splits splits.json"
        in (files["train_again.sh"])
    )
    assert load_recipe(tmp_path / "dossier/recipe.json") == Run.reopen(run).recipe()
    assert named_splits(tmp_path / "dossier/splits.json") == [(part["train"], part["validation"])]


def test_limits_are_drawn_from_the_figures(make: Make, run: Path, report: Path) -> None:
    card = make(run, "--evaluation", report)
    limits = " ".join(card["limits"])
    trained = set(card["split"]["parts"][0]["train"]) & set(card["evaluations"][0]["dice"])
    chosen = set(card["split"]["parts"][0]["validation"]) & set(card["evaluations"][0]["dice"])
    assert ("cases called as those of training: toy_4" in limits) == (trained == {"toy_4"})
    assert ("by which it was chosen: toy_4" in limits) == (chosen == {"toy_4"})
    assert trained | chosen == {"toy_4"}
    assert "figures against new are of 3 cases" in limits
    assert "It was trained on 4 cases." in limits
    assert "voxels of 1 x 1 x 1 mm" in limits
    for name, structure in card["evaluations"][0]["structures"].items():
        bad = [dice for dice in structure["bad"].values() if dice is not None]
        told = f"{name} has a Dice below 0.7 in {len(bad)} of 3 cases against new"
        assert (told in limits) == bool(bad)
    assert "chosen among its own checkpoints" not in limits
    assert "chosen among its own checkpoints" in " ".join(make(run)["limits"])


def test_missed_structures_are_told(make: Make, run: Path, report: Path, tmp_path: Path) -> None:
    told = json.loads((report / "metrics.json").read_text())
    for case in told["cases"]:
        for structure in case["structures"]:
            structure |= {"reference_volume_ml": 1.0, "prediction_volume_ml": 1.0, "dice": 0.9}
    missed, spurious = told["cases"][0]["structures"][0], told["cases"][1]["structures"][1]
    missed |= {"prediction_volume_ml": 0.0, "dice": 0.0}
    spurious |= {"reference_volume_ml": 0.0, "dice": 0.0}
    (tmp_path / "metrics.json").write_text(json.dumps(told))
    limits = " ".join(make(run, "--evaluation", tmp_path / "metrics.json")["limits"])
    names = [case["name"] for case in told["cases"]]
    assert f"disc was missed entirely in 1 cases: {names[0]}." in limits
    assert f"<b>spot| was marked in 1 cases without it: {names[1]}." in limits
    assert "disc has a Dice below 0.7 in 1 of 3 cases against new, the least 0.00" in limits


def test_a_run_that_has_not_ended_says_so(make: Make, begun: Path, tmp_path: Path) -> None:
    card = make(begun)
    assert not card["training"][0]["ended"]
    assert card["limits"][0] == (
        "The training of begun has not ended: step 2, 50% of its budget; the network is that of "
        "step 2."
    )
    assert "The training of begun has not ended" in (tmp_path / "dossier/index.html").read_text()
    script = (tmp_path / "dossier/train_again.sh").read_text()
    how = "--layout decathlon --orientation SRA --slice-axis 0 --normalisation zscore --seed 1234"
    assert f"/Toy -o store {how} --splits splits.json" in script
    assert "transunet train store --recipe recipe.json --splits splits.json -o run" in script


def test_the_bill_of_materials_fits_its_schema_and_names_weights_and_data(
    make: Make, run: Path, tmp_path: Path
) -> None:
    card = make(run, "--data-licence", "own; ask <us>")
    text = (tmp_path / "dossier/sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    components = {each["bom-ref"]: each for each in json.loads(text)["components"]}
    weights = components["weights:best/model.safetensors"]
    assert weights["type"] == "machine-learning-model"
    digest = sha256_of(run / "best/model.safetensors")
    assert weights["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert components["training-data"]["type"] == "data"
    assert components["training-data"]["licenses"] == [{"license": {"name": "own; ask <us>"}}]
    properties = components["training-data"]["properties"]
    assert {"name": "transunet:sha256", "value": card["data"]["sha256"]} in properties
    packages = {each["name"] for each in components.values() if "purl" in each}
    assert {"torch", "numpy", "pydantic-core"} <= packages
    assert not packages & {"pytest", "ruff", "mypy"}
    assert packages | {"transunet-torch"} == set(installed_closure())


def test_trust_figures_are_told_where_a_bundle_has_them(make: Make, bundle: Path) -> None:
    known = {"error": 0.043, "coverage": 0.91, "predictions": 48, "spread": 0.5}
    quality = ExpectedQuality(means=(), deviations=(), weights=(), intercept=0.8, **known)
    structures = {
        "disc": StructureTrust(present=1, quality=quality),
        "<b>spot|": StructureTrust(present=1),
    }
    calibration = Calibration(temperature=1.3, ece=(0.05, 0.01), brier=(0.2, 0.1), bins=())
    keep_trust(bundle, Trust(cases=12, structures=structures, calibration=calibration))
    card = make(bundle)
    assert card["trust"]["structures"]["disc"]["expected_dice_error"] == 0.043
    assert card["trust"]["ece"] == [0.05, 0.01]
    assert card["training"] == []
    assert card["data"]["cases"] == read_config(bundle).training_data.cases  # type: ignore[union-attr]
    limits = " ".join(card["limits"])
    assert "There is no run beside these weights" in limits
    assert "How good a single result of <b>spot| is cannot be told" in limits


def test_a_cross_validation_tells_of_all_its_folds(
    make: Make, dataset: Path, recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    parent = begin(tmp_path / "cv", dataset, recipe(folds=2, iterations=2))
    prepare_folds(parent)
    for number in range(2):
        for _ in train(start_fold(parent, number, device="cpu")):
            pass
    card = make(tmp_path / "cv")
    assert [training["run"] for training in card["training"]] == ["fold-0", "fold-1"]
    assert len(card["validation"]["dice"]) == card["validation"]["cases"] == 5
    rows = [list(case.values()) for case in card["validation"]["dice"].values()]
    mean = summarise(np.array(rows, np.float64))[1]
    assert card["validation"]["mean_dice"] == pytest.approx(mean)
    assert [each["file"] for each in card["model"]["weights"]] == [
        f"fold-{number}/best/model.safetensors" for number in range(2)
    ]
    shutil.rmtree(tmp_path / "cv/fold-1/best")
    shutil.rmtree(tmp_path / "cv/fold-1/last")
    assert "Only 1 of 2 folds" in " ".join(make(tmp_path / "cv")["limits"])


def test_wrong_inputs_are_told_and_leave_nothing(
    make: Make, run: Path, bundle: Path, report: Path, dataset: Path, tmp_path: Path
) -> None:
    assert "no run, bundle or exported file" in make(tmp_path / "gone", error=ConfigError)
    assert "neither a run" in make(dataset, error=ConfigError)
    assert "no exported network" in make(dataset / "dataset.json", error=ConfigError)
    assert "there is no" in make(run, "--evaluation", dataset, error=ConfigError)
    wrong = dataset / "dataset.json"
    assert "does not hold what" in make(run, "--evaluation", wrong, error=ConfigError)
    (tmp_path / "broken.json").write_text("{")
    make(run, "--evaluation", tmp_path / "broken.json", error=DataError)
    (tmp_path / "short.json").write_text('{"kind": "evaluation"}')
    said = make(run, "--evaluation", tmp_path / "short.json", error=DataError)
    assert "short.json is damaged (KeyError: 'structures'). Evaluate again." in said
    told = json.loads((report / "metrics.json").read_text())
    for structure in told["structures"]:
        structure["name"] = "kidney"
    (tmp_path / "other.json").write_text(json.dumps(told))
    said = make(run, "--evaluation", tmp_path / "other.json", error=ConfigError)
    assert "tells of kidney, kidney; the bundle finds disc, <b>spot|" in said
    assert "there is no run beside" in make(bundle, "--prove", 1, error=ConfigError)
    assert "the run has 4 steps" in make(run, "--prove", 9, error=ConfigError)


def test_only_an_earlier_dossier_is_written_over(make: Make, bundle: Path, tmp_path: Path) -> None:
    make(bundle)
    (tmp_path / "dossier/mine.txt").write_text("mine")
    make(bundle, "--purpose", "again")
    assert (tmp_path / "dossier/mine.txt").read_text() == "mine"
    assert "again" in (tmp_path / "dossier/model_card.md").read_text()
    words = ["dossier", str(bundle), "-o", str(bundle)]
    said = CliRunner().invoke(app, words)
    assert isinstance(said.exception, ConfigError)
    assert "no earlier dossier" in str(said.exception)
    assert not (bundle / "index.html").exists()


def test_without_the_package_the_extra_is_named(
    make: Make, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cyclonedx", None)
    assert "pip install 'transunet-torch[dossier]'" in make(bundle, error=ConfigError)


def test_the_dicom_statement_tells_what_is_written() -> None:
    pytest.importorskip("highdicom")
    sections = {section.title: section for section in dicom_sections()}
    table = sections["Objects that are read"].blocks[0]
    assert isinstance(table, CardTable)
    assert ("CT Image Storage", "1.2.840.10008.5.1.4.1.1.2") in table.rows
    written = sections["Objects that are written: transunet predict --format dicom-seg"]
    assert "Segmentation Storage" in str(written.blocks[0])
    assert isinstance(written.blocks[1], CardTable)
    values = {row[0]: row[3] for row in written.blocks[1].rows}
    assert values["PatientID"] == values["StudyInstanceUID"] == "the image's"
    assert values["SeriesInstanceUID"] == "made for each file"
    assert values["SegmentSequence > SegmentLabel"] == "liver"
    assert values["ContentDate"] == "when it is written"
    report = sections["Objects that are written: transunet predict --format dicom-seg --report"]
    assert isinstance(report.blocks[1], CardTable)
    group = "content: Imaging Measurements > Measurement Group > Volume"
    assert (group, "", "NUM", "CONTAINS") in report.blocks[1].rows


def test_a_store_that_is_gone_is_told(make: Make, run: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(run, tmp_path / "moved", ignore=shutil.ignore_patterns("store")))
    card = make(moved)
    assert "The prepared data are not where the run says" in " ".join(card["limits"])
    assert card["data"]["cases"] == 5
    assert "splits.json" in {path.name for path in (tmp_path / "dossier").iterdir()}

"""What runs and cross-validations learn of their own mistakes when they have ended."""

import shutil

import pytest
from typer.testing import CliRunner

from training_runs import open_folds, steps
from transunet.bundle.bundle_config import read_config, trust_of, write_config
from transunet.cli.main import app
from transunet.data.layouts import open_dataset
from transunet.inference.predictor import Predictor
from transunet.training.out_of_fold import out_of_fold
from transunet.training.run_trust import fit_folds
from transunet.training.runs import Run, start_fold

pytestmark = pytest.mark.slow

COMMAND = [
    *("--recipe", "modern", "--model", "testing", "--image-size", "32", "--batch-size", "3"),
    *("--iterations", "2", "--set", "validations=1", "--set", "holdout=0.4"),
    *("--weights", "none", "--device", "cpu", "--workers", "0"),
]


def train(*words: object) -> str:
    done = CliRunner().invoke(app, ["train", *map(str, words)])
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_the_best_network_learns_of_its_mistakes_when_training_ends(toy, tmp_path):
    data, run = shutil.copytree(toy, tmp_path / "data"), tmp_path / "run"
    train(data, "-o", run, "--set", "calibrate=false", *COMMAND)
    assert read_config(run / "best").trust is None
    weights = (run / "best/model.safetensors").read_bytes()
    few = "With 2 held-out cases it cannot be known how good a result is"
    assert few in train("--resume", run, "--set", "calibrate=true")
    config = read_config(run / "best")
    assert config.trust.cases == 2
    assert config.trust.calibration is not None
    assert (run / "best/model.safetensors").read_bytes() == weights
    assert read_config(run / "last").trust is None

    write_config(config.replace(trust=None), run / "best")
    held_out = Run.reopen(run).record.splits.parts[0].validation[0]
    other = next(data.glob(f"imagesTr/toy_[!{held_out[-1]}]*"))
    shutil.copy(other, data / f"imagesTr/{held_out}.nii.gz")
    said = train("--resume", run, "--set", "calibrate=true")
    assert f"imagesTr/{held_out}.nii.gz in {data} is not what {run}/store was made of" in said
    shutil.rmtree(data)
    said = train("--resume", run, "--set", "calibrate=true")
    assert "does not exist" in said
    assert f"transunet calibrate {run}/best DATASET" in said
    assert read_config(run / "best").trust is None


def test_an_ensemble_of_folds_knows_what_each_showed_on_cases_that_it_had_not_seen(
    toy, tmp_path, recipe
):
    parent = open_folds(tmp_path / "cv", toy, recipe(folds=2, iterations=1, validations=1))
    for number in range(2):
        steps(start_fold(parent, number, device="cpu"))
    parts = parent.record.splits.parts
    networks = []
    for (predictor, cases), part in zip(out_of_fold(parent, "cpu"), parts, strict=True):
        assert [case.name for case in cases] == list(part.validation)
        networks.append(predictor.fingerprint)
        image, label = cases[0].read()
        there = {case.name: case for case in open_dataset(toy).cases}
        expected_image, expected_label = open_dataset(toy).read_case(there[cases[0].name])
        assert (image.array == expected_image.array).all()
        assert (label.array == expected_label.array).all()
    bundles = [parent.fold(number) / "best" for number in range(2)]
    told = []
    trust = fit_folds(parent, "cpu", lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1]
    assert trust.cases == 5
    alone = [read_config(bundle).trust for bundle in bundles]
    assert [each.cases for each in alone] == [len(part.validation) for part in parts]

    loaded = Predictor.from_pretrained(bundles, device="cpu", engine="eager")
    assert loaded.fitted == trust
    one = Predictor.from_pretrained(bundles[1], device="cpu", engine="eager")
    assert one.fitted == alone[1]
    assert one.fingerprint == networks[1] != networks[0]
    configs = [read_config(bundle) for bundle in bundles]
    assert trust_of(configs[::-1]) == trust
    assert trust_of([configs[0], configs[0]]) is None  # not the ensemble that was fitted
    other = configs[1].replace(ensemble_trust=None)
    assert trust_of([configs[0], other]) is None

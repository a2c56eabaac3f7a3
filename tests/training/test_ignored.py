"""Training on data of which nobody labelled a part."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from training_runs import open_folds, steps
from transunet.bundle.bundle_config import read_config
from transunet.data.cases import IGNORED
from transunet.data.store import Store
from transunet.errors import ConfigError
from transunet.evaluation.metrics import dice_per_class
from transunet.inference.predictor import Predictor
from transunet.training.distributed import ProcessGroup
from transunet.training.held_out_maps import report_held_out
from transunet.training.runs import Run, resume, start, start_fold, summarise_folds
from transunet.training.validation import validate

pytestmark = pytest.mark.slow  # trains in nearly every test


@pytest.fixture
def partly(toy, tmp_path):
    """The toy data set with 255 in half of every label map, and in all of one slice."""
    root = shutil.copytree(toy, tmp_path / "partly")
    for path in (root / "labelsTr").iterdir():
        label = np.asarray(nib.load(path).dataobj).copy()
        label[:12], label[..., 0] = 255, 255
        nib.save(nib.Nifti1Image(label, np.eye(4)), path)
    return root


@pytest.mark.parametrize("name", ["paper", "modern"])
def test_a_run_leaves_out_what_nobody_labelled(partly, recipe, tmp_path, name):
    job = start(tmp_path / "run", partly, recipe(name, foreground=0.5), ignore=255, device="cpu")
    assert job.store.ignored == IGNORED
    assert len(job.dataset) == 3 * len(job.split.train)  # of four slices each
    assert all(np.isfinite(event.loss) for event in steps(job))
    assert read_config(tmp_path / "run" / "last").labels == {0: "background", 1: "disc", 2: "spot"}


def test_held_out_cases_are_measured_where_somebody_labelled_them(partly, recipe, tmp_path):
    job = start(tmp_path / "run", partly, recipe(), ignore=255, device="cpu")
    steps(job)
    case, *_ = job.split.validation
    outcome = validate(
        *(job.model, job.store, [case], job.recipe.sampling),
        *(job.device, ProcessGroup()),
    )
    predictor = Predictor(job.model, job.store.preprocessing, job.store.labels, device="cpu")
    predicted, label = (
        predictor.label_slices(job.store.image(case).swapaxes(0, 1)),
        job.store.label(case),
    )
    counted = np.asarray(label) != IGNORED
    expected = dice_per_class(predicted[counted], np.asarray(label)[counted], [1, 2])
    assert list(outcome.cases[case].values()) == pytest.approx(list(expected.values()), nan_ok=True)


def test_a_run_is_gone_on_with_as_it_was_begun(partly, recipe, tmp_path):
    start(tmp_path / "run", partly, recipe(), ignore=255, device="cpu")
    run = Run.reopen(tmp_path / "run")
    assert run.record.ignore == 255
    run.check_same_data(ignore=255)
    with pytest.raises(ConfigError, match="not begun with --ignore 3"):
        run.check_same_data(ignore=3)
    shutil.rmtree(tmp_path / "run" / "store")
    (tmp_path / "run" / "recipe.json").unlink()
    assert resume(tmp_path / "run", device="cpu").store.ignored == IGNORED


def test_folds_leave_it_out_too(partly, recipe, tmp_path):
    parent = open_folds(
        tmp_path / "run", partly, recipe(folds=2, iterations=1, validations=1), ignore=255
    )
    assert Store.open(parent.store).ignored == IGNORED
    steps(start_fold(parent, 0, device="cpu"))
    with pytest.raises(ConfigError, match="fold-1 has not been trained to the end"):
        report_held_out(parent, "cpu")
    steps(start_fold(parent, 1, device="cpu"))
    measured = report_held_out(parent, "cpu")[0].evaluation
    validated = {
        case: [float("nan") if value is None else value for value in dice.values()]
        for case, dice in summarise_folds(parent).cases.items()
    }
    assert {case.name for case in measured.cases} == validated.keys()
    for case in measured.cases:
        dice = [case.metrics[structure.key].dice for structure in measured.structures]
        assert dice == pytest.approx(validated[case.name], nan_ok=True)


def test_a_store_is_trained_on_as_it_was_prepared(store, partly, recipe, tmp_path):
    with pytest.raises(ConfigError, match="prepared with nothing left out, not 255"):
        start(tmp_path / "run", store, recipe(), ignore=255, device="cpu")
    start(tmp_path / "first", partly, recipe(), ignore=255, device="cpu")
    job = start(tmp_path / "run", tmp_path / "first/store", recipe(), ignore=255, device="cpu")
    assert job.store.ignored == IGNORED


def test_a_label_called_ignore_needs_no_option(partly, recipe, tmp_path):
    content = json.loads((partly / "dataset.json").read_text())
    content["labels"]["255"] = "ignore"
    (partly / "dataset.json").write_text(json.dumps(content))
    job = start(tmp_path / "run", partly, recipe(), device="cpu")
    assert job.store.ignored == IGNORED
    assert job.model.config.num_classes == 3


def test_what_cannot_be_left_out_is_refused_before_anything_is_written(toy, recipe, tmp_path):
    content = json.loads((toy / "dataset.json").read_text())
    root = shutil.copytree(toy, tmp_path / "one")
    (root / "dataset.json").write_text(json.dumps({**content, "labels": {"0": "a", "1": "b"}}))
    with pytest.raises(ConfigError, match="cannot ignore 1"):
        start(tmp_path / "run", root, recipe(), ignore=1, device="cpu")
    assert not (tmp_path / "run").exists()

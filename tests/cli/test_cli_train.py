import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from small_data import describe_decathlon, write_pair
from transunet.bundle.io import from_pretrained
from transunet.cli.main import app
from transunet.cli.train_display import log_line
from transunet.data.volume import Volume
from transunet.errors import TransUNetError
from transunet.inference.predictor import Predictor
from transunet.training.log import read_log
from transunet.training.recipe import Recipe
from transunet.training.runs import Run

pytestmark = pytest.mark.usefixtures("without_curves")

SMALL = [
    *("--model", "testing", "--image-size", "32", "--batch-size", "3", "--iterations", "4"),
    *("--set", "validations=2", "--device", "cpu", "--workers", "0"),
]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "data")


def make_dataset(root: Path, cases: int = 3) -> Path:
    for number in range(cases):
        rng = np.random.default_rng(number)
        label = np.zeros((20, 20, 3), np.uint8)
        label[5:15, 6:14] = 1
        image = (100 * label + rng.normal(0, 9, label.shape)).astype(np.int16)
        write_pair(root, f"c{number}", image, label)
    return describe_decathlon(root, ["box"], [f"c{number}" for number in range(cases)])


def run(*arguments: object):
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    if result.exception is not None and not isinstance(
        result.exception, TransUNetError | SystemExit
    ):
        raise result.exception
    return result


def refused(*arguments: object, says: str, code: int = 2) -> None:
    """Train and expect one clear error; `cli.main.main` prints it and exits with its code."""
    result = run(*arguments)
    assert isinstance(result.exception, TransUNetError), result.output
    assert re.search(says, str(result.exception)), str(result.exception)
    assert result.exception.exit_code == code


def test_a_raw_data_set_becomes_a_bundle_that_predicts(dataset, tmp_path):
    out = tmp_path / "run"
    result = run(dataset, "-o", out, *SMALL)
    assert result.exit_code == 0, result.output
    for told in (
        "mean foreground Dice",
        "went by until batches were there",
        f"best bundle: {out}/best",
        "transunet predict",
        "(preset: ",
    ):
        assert told in result.stdout
    assert (out / "store" / "manifest.json").is_file()
    for name in ("best", "last"):
        _, config = from_pretrained(out / name)
        assert config.labels == {0: "background", 1: "box"}
        assert config.architecture.image_size == (32, 32)
    volume = Volume(np.zeros((1, 20, 22, 3), np.float32), np.diag([2.0, 1, 3, 1]), "x")
    predicted = Predictor.from_pretrained(out / "best", device="cpu")(volume)
    assert predicted.array.shape == (1, 20, 22, 3)


def test_what_differs_from_the_preset_is_printed_and_the_whole_recipe_written(dataset, tmp_path):
    result = run(dataset, "-o", tmp_path / "run", *SMALL, "--lr", "0.02")
    recipe = json.loads((tmp_path / "run/recipe.json").read_text())
    assert recipe.keys() == Recipe.model_fields.keys()
    assert str(tmp_path / "run/recipe.json") in result.stdout
    assert re.search(r"lr +0\.02 +\(preset: 0\.01\)", result.stdout)
    assert re.search(r"epochs +none +\(preset: 150\)", result.stdout)
    assert "momentum" not in result.stdout  # as the preset has it
    assert "None" not in result.stdout
    assert recipe["lr"] == 0.02
    assert recipe["epochs"] is None


def test_a_prepared_store_is_used_as_it_is(dataset, tmp_path):
    store = tmp_path / "store"
    assert run(dataset, "-o", tmp_path / "one", "--store", store, *SMALL).exit_code == 0
    assert run(store, "-o", tmp_path / "two", *SMALL).exit_code == 0
    assert not (tmp_path / "one/store").exists()
    assert not (tmp_path / "two/store").exists()


def test_a_run_is_not_overwritten(dataset, tmp_path):
    out = tmp_path / "run"
    run(dataset, "-o", out, *SMALL)
    before = (out / "checkpoint.pt").read_bytes()
    refused(dataset, "-o", out, *SMALL, says=f"holds a run already.*--resume {out}")
    assert (out / "checkpoint.pt").read_bytes() == before


def test_a_folder_with_something_else_is_left_alone(dataset, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    refused(dataset, "-o", tmp_path / "thesis", *SMALL, says="not an empty folder")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "mine"


def test_resume_takes_the_run_as_it_was_begun(dataset, tmp_path):
    out = tmp_path / "run"
    assert "Dice on 1 held-out case, best network" in run(dataset, "-o", out, *SMALL).output
    again = run("--resume", out, "--device", "cpu")
    assert (again.exit_code, "best bundle:" in again.output) == (0, True)
    assert not [line for line in again.output.splitlines() if re.match(r"\W*step \d+\W*$", line)]
    assert run(dataset, "--resume", out, *SMALL).exit_code == 0  # the same command once more
    refused("--resume", out, "--lr", "0.5", says=r"another recipe: lr: 0\.01 -> 0\.5.*--weights")
    refused("--resume", out, "--set", "augmentation.rotation=5", says=r"augmentation\.rotation")
    refused("--resume", out, "--epochs", "3", says="epochs: None -> 3")


def test_a_run_goes_on_with_the_place_of_moved_data_alone(dataset, tmp_path):
    out = tmp_path / "run"
    run(dataset, "-o", out, *SMALL)
    dataset.rename(tmp_path / "moved")
    assert run(tmp_path / "moved", "--resume", out).exit_code == 0
    assert Run.reopen(out).dataset == tmp_path / "moved"


def test_an_id_of_the_hub_is_told_how_to_become_weights(dataset, tmp_path):
    out = tmp_path / "run"
    refused(dataset, "-o", out, "--weights", "lab/heart", says="hf download lab/heart --local-dir")
    assert not out.exists()


def test_resume_with_a_data_set_starts_what_is_not_there(dataset, tmp_path):
    out = tmp_path / "run"
    assert run(dataset, "--resume", out, *SMALL).exit_code == 0
    assert (out / "best").is_dir()


def test_weights_of_a_run_start_another(dataset, tmp_path):
    run(dataset, "-o", tmp_path / "one", *SMALL)
    weights = tmp_path / "one/last"
    result = run(dataset, "-o", tmp_path / "two", *SMALL, "--weights", weights)
    assert result.exit_code == 0, result.output


def test_fine_tuning_for_other_classes_says_what_was_kept_and_predicts(dataset, tmp_path):
    run(dataset, "-o", tmp_path / "one", *SMALL)
    description = json.loads((dataset / "dataset.json").read_text())
    description["labels"] = {"0": "background", "1": "rim", "2": "Box"}
    (dataset / "dataset.json").write_text(json.dumps(description))
    for path in (dataset / "labelsTr").iterdir():
        label = np.asarray(nib.load(path).dataobj)
        other = np.where(label == 1, 2, 0).astype(np.uint8)
        other[4, 4:16] = 1
        nib.save(nib.Nifti1Image(other, np.eye(4)), path)
    out = tmp_path / "two"
    how = [*SMALL[4:], "--weights", tmp_path / "one"]  # neither model nor image size
    result = run(dataset, "-o", out, *how)
    assert result.exit_code == 0, result.output
    for told in (
        f"Weights from {tmp_path}/one/best",
        "kept for Box; fresh for rim",
        "matched by name, since the order differs (Box is 2 and was 1)",
        "position embeddings: 2 x 2 kept",
        "preprocessing: as of the weights' own data",
    ):
        assert told in result.stdout
    shutil.rmtree(tmp_path / "one")
    assert run("--resume", out, "--device", "cpu").exit_code == 0
    assert run(dataset, "--resume", out, *how).exit_code == 0  # the same command once more
    _, config = from_pretrained(out / "best")
    assert config.labels == {0: "background", 1: "rim", 2: "Box"}
    assert config.architecture.image_size == (32, 32)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "transunet train DATASET -o RUN"),
        (["{data}"], "folder for the run"),
        (["{tmp}/nothing", "-o", "{tmp}/run"], "does not exist"),
        (["{data}", "-o", "{tmp}/run", "--resume", "{tmp}/other"], "two folders"),
        (["--resume", "{tmp}/nothing"], "no run in"),
        (["{data}", "-o", "{data}/dataset.json/run"], "Cannot write"),
        (["{data}", "-o", "{tmp}/run", "--device", "cuda:77"], "is not here"),
        (["{data}", "-o", "{tmp}/run", "--model", "R50-ViT-B16"], "Did you mean 'R50-ViT-B_16'"),
        (["{data}", "-o", "{tmp}/run", "--set", "epoch=3"], "did you mean 'epochs'"),
        (["{data}", "-o", "{tmp}/run", "--image-size", "100"], "not a multiple"),
        (["{data}", "-o", "{tmp}/run", "--batch-size", "many"], "batch_size"),
        (["{data}", "-o", "{tmp}/run", "--recipe", "papre"], "Did you mean 'paper'"),
        (["{data}", "-o", "{tmp}/run", "--weights", "nothing.npz"], r"nothing\.npz"),
        (["{data}", "-o", "{tmp}/run", "--weights", "{data}"], "folder of a bundle or of a run"),
        (["{data}", "-o", "{tmp}/run", "--folds", "9"], "Cannot make 9 folds"),
        (["{data}", "-o", "{tmp}/run", "--fold", "1"], "folds"),
        (["{data}", "-o", "{tmp}/run", "--epochs", "2"], "give one of them"),
    ],
)
def test_wrong_use_is_one_message_and_leaves_nothing(dataset, tmp_path, arguments, says):
    # What a case gives comes after SMALL, so that it counts.
    given = [text.format(data=dataset, tmp=tmp_path) for text in arguments]
    refused(*(SMALL if given and "--resume" not in given else []), *given, says=says)
    assert not (tmp_path / "run").exists()


def test_a_damaged_image_is_named_and_nothing_is_left(dataset, tmp_path):
    path = dataset / "imagesTr/c1.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    refused(dataset, "-o", tmp_path / "run", *SMALL, says=r"c1\.nii\.gz", code=1)
    assert not (tmp_path / "run").exists()


def test_a_store_of_another_version_is_refused(dataset, tmp_path):
    store = tmp_path / "store"
    run(dataset, "-o", tmp_path / "one", "--store", store, *SMALL)
    manifest = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    refused(store, "-o", tmp_path / "two", *SMALL, says="format 99", code=1)
    assert not (tmp_path / "two").exists()


def test_other_data_than_the_run_was_trained_on_is_refused(dataset, tmp_path):
    store, out = tmp_path / "store", tmp_path / "run"
    run(dataset, "-o", out, "--store", store, *SMALL)
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["cases"]["c0"]["hashes"] = {"imagesTr/c0.nii.gz": "0" * 64}
    (store / "manifest.json").write_text(json.dumps(manifest))
    refused("--resume", out, "--device", "cpu", says="not those that .* trained on")


@pytest.mark.slow
def test_folds_hold_out_every_case_once_and_are_summarised(dataset, tmp_path):
    out = tmp_path / "cv"
    result = run(dataset, "-o", out, *SMALL, "--folds", "3")
    assert result.exit_code == 0, result.output
    assert "each held out once" in result.stdout
    summary = json.loads((out / "folds.json").read_text())
    assert sorted(summary["cases"]) == ["c0", "c1", "c2"]
    assert len(summary["folds"]) == 3
    held_out = [read_log(out / f"fold-{fold}", "validation")[-1]["cases"] for fold in range(3)]
    assert sorted(name for cases in held_out for name in cases) == ["c0", "c1", "c2"]
    assert [line for line in result.stdout.splitlines() if line.startswith("Fold ")] == [
        f"Fold {fold + 1} of 3: {out / f'fold-{fold}'}" for fold in range(3)
    ]

    # Each case's label map is the one of the network that did not see it, with a report of all.
    maps = out / "held-out/labels"
    told = json.loads((maps / "manifest.json").read_text())["cases"]
    held_out_in = {
        case: f"../../fold-{fold}/best" for fold, cases in enumerate(held_out) for case in cases
    }
    assert {case: each["network"] for case, each in told.items()} == held_out_in
    for case, network in held_out_in.items():
        image = dataset / f"imagesTr/{case}.nii.gz"
        expected = Predictor.from_pretrained(maps / network, device="cpu", engine="eager")(image)
        written = nib.load(maps / f"{case}.nii.gz")
        np.testing.assert_array_equal(np.asarray(written.dataobj), expected.array[0])
    metrics = json.loads((out / "held-out/metrics.json").read_text())
    measured = {
        case["name"]: {each["name"]: each["dice"] for each in case["structures"]}
        for case in metrics["cases"]
    }
    assert measured == {case: pytest.approx(dice) for case, dice in summary["cases"].items()}
    assert "chosen by these very cases" in (out / "held-out/report.html").read_text()

    audit = CliRunner().invoke(app, ["evaluate", str(maps), str(dataset), "--audit"])
    assert audit.exception is None, audit.output
    assert audit.stdout.count("its epoch was chosen by 1 of the 1 cases, as the best of 2") == 3
    assert "trained on" not in audit.stdout

    # A label map that nobody would have drawn is the first suspect.
    label = dataset / "labelsTr/c1.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((20, 20, 3), np.uint8), np.eye(4)), label)
    suspects = CliRunner().invoke(app, ["check", str(dataset), "--suspect", str(out)])
    assert suspects.exception is None, suspects.output
    assert "most suspect of 3 references" in suspects.stdout


def test_a_fold_of_the_datas_own_needs_no_number_of_folds(dataset, tmp_path):
    folds = [{"train": ["c0", "c1"], "val": ["c2"]}, {"train": ["c2"], "val": ["c0", "c1"]}]
    (dataset / "splits_final.json").write_text(json.dumps(folds))
    command = [dataset, "--resume", tmp_path / "cv", *SMALL, "--fold", "1"]
    for _ in range(2):  # begun, and once more
        result = run(*command)
        assert result.exit_code == 0, result.output
        assert "1 case (3 slices) train, 2 validate" in result.stdout
        assert "splits_final.json, fold-1 of 2" in result.stdout
    (dataset / "splits_final.json").unlink()
    refused(dataset, "-o", tmp_path / "other", *SMALL, "--fold", "1", says="needs folds")


def test_what_cannot_be_learned_or_measured_is_said_before_training(dataset, tmp_path):
    label = dataset / "labelsTr/c2.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((20, 20, 3), np.uint8), np.eye(4)), label)
    file = tmp_path / "mine.json"
    file.write_text('[{"train": ["c2"], "val": ["c0"]}]')
    result = run(dataset, "-o", tmp_path / "a", *SMALL, "--splits", file)
    assert "No training case holds box" in result.stdout
    assert "neither for training nor for validation: c1" in result.stdout
    file.write_text('[{"train": ["c0", "c1"], "val": ["c2"]}]')
    result = run(dataset, "-o", tmp_path / "b", *SMALL, "--splits", file)
    assert "No held-out case holds a structure" in result.stdout
    assert "the best is the last" in result.stdout
    entries = read_log(tmp_path / "b", "validation")
    assert all(entry["best"] for entry in entries)


@pytest.mark.process
def test_folds_can_be_trained_one_at_a_time(dataset, tmp_path):
    out = tmp_path / "cv"
    first = run(dataset, "-o", out, *SMALL, "--folds", "3", "--fold", "1")
    assert first.exit_code == 0, first.output
    assert "not finished yet" in first.stdout
    assert not (out / "folds.json").exists()
    refused(dataset, "-o", out, *SMALL, "--folds", "3", "--fold", "1", says="holds a run already")
    refused(dataset, "-o", out, *SMALL, "--folds", "3", "--lr", "9", "--fold", "0", says="lr: ")
    done = (out / "fold-1/checkpoint.pt").read_bytes()
    rest = run("--resume", out, "--device", "cpu")  # trains the others, and summarises
    assert rest.exit_code == 0, rest.output
    assert (out / "folds.json").is_file()
    assert (out / "fold-1/checkpoint.pt").read_bytes() == done


def test_help_shows_an_example_and_what_matters():
    result = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "120", "TERM": "dumb"})
    assert result.exit_code == 0
    for word in (
        "Example:",
        "--resume",
        "--recipe",
        "--set",
        "--folds",
        "--batch-size",
        "--weights",
    ):
        assert word in result.stdout


def test_curves_that_could_not_be_drawn_are_not_promised(tmp_path):
    assert log_line(tmp_path).endswith("pip install 'transunet-torch[train]')")
    (tmp_path / "curves.png").touch()
    assert log_line(tmp_path) == f"log and curves: {tmp_path}"

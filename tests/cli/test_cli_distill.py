"""`transunet distill`, from a teacher to what its student kept."""

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from small_data import describe_decathlon, write_pair
from transunet.bundle.bundle_config import MODEL, keep_ranges
from transunet.cli.main import app
from transunet.errors import ConfigError
from transunet.files import sha256_of
from transunet.training.out_of_fold import validation_cases
from transunet.training.runs import Run
from transunet.trust.integers import measure_ranges

pytestmark = pytest.mark.usefixtures("without_curves")


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / "data"
    for number in range(4):
        rng = np.random.default_rng(number)
        label = np.zeros((20, 20, 3), np.uint8)
        label[5:15, 6:14] = 1
        image = (100 * label + rng.normal(0, 9, label.shape)).astype(np.int16)
        write_pair(root, f"c{number}", image, label)
    return describe_decathlon(root, ["box"], [f"c{number}" for number in range(4)])


def run(*arguments):
    result = CliRunner().invoke(app, ["distill", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


@pytest.mark.slow
@pytest.mark.process
def test_a_student_is_taught_and_measured(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("transunet.backends.opening.is_installed", lambda name: False)
    maps, student = tmp_path / "maps", tmp_path / "student"
    shutil.copytree(dataset / "labelsTr", maps)
    small = ["--model", "testing", "--iterations", 4, "--set", "validations=1", "--device", "cpu"]
    small += ["--set", "image_size=32", "--set", "batch_size=3", "--workers", 0]
    told = run(maps, "--data", dataset, "-o", student, *small, "--temperature", 3)
    assert "Warning: int8 is not measured: Nothing computes in int8 on cpu" in told
    assert "distillation.temperature" in told  # a setting that differs from the preset
    own = Run.reopen(student).recipe().distillation
    assert (own.teachers, own.temperature, own.soft_weight) == ((str(maps),), 3, 0.5)

    # Whose teacher had the very references: the figures are those of the references.
    report = json.loads((student / "distillation.json").read_text())
    teacher, taught = report["networks"]
    assert (teacher["name"], teacher["dice"], teacher["seconds"]) == ("teacher", 1, None)
    assert taught["kept"] == pytest.approx(taught["dice"])
    assert taught["agreement"] == pytest.approx(taught["dice"])
    assert teacher["gain"] == pytest.approx(taught["dice"] - 1)
    assert taught["seconds"] > 0
    assert taught["memory_mib"] > 50
    assert taught["precision"] == "fp32"

    # Ranges of other weights cannot be converted with: the other rows are there all the same.
    monkeypatch.undo()
    best = student / "best"
    ranges = measure_ranges(best, validation_cases(Run.reopen(student)), "cpu")
    ranges = ranges.model_copy(update={"fidelity": None})  # too poor here for int8 to be taken
    keep_ranges(best, ranges.model_copy(update={"fingerprint": 64 * "0"}))
    twin, large = student / "last", tmp_path / "large"
    shutil.copytree(student / "last", large)
    measured = ["--data", dataset, "--compare", twin, "--device", "cpu", "--attach", large]
    told = run("--report", student, *measured)
    assert sha256_of(large / "fast" / MODEL) == sha256_of(best / MODEL)
    assert "What the student kept" in told
    assert "Warning: int8 is not measured: " in told
    assert "were measured with other weights" in told
    report = json.loads((student / "distillation.json").read_text())
    assert report["cases"] == 4
    assert [each["name"] for each in report["networks"]] == ["teacher", "student", str(twin)]
    assert report["note"] is None

    keep_ranges(best, ranges)
    monkeypatch.setattr("transunet.backends.conversion._seconds", lambda images, *networks: (1, 2))
    assert "int8 is not measured" not in run("--report", student, "--device", "cpu")
    integers = json.loads((student / "distillation.json").read_text())["networks"][2]
    assert (integers["name"], integers["precision"]) == ("student, int8", "int8")
    assert 0 < integers["megabytes"] < taught["megabytes"]

    with pytest.raises(ConfigError, match=r"fast exists already\. Remove"):
        run("T", "--data", dataset, "-o", tmp_path / "another", "--attach", large)
    assert not (tmp_path / "another").exists()
    shutil.rmtree(large / "fast")
    other = json.loads((large / "config.json").read_text())
    other["labels"]["1"] = "sphere"
    (large / "config.json").write_text(json.dumps(other))
    with pytest.raises(ConfigError, match=r"other structures than .*sphere"):
        run("--report", student, "--attach", large)
    assert not (large / "fast").exists()


def test_wrong_use_is_told(dataset, tmp_path):
    with pytest.raises(ConfigError, match="Give teachers, data and a folder"):
        run(tmp_path / "maps")
    with pytest.raises(ConfigError, match="leave TEACHER and -o out"):
        run("T", "--report", tmp_path)
    made = r"no run in .*run\.json\. Give the folder that .*distill` made with -o"
    for more in ((), ("--attach", tmp_path)):
        with pytest.raises(ConfigError, match=made):
            run("--report", tmp_path, *more)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match=f"a part of: {tmp_path}$"):
        run("--report", tmp_path / "best")
    (tmp_path / "run.json").unlink()
    with pytest.raises(ConfigError, match=r"There is no bundle .*gone"):
        run(tmp_path / "gone", "--data", dataset, "-o", tmp_path / "run", "--device", "cpu")
    taught = (dataset / "labelsTr", "--data", dataset, "-o", tmp_path / "run", "--device", "cpu")
    with pytest.raises(ConfigError, match=r"There is no bundle .*twin"):
        run(*taught, "--compare", tmp_path / "twin")
    with pytest.raises(ConfigError, match=r"There is no image .*more"):
        run(*taught, "--images", tmp_path / "more")
    assert not (tmp_path / "run").exists()

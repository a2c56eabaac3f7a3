"""`transunet check` and `transunet prepare` as commands."""

import itertools
import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from transunet.cli import check as check_command
from transunet.cli import prepare as prepare_command
from transunet.data.store import Store
from transunet.errors import ConfigError, DataError
from transunet.training.recipe import load_recipe


@pytest.fixture
def run(monkeypatch):
    """Run a command; what it raises on purpose is returned as `exception`."""
    monkeypatch.setenv("COLUMNS", "200")
    app = typer.Typer()
    app.command(epilog=check_command.EXAMPLE)(check_command.check)
    app.command(epilog=prepare_command.EXAMPLE)(prepare_command.prepare)

    def invoke(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


def broken(decathlon, save, value=9):
    folder = decathlon()
    save(folder / "labelsTr/toy_01.nii.gz", np.full((8, 9, 5), value, np.uint8))
    return folder


def test_a_sound_data_set_ends_with_0(decathlon, run):
    result = run("check", decathlon())
    assert result.exit_code == 0
    assert "4 cases in the layout decathlon, 0 errors, 0 warnings" in result.stdout


def test_warnings_alone_end_with_0(decathlon, run, save):
    folder = decathlon()
    save(folder / "labelsTr/toy_01.nii.gz", np.zeros((8, 9, 5), np.uint8))
    result = run("check", folder)
    assert result.exit_code == 0
    assert "warning" in result.stdout
    assert "toy_01" in result.stdout


def test_errors_end_with_1_and_give_file_and_remedy(decathlon, run, save, tmp_path):
    folder = broken(decathlon, save)
    result = run("check", folder, "--json", tmp_path / "report.json")
    assert result.exit_code == 1
    assert f"{folder}/labelsTr/toy_01.nii.gz: label values" in result.stdout
    assert "Correct the label map" in result.stdout
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["problems"][0]["kind"] == "unknown-label"


def test_many_problems_of_a_kind_are_summed_up(decathlon, run, save):
    folder = decathlon(cases=14)
    for number in range(14):
        save(folder / f"labelsTr/toy_{number:02d}.nii.gz", np.full((8, 9, 5), 9, np.uint8))
    result = run("check", folder)
    assert result.stdout.count("label values") == 10
    assert "4 more like these" in result.stdout


def test_fix_ends_with_0_when_the_copy_is_sound(decathlon, run, save, tmp_path):
    folder = broken(decathlon, save)
    result = run("check", folder, "--fix", tmp_path / "out", "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    assert "left out" in result.stdout
    assert len(json.loads((tmp_path / "r.json").read_text())["left_out"]) == 1
    assert run("check", tmp_path / "out").exit_code == 0


def test_wrong_use_of_check_is_refused(decathlon, run, tmp_path):
    assert isinstance(run("check", tmp_path / "nowhere").exception, ConfigError)
    assert isinstance(run("check", decathlon(), "--layout", "nothing").exception, ConfigError)
    (tmp_path / "empty").mkdir()
    result = run("check", tmp_path / "nowhere", "--json", tmp_path)  # before a case is read
    assert "--json" in str(result.exception)
    result = run("check", tmp_path / "empty")
    assert result.exit_code == 1
    assert "it is empty" in result.stdout


def test_a_store_is_no_data_set(decathlon, run, tmp_path):
    run("prepare", decathlon(), "-o", tmp_path / "store")
    for command in ("check", "prepare"):
        result = run(command, tmp_path / "store", *(["-o", tmp_path / "x"] * (command != "check")))
        assert isinstance(result.exception, ConfigError)
        assert f"{tmp_path / 'store'} is a prepared store" in str(result.exception)
    assert not (tmp_path / "x").exists()


def test_where_no_copy_can_go_is_said_before_a_case_is_read(decathlon, run, tmp_path, monkeypatch):
    monkeypatch.setattr("transunet.data.checks.check.examine", None)
    result = run("check", decathlon(), "--fix", tmp_path)
    assert isinstance(result.exception, ConfigError)
    assert "not an empty folder" in str(result.exception)


@pytest.mark.process
def test_prepare_makes_a_store_and_shows_what_it_derived(decathlon, run, tmp_path):
    result = run("prepare", decathlon(), "-o", tmp_path / "store", "--workers", 2)
    assert result.exit_code == 0, result.output
    recipe = load_recipe()  # what `train` takes where nobody says otherwise
    for expected in (
        "mean 0 and deviation 1",
        "--normalisation",
        "S, rows along R, columns along A",
        f"image size     {recipe.size[0]}",
        "auto and --recipe modern take 64: the median slice has 8 x 9 pixels",
        f"batch size     {recipe.batch}",
        "left",
        "3 train, 1 validate",
    ):
        assert expected in result.stdout
    assert len(Store.open(tmp_path / "store").cases) == 4


def test_every_derived_value_can_be_overridden(decathlon, run, tmp_path):
    result = run(
        *("prepare", decathlon(), "-o", tmp_path / "store", "--normalisation", "clip"),
        *("--window", -10, 90, "--spacing", 2, 1, "--slice-axis", 1, "--orientation", "LPS"),
        *("--folds", 2, "--seed", 7),
    )
    assert result.exit_code == 0, result.output
    store = Store.open(tmp_path / "store")
    used = store.preprocessing
    assert (used.orientation, used.spacing_mm) == ("PLS", (None, 2, 1))
    assert (used.channels[0].normalisation, used.channels[0].low, used.channels[0].high) == (
        "clip",
        -10,
        90,
    )
    assert store.image("toy_00").shape == (1, 9, 4, 5)
    assert len(store.splits) == 2


def test_the_modality_chooses_the_normalisation(decathlon, run, tmp_path):
    assert run("prepare", decathlon(), "-o", tmp_path / "s", "--modality", "CT").exit_code == 0
    (channel,) = Store.open(tmp_path / "s").preprocessing.channels
    assert (channel.normalisation, channel.low) == ("clip", -125)


def test_groups_come_from_names(decathlon, run, tmp_path):
    folder = decathlon(cases=12)  # toy_00 to toy_09 are one patient, toy_10 and toy_11 another
    result = run("prepare", folder, "-o", tmp_path / "s", "--group-by", "toy_([0-9])")
    assert result.exit_code == 0, result.output
    (part,) = Store.open(tmp_path / "s").splits
    assert {len(part.train), len(part.validation)} == {2, 10}


@pytest.mark.parametrize(
    ("pattern", "says"), [("(toy)", "at least 2"), ("[", "no regular"), ("_01", "3 of 4 names")]
)
def test_groups_that_cannot_be_are_refused(decathlon, run, tmp_path, pattern, says):
    result = run("prepare", decathlon(), "-o", tmp_path / "s", "--group-by", pattern)
    assert isinstance(result.exception, ConfigError)
    assert says in str(result.exception)


def test_prepare_refuses_in_the_words_of_check(decathlon, run, save, tmp_path):
    folder = broken(decathlon, save)
    result = run("prepare", folder, "-o", tmp_path / "store")
    assert isinstance(result.exception, DataError)
    said = " ".join(run("check", folder).stdout.split())
    for sentence in str(result.exception).split(". "):
        assert sentence.strip(".") in said


@pytest.mark.parametrize(
    "options",
    [
        ("--normalisation", "clip"),
        ("--modality", "CT,PET"),
        ("--folds", 9),
        ("--fraction", 2),
        ("--orientation", "UP"),
        ("--spacing", 0, 1),
        ("--split", "own"),
    ],
)
def test_wrong_use_of_prepare_is_refused_and_leaves_nothing(decathlon, run, tmp_path, options):
    result = run("prepare", decathlon(), "-o", tmp_path / "store", *options)
    assert isinstance(result.exception, ConfigError), result.output
    assert not (tmp_path / "store").exists()


def test_help_shows_an_example(run):
    for command in ("check", "prepare"):
        assert f"Example: transunet {command}" in run(command, "--help").stdout


def test_check_and_prepare_say_the_split_and_its_rule_alike(decathlon, run, tmp_path):
    folder = decathlon(cases=6)
    content = json.loads((folder / "dataset.json").read_text())
    entries = content["training"]
    content |= {"training": entries[:3], "validation": entries[3:5], "test": entries[5:]}
    (folder / "dataset.json").write_text(json.dumps(content))
    says = "3 train, 2 validate, 1 test: split of dataset.json"
    assert says in run("check", folder).stdout
    assert says in run("prepare", folder, "-o", tmp_path / "own").stdout
    asked = run("prepare", folder, "-o", tmp_path / "all", "--fraction", 0)
    assert "5 train, 0 validate, 1 test: none held out, as asked for" in asked.stdout


def test_options_that_split_in_several_ways_are_refused(decathlon, run, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('[{"train": ["toy_00"], "val": ["toy_01"]}]')
    options = ["--splits", file], ["--folds", 3], ["--fraction", 0.5], ["--split", "own"]
    for first, second in itertools.combinations(options, 2):
        result = run("prepare", decathlon(), "-o", tmp_path / "s", *first, *second)
        assert isinstance(result.exception, ConfigError), (first, second)
    result = run("prepare", decathlon(), "-o", tmp_path / "s", "--splits", file)
    assert f"1 train, 1 validate, 0 test: --splits {file}" in result.stdout
    assert "Warning: The split names neither for training nor for validation" in result.stdout

"""`transunet predict` as it is typed: what it writes, what it refuses, how it exits."""

import json
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from prediction import (
    hounsfield,
    left_in,
    noise,
    save_nifti,
    tiny_bundle,
    tiny_trust,
    transunet,
)
from transunet.bundle.bundle_config import keep_trust
from transunet.cli.main import app
from transunet.cli.predict import millilitres
from transunet.errors import ConfigError, DataError, TransUNetError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", "--device", "cpu", *map(str, arguments)])


def refused(error: type[TransUNetError], *arguments: object) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, error), result.output
    return str(result.exception)


def test_files_and_folders_become_label_maps(bundle: Path, tmp_path: Path) -> None:
    image = save_nifti(tmp_path / "in" / "a.nii.gz")
    save_nifti(tmp_path / "more" / "b.nii.gz")
    result = run(bundle, image, tmp_path / "more", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "2 label maps" in result.output
    for name in ("a", "b"):
        assert nib.load(tmp_path / "out" / f"{name}.nii.gz").shape == (20, 24, 6)


def test_a_failing_case_is_reported_and_the_others_go_on(bundle: Path, tmp_path: Path) -> None:
    whole = save_nifti(tmp_path / "in" / "a.nii.gz")
    cut = tmp_path / "in" / "b.nii.gz"
    cut.write_bytes(whole.read_bytes()[:2000])
    save_nifti(tmp_path / "in" / "c.nii.gz")
    message = refused(DataError, bundle, tmp_path / "in", "-o", tmp_path / "out")
    assert "1 of 3" in message
    assert str(cut) in message
    found = {name for name in left_in(tmp_path / "out") if name.endswith(".nii.gz")}
    assert found == {"a.nii.gz", "c.nii.gz"}


def test_wrong_channels_name_both_counts(bundle: Path, tmp_path: Path) -> None:
    two = save_nifti(tmp_path / "two.nii.gz", np.stack([noise(), noise()], axis=-1))
    message = refused(DataError, bundle, two, "-o", tmp_path / "out")
    assert "2 channels" in message
    assert "expected 1" in message


def test_a_ct_for_mri_is_refused_unless_it_is_forced(bundle: Path, tmp_path: Path) -> None:
    image, out = save_nifti(tmp_path / "ct.nii.gz", hounsfield()), tmp_path / "out"
    message = refused(DataError, bundle, image, "-o", out)
    assert "its values look like a CT's Hounsfield units" in message
    assert "the model was trained on MRI (channel 'MRI 0')" in message
    assert "--force" in message
    assert not list(out.glob("*.nii.gz"))
    forced = run(bundle, image, "-o", out, "--force")
    assert forced.exit_code == 0, forced.output
    told = "Segmented although its values look like a CT's Hounsfield units"
    assert f"Warning: ct: {told}" in forced.stderr
    (warning,) = json.loads((out / "manifest.json").read_text())["cases"]["ct"]["warnings"]
    assert warning.startswith(told)


def test_a_bundle_without_its_config_is_wrong_use(bundle: Path, tmp_path: Path) -> None:
    image = save_nifti(tmp_path / "a.nii.gz")
    half = tmp_path / "half"
    half.mkdir()
    (half / "model.safetensors").write_bytes((bundle / "model.safetensors").read_bytes())
    message = refused(ConfigError, half, image, "-o", tmp_path / "out")
    assert "config.json" in message
    assert not (tmp_path / "out").exists()


def test_a_missing_input_is_wrong_use(bundle: Path, tmp_path: Path) -> None:
    message = refused(ConfigError, bundle, tmp_path / "none.nii.gz", "-o", tmp_path / "out")
    assert "none.nii.gz" in message
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_is_a_file_is_wrong_use(bundle: Path, tmp_path: Path) -> None:
    image = save_nifti(tmp_path / "a.nii.gz")
    (tmp_path / "out").write_text("here already")
    message = refused(ConfigError, bundle, image, "-o", tmp_path / "out")
    assert "Choose another" in message
    assert (tmp_path / "out").read_text() == "here already"


@pytest.mark.process
@pytest.mark.parametrize(("what", "code"), [("cut", 1), ("missing", 2)])
def test_the_process_ends_with_one_message_and_its_code(
    bundle: Path, tmp_path: Path, what: str, code: int
) -> None:
    path = tmp_path / f"{what}.nii.gz"
    if what == "cut":
        path.write_bytes(save_nifti(tmp_path / "a.nii.gz").read_bytes()[:500])
    ended = transunet("predict", bundle, path, "-o", tmp_path / "out", "--device", "cpu")
    assert ended.returncode == code
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count("Error:") == 1
    assert path.name in ended.stderr


def test_everything_that_can_be_asked_for_at_once(bundle: Path, tmp_path: Path) -> None:
    save_nifti(tmp_path / "in" / "a.nii.gz")
    other = tiny_bundle(tmp_path / "fold_1", seed=1)
    options = ["--mirror", "--ensemble", other, "--largest-component", "left", "--uncertainty"]
    options += ["--probabilities", "nii", "--format", "npz", "--batch-size", "2"]
    result = run(bundle, tmp_path / "in", "-o", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert {"a.npz", "probabilities/a.nii", "uncertainty/a.nii"} <= left_in(tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["bundle"]["sources"] == [str(bundle), str(other)]
    assert manifest["settings"] == {
        "precision": "fp32",
        "procedure": "native",
        "mirror": True,
        "window": False,
        "largest_component": ["left"],
        "format": "npz",
        "probabilities": "nii",
        "uncertainty": True,
    }


def labelled_pairs(folder: Path) -> Path:
    """A data set of three cases for testing; one of them has no label."""
    for number in range(3):
        image = noise((20, 24, 6), number)
        save_nifti(folder / "test/images" / f"{number}.nii.gz", image)
        if number < 2:
            labels = np.digitize(image, [-300, 300]).astype(np.uint8)
            save_nifti(folder / "test/masks" / f"{number}.nii.gz", labels)
    return folder


def test_both_procedures_measured_beside_each_other(bundle: Path, tmp_path: Path) -> None:
    dataset, out = labelled_pairs(tmp_path / "set"), tmp_path / "out"
    result = run(bundle, dataset, "-o", out, "--procedure", "both")
    assert result.exit_code == 0, result.output
    assert "A minus B" in result.output
    figures = json.loads((out / "comparison.json").read_text())
    assert {case["name"] for case in figures["cases"]} == {"0", "1"}
    assert json.loads((out / "manifest.json").read_text())["settings"]["procedure"] == "both"
    for letter, procedure in (("A", "native"), ("B", "paper")):
        alone = tmp_path / procedure
        run(bundle, dataset, "-o", alone, "--procedure", procedure)
        for name in ("0.nii.gz", "1.nii.gz"):
            one, other = (nib.load(folder / name) for folder in (out / procedure, alone))
            assert np.array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))
        told = CliRunner().invoke(app, ["evaluate", str(out / procedure), str(dataset), "--subset"])
        dice = told.output.split("mean foreground Dice ")[1].strip()
        closing = f"{letter} ({out / procedure}): mean foreground Dice {dice}"
        assert closing in result.output.splitlines()


def test_both_procedures_without_references(bundle: Path, tmp_path: Path) -> None:
    image, out = save_nifti(tmp_path / "a.nii.gz"), tmp_path / "out"
    result = run(bundle, image, "-o", out, "--procedure", "both")
    assert {"native/a.nii.gz", "paper/a.nii.gz"} <= left_in(out)
    assert f"transunet evaluate {out / 'native'} {out / 'paper'} REFERENCES" in result.output
    told = refused(ConfigError, bundle, image, "-o", out, "--procedure", "both", "--uncertainty")
    assert "label maps only" in told


@pytest.mark.process
def test_one_line_for_all_cases_and_one_for_the_present(bundle: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        save_nifti(tmp_path / "in" / f"{name}.nii.gz")
    (tmp_path / "in" / "third.nii.gz").write_bytes(b"no image")
    ended = transunet("predict", bundle, tmp_path / "in", "-o", tmp_path / "out", "--device", "cpu")
    shown = [line for line in ended.stderr.splitlines() if "/" in line and "━" in line]
    assert [line.split()[0] for line in shown] == ["all", "second"]
    assert {"3/3", "cases"} <= set(shown[0].split())
    assert {"24/24", "slices"} <= set(shown[1].split())


def test_a_data_sets_split_and_a_series_are_chosen(bundle: Path, tmp_path: Path) -> None:
    dataset, image = labelled_pairs(tmp_path / "set"), save_nifti(tmp_path / "a.nii.gz")
    assert "3 label maps" in run(bundle, dataset, "-o", tmp_path / "out").output
    told = refused(ConfigError, bundle, dataset, "-o", tmp_path / "x", "--split", "train")
    assert "it has test" in told
    told = refused(ConfigError, bundle, image, "-o", tmp_path / "x", "--series", "1")
    assert "none of the inputs is DICOM" in told


def test_the_next_command_can_be_pasted(bundle: Path, tmp_path: Path) -> None:
    image = save_nifti(tmp_path / "my [scans]" / "a b.nii.gz", noise((12, 14, 3)))
    out = tmp_path / "label maps"
    told = run(bundle, image, "-o", out).output
    (command,) = [line for line in told.splitlines() if line.startswith("Next: ")]
    program, *words = shlex.split(command.removeprefix("Next: "))
    assert program == "transunet"
    assert words == ["view", str(image), str(out), "-o", "SHEETS"]


def test_a_second_run_says_what_it_kept(bundle: Path, tmp_path: Path) -> None:
    save_nifti(tmp_path / "in" / "a.nii.gz")
    run(bundle, tmp_path / "in", "-o", tmp_path / "out")
    save_nifti(tmp_path / "in" / "b.nii.gz")
    assert "1 label map in" in (told := run(bundle, tmp_path / "in", "-o", tmp_path / "out").output)
    assert "1 finished before" in told
    assert (
        "2 label maps" in run(bundle, tmp_path / "in", "-o", tmp_path / "out", "--overwrite").output
    )


def test_a_window_is_slid_over_large_slices(bundle: Path, tmp_path: Path) -> None:
    image = save_nifti(tmp_path / "a.nii.gz", noise((70, 80, 3)))
    assert run(bundle, image, "-o", tmp_path / "out", "--window").exit_code == 0
    assert nib.load(tmp_path / "out" / "a.nii.gz").shape == (70, 80, 3)


def test_a_pattern_that_the_shell_left_alone(bundle: Path, tmp_path: Path) -> None:
    for name in ("a1", "a2", "b1"):
        save_nifti(tmp_path / f"{name}.nii.gz")
    assert "2 label maps" in run(bundle, tmp_path / "a*.nii.gz", "-o", tmp_path / "out").output


def test_settings_that_cannot_be_are_wrong_use(bundle: Path, tmp_path: Path) -> None:
    image = save_nifti(tmp_path / "a.nii.gz")
    other = tiny_bundle(tmp_path / "other", classes=4)
    wrong = [
        (["--largest-component", "heart"], "has no structure 'heart'; it has left, right"),
        (["--ensemble", other], "their labels differ"),
        (["--window", "--procedure", "paper"], "no windows"),
        (["--procedure", "both", "--uncertainty"], "Both procedures give label maps only"),
        (["--report"], "A report refers to a DICOM segmentation"),
    ]
    for options, expected in wrong:
        message = refused(ConfigError, bundle, image, "-o", tmp_path / "out", *options)
        assert expected in message
    assert not (tmp_path / "out").exists()


def test_an_error_that_only_wrong_use_explains_exits_with_2(bundle: Path, tmp_path: Path) -> None:
    image = save_nifti(tmp_path / "a.nii.gz")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "probabilities").write_text("a file in the way")
    message = refused(ConfigError, bundle, image, "-o", tmp_path / "out", "--probabilities", "npy")
    assert "1 of 1" in message
    assert not (tmp_path / "out" / "a.nii.gz").exists()


def test_of_many_cases_those_that_need_a_look_are_named(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    keep_trust(bundle, tiny_trust(left=0.93, right=0.61))
    for index in range(6):
        save_nifti(tmp_path / "in" / f"c{index}.nii.gz", abs(noise((20, 24, 2), index)))
    arguments = (bundle, tmp_path / "in", "-o", tmp_path / "out")
    result = run(*arguments, "--fail-below", "0.6")
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "c5: look at this: right" in said
    assert "left" not in said
    assert "6 of 6 cases need a look: c0, c1, c2, c3, c4 and 1 more" in said
    assert "statistics.csv" in said
    message = refused(TransUNetError, *arguments, "--fail-below", "0.7")  # of cases that are kept
    assert "Less than Dice 0.7 is expected of 6: c0 right (0.61)" in message


@pytest.mark.parametrize(
    ("volume", "told"),
    [
        (0.0001234, "0.0001234"),
        (2.0, "2.000"),
        (999.96, "1000"),
        (1432.4, "1,432"),
        (7e4, "70,000"),
    ],
)
def test_a_volume_is_told_to_four_digits_and_never_as_a_power_of_ten(
    volume: float, told: str
) -> None:
    assert millilitres(volume) == told

"""`transunet predict --clicks`: what it computes anew, what it keeps, and what it refuses."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from prediction import left_in, save_nifti, tiny_bundle, with_clicks
from transunet.cli.main import app
from transunet.errors import ConfigError, DataError, TransUNetError


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def bundle(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network, which takes clicks and has not learned yet to follow them."""
    return with_clicks(plain, tmp_path_factory.mktemp("clicked"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", "--device", "cpu", *map(str, arguments)])


def refused(error: type[TransUNetError], *arguments: object) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, error), result.output
    return str(result.exception)


def written(path: Path, value: object) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_planes_with_clicks_are_computed_anew_and_others_kept(
    bundle: Path, plain: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        save_nifti(tmp_path / "in" / f"{name}.nii.gz")
    assert run(plain, tmp_path / "in", "-o", tmp_path / "plain").exit_code == 0
    image = nib.load(tmp_path / "in" / "a.nii.gz")
    (tmp_path / "drawn").mkdir()
    drawn = np.full(image.shape, 2, np.uint8)
    for name in ("a", "b"):
        nib.save(nib.Nifti1Image(drawn, image.affine), tmp_path / "drawn" / f"{name}.nii.gz")
    place = (image.affine @ (5, 6, 4, 1))[:3].tolist()
    clicks = {"a": [{"voxel": [3, 4, 1], "structure": "left"}, {"mm": place}]}
    file = written(tmp_path / "clicks.json", clicks)
    command = (bundle, tmp_path / "in", "--clicks", file, "--previous", tmp_path / "drawn")
    result = run(*command, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    found, ordinary = voxels(tmp_path / "out/a.nii.gz"), voxels(tmp_path / "plain/a.nii.gz")
    np.testing.assert_array_equal(found[:, [4, 6]], ordinary[:, [4, 6]])  # its axial planes
    assert (np.delete(found, [4, 6], 1) == 2).all()
    assert (voxels(tmp_path / "out/b.nii.gz") == 2).all()
    settings = json.loads((tmp_path / "out/manifest.json").read_text())["settings"]
    assert settings["clicks"] == {"a": [{"voxel": [3, 4, 1], "structure": "left"}, {"mm": place}]}
    assert "2 finished before" in run(*command, "-o", tmp_path / "out").output

    # Without a previous label map it begins with what the network finds; other clicks are others.
    result = run(bundle, tmp_path / "in" / "a.nii.gz", "--clicks", written(file, []), "-o",
                 tmp_path / "alone")  # fmt: skip
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(voxels(tmp_path / "alone/a.nii.gz"), ordinary)
    message = refused(DataError, *command[:3], written(file, {}), "-o", tmp_path / "out")
    assert "--overwrite" in message

    # The label map that was corrected is part of what was computed, too.
    file = written(file, clicks)
    nib.save(nib.Nifti1Image(drawn - 1, image.affine), tmp_path / "drawn" / "b.nii.gz")
    message = refused(DataError, *command, "-o", tmp_path / "out")
    assert "1 of 2 cases" in message
    assert "b: the output folder holds its label map made from another label map" in message


BAD_FILES = {
    "no JSON": ("[{", DataError, "cannot be read as JSON.*Expected a list of clicks"),
    "a number": ("5", ConfigError, "found int. Expected a list of clicks"),
    "no click": ('["here"]', ConfigError, "clicks.json, a, click 1: expected an object"),
    "no place": ('[{"structure": 1}]', ConfigError, "click 1: .*give either voxel or mm"),
    "two": ('[{"voxel": [1,1,1], "mm": [1,1,1]}]', ConfigError, "give either voxel or mm"),
    "unknown key": ('[{"voxel": [1,1,1], "label": 1}]', ConfigError, "unknown setting 'label'"),
    "half a voxel": ('[{"voxel": [1,1.5,1]}]', ConfigError, "voxel.1"),
    "NaN": ('[{"mm": [1, NaN, 1]}]', ConfigError, "finite"),
    "structure": (
        '[{"voxel": [1,1,1], "structure": "kidney"}]',
        ConfigError,
        "no structure 'kidney'; it has left, right",
    ),
    "another case": ('{"c": []}', ConfigError, "there is no case 'c'; there are a"),
    "outside": ('[{"voxel": [1,1,99]}]', DataError, r"voxel \[1, 1, 99\] lies outside"),
    "far": ('[{"mm": [1e300, 1, 1]}]', DataError, "lies outside"),
}


@pytest.mark.parametrize(("text", "error", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_clicks_are_refused(
    bundle: Path, tmp_path: Path, text: str, error: type[TransUNetError], message: str
) -> None:
    image = save_nifti(tmp_path / "in" / "a.nii.gz")
    file = written(tmp_path / "clicks.json", text)
    result = run(bundle, image, "-o", tmp_path / "out", "--clicks", file)
    assert isinstance(result.exception, error), result.output
    assert not any(name.endswith(".nii.gz") for name in left_in(tmp_path / "out"))
    with pytest.raises(error, match=message):
        raise result.exception


def test_options_that_exclude_each_other_are_refused(
    bundle: Path, plain: Path, tmp_path: Path
) -> None:
    image = save_nifti(tmp_path / "in" / "a.nii.gz")
    save_nifti(tmp_path / "in" / "b.nii.gz")
    file = written(tmp_path / "clicks.json", [{"voxel": [1, 1, 1]}])
    clicked = (bundle, image, "-o", tmp_path / "out", "--clicks", file)
    assert "--set clicks=true" in refused(ConfigError, plain, *clicked[1:])
    assert "give --clicks FILE" in refused(ConfigError, *clicked[:4], "--previous", tmp_path)
    assert "give no probabilities" in refused(ConfigError, *clicked, "--uncertainty")
    assert "leave out window" in refused(ConfigError, *clicked, "--window")
    assert "paper" in refused(ConfigError, *clicked, "--procedure", "paper")
    assert "not for an ensemble" in refused(ConfigError, *clicked, "--ensemble", plain)
    assert "not known" in refused(ConfigError, *clicked, "--fail-below", 0.5)
    assert "for one image, and there are 2" in refused(
        ConfigError, bundle, tmp_path / "in", *clicked[2:]
    )
    assert "expected a folder" in refused(ConfigError, *clicked, "--previous", tmp_path / "none")
    message = refused(DataError, *clicked, "--previous", tmp_path / "in")
    assert "a.nii.gz" in message  # an image is no label map
    (tmp_path / "empty").mkdir()
    message = refused(ConfigError, *clicked, "--overwrite", "--previous", tmp_path / "empty")
    assert "There is no label map" in message

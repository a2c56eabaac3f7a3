"""`transunet predict --engine ... --precision ...`: what is taken, told and refused."""

import json
import logging
import zipfile
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from prediction import save_nifti, tiny_bundle
from transunet.backends.engines import ENGINES, check_name
from transunet.backends.exported import pack
from transunet.bundle.bundle_config import read_config
from transunet.cli.main import app
from transunet.errors import ConfigError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSUNET_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return save_nifti(tmp_path / "a.nii.gz")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", "--device", "cpu", *map(str, arguments)])


def labels(folder: Path) -> np.ndarray:
    return np.asarray(nib.load(folder / "a.nii.gz").dataobj)


def test_the_choice_is_told_and_kept(bundle: Path, image: Path, tmp_path: Path) -> None:
    result = run(bundle, image, "-o", tmp_path / "out", "--engine", "eager")
    assert result.exit_code == 0, result.output
    assert "Computing with eager in fp32 on cpu." in result.stdout.splitlines()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    told = {key: manifest[key] for key in ("engine", "precision", "device")}
    assert told == {"engine": "eager", "precision": "fp32", "device": "cpu"}
    assert manifest["settings"]["precision"] == "fp32"


def test_converting_is_told_once(bundle: Path, image: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    first = run(bundle, image, "-o", tmp_path / "one", "--engine", "openvino")
    again = run(bundle, image, "-o", tmp_path / "two", "--engine", "openvino")
    assert first.exit_code == again.exit_code == 0, first.output + again.output
    assert f"Converting {bundle} for openvino" in first.stderr
    assert "Converting" not in again.output
    plain = run(bundle, image, "-o", tmp_path / "plain", "--engine", "eager")
    assert plain.exit_code == 0
    assert (labels(tmp_path / "one") == labels(tmp_path / "plain")).mean() > 0.999
    assert np.array_equal(labels(tmp_path / "one"), labels(tmp_path / "two"))
    assert not logging.getLogger("transunet").handlers, "the command cleans up behind itself"


def test_a_fallback_is_told(
    bundle: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transunet.backends.opening._LEAST_BYTES", 0)
    monkeypatch.setattr("transunet.backends.engines.find_spec", lambda package: package)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRANSUNET_CACHE", str(tmp_path / "file"))
    result = run(bundle, image, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "Warning: openvino is passed over" in result.stderr
    assert "Computing with eager in fp32 on cpu." in result.stdout


def test_another_precision_is_another_run(bundle: Path, image: Path, tmp_path: Path) -> None:
    half = ("--engine", "eager", "--precision", "bf16")
    assert run(bundle, image, "-o", tmp_path / "out", *half).exit_code == 0
    other = run(bundle, image, "-o", tmp_path / "out", "--engine", "eager")
    assert "made from another bundle or other settings" in str(other.exception)
    compiled = run(bundle, image, "-o", tmp_path / "out", *half)
    assert compiled.exit_code == 0
    assert "1 finished before" in compiled.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--precision", "int8", "--engine", "eager"], "does not compute in int8"),
        (["--engine", "onnxruntime", "--precision", "bf16"], "possible: fp32"),
        (["--engine", "eager", "--precision", "fp16"], "fp16 on cpu"),
    ],
)
def test_what_cannot_be_had_is_wrong_use(
    bundle: Path, image: Path, tmp_path: Path, options: list[str], says: str
) -> None:
    result = run(bundle, image, "-o", tmp_path / "out", *options)
    assert isinstance(result.exception, ConfigError)
    assert says in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_program_wants_trust(bundle: Path, image: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        for key, text in pack(read_config(bundle), "0" * 64).items():
            archive.writestr(f"model/extra/{key}", text)
    result = run(tmp_path / "model.pt2", image, "-o", tmp_path / "out")
    assert isinstance(result.exception, ConfigError)
    assert "--trust" in str(result.exception)


def test_a_mistyped_image_is_told_before_anything_is_converted(
    bundle: Path, tmp_path: Path
) -> None:
    result = run(bundle, tmp_path / "no.nii", "-o", tmp_path / "out", "--engine", "onnxruntime")
    assert "no.nii" in str(result.exception)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("command", ["predict", "serve"])
@pytest.mark.parametrize(
    ("option", "says"), [("--engine", "auto, openvino"), ("--precision", "auto, fp32")]
)
def test_a_mistyped_name_is_told_with_those_that_there_are(
    command: str, option: str, says: str, bundle: Path, image: Path, tmp_path: Path
) -> None:
    more = {"predict": (image, "-o", tmp_path / "out"), "serve": ()}[command]
    words = [command, bundle, *more, option, "fast"]
    result = CliRunner().invoke(app, [*map(str, words)])
    assert isinstance(result.exception, ConfigError)
    assert f"There is no {option[2:]} 'fast'; known: {says}" in str(result.exception)


def test_an_engine_is_one_entry(
    bundle: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Left:
        """Calls every pixel "left"."""

        def __init__(self, source: object, image_size: tuple[int, int], *_: object) -> None:
            self.image_size, self.device, self.fingerprint = image_size, "cpu", "left"

        def __call__(self, images: np.ndarray) -> np.ndarray:
            logits = np.zeros((len(images), 3, *self.image_size), np.float32)
            logits[:, 1] = 1
            return logits

    everywhere = {"precisions": {"cpu": ("fp64",)}, "auto": False}
    toy = replace(ENGINES["eager"], open=Left, format="", suffix="", reads=(), **everywhere)
    monkeypatch.setitem(ENGINES, "toy", toy)
    asked = ("--engine", "toy", "--precision", "fp64")
    result = run(bundle, image, "-o", tmp_path / "out", *asked)
    assert result.exit_code == 0, result.output
    assert "Computing with toy in fp64 on cpu." in result.stdout
    assert (labels(tmp_path / "out") == 1).all()
    with pytest.raises(ConfigError, match=r"known: .*toy"):
        check_name("engine", "tyo")

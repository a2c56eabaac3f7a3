import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import transunet.export.export as export_module
from prediction import left_in, noise, save_nifti, tiny_bundle
from transunet.backends.opening import open_network
from transunet.cli.main import app
from transunet.errors import ConfigError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("cli-export") / "bundle")


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_it_tells_what_it_wrote(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.pt2"
    printed = run(bundle, "-o", out).stdout
    assert "torch-export, fp32" in printed
    assert "images (batch, 1, 32, 32) float32" in printed
    assert "100.000% on noise" in printed
    assert "--trust" in printed
    network = open_network(out, device="cpu", trust=True).network
    assert network(np.zeros((1, 1, 32, 32), np.float32)).shape == (1, 3, 32, 32)
    assert left_in(tmp_path) == {"net.pt2"}


def test_monai(bundle: Path, tmp_path: Path) -> None:
    printed = run(bundle, "-o", tmp_path / "monai", "--format", "monai").stdout
    assert "monai, fp32" in printed
    assert (tmp_path / "monai" / "configs" / "metadata.json").is_file()


def test_int8_reads_the_images(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    for name in ("a", "b"):
        save_nifti(tmp_path / "images" / f"{name}.nii.gz", noise(seed=ord(name)))
    asked = {}

    def instead(source: object, path: Path, name: str, images: Any, **settings: Any) -> Any:
        asked.update(images=images, name=name)
        return export_module.Exported(path, name, "int8", 20, "(?)", 1, 0.1, 0.99, "6 images")

    monkeypatch.setattr(export_module, "export", instead)
    out = tmp_path / "net.onnx"
    options = ("--int8", "--calibrate", tmp_path / "images", "--calibrate-count", 6)
    printed = run(bundle, "-o", out, *options).stdout
    assert asked["images"].shape == (6, 1, 32, 32)
    assert asked["name"] == "onnx"
    assert "onnx, int8" in printed
    assert "99.000% on 6 images" in printed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("-o", "net.onnx", "--format", "caffe"), "no format 'caffe'"),
        (("-o", "net.tflite"), "suffix is of no format"),
        (("-o", "net.onnx", "--int8"), "none were given.*Add --calibrate"),
        (("-o", "net.pt2", "--calibrate", "x"), "--calibrate is for --int8"),
        (("-o", "net.onnx", "--int8", "--calibrate", "nothing.nii"), "nothing.nii"),
    ],
)
def test_wrong_use(
    arguments: tuple[str, ...],
    says: str,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=says):
        run(bundle, *arguments)
    assert left_in(tmp_path) == set()


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a bundle"):
        run(tmp_path, "-o", tmp_path / "net.pt2")


@pytest.mark.process
@pytest.mark.parametrize("name", ["net.pt2", "net.xml"])
def test_a_full_disk_leaves_nothing(name: str, bundle: Path, tmp_path: Path) -> None:
    if name == "net.xml":
        pytest.importorskip("openvino", reason="openvino is not installed")

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write fails instead of killing
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))

    done = subprocess.run(
        [sys.executable, "-m", "transunet", "export", bundle, "-o", tmp_path / "out" / name],
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=small_files,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},  # Python keeps what is cut short
    )
    assert done.returncode == 1, done.stderr
    assert "could not be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert left_in(tmp_path / "out") == set()

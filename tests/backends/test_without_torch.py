"""Predicting from an exported file where torch is not installed."""

import json
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from prediction import save_nifti, tiny_bundle
from transunet.backends import onnxruntime, openvino
from transunet.bundle.io import from_pretrained

# None in sys.modules is what Python itself takes for "there is no such module".
COMMAND = """
import sys
sys.modules["torch"] = None
from transunet.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("no torch")
    tiny_bundle(folder / "bundle")
    save_nifti(folder / "image.nii.gz")
    return folder


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize(
    ("file", "package", "options"),
    [
        ("model.onnx", "onnxruntime", ["--mirror", "--uncertainty"]),
        ("model.xml", "openvino", ["--window", "--probabilities", "npy"]),
    ],
)
def test_an_exported_file_needs_no_torch(
    folder: Path, file: str, package: str, options: list[str]
) -> None:
    for needed in (package, "onnxscript") if file == "model.onnx" else (package,):
        pytest.importorskip(needed)
    write = onnxruntime.write if file == "model.onnx" else openvino.write
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(*from_pretrained(folder / "bundle"), folder / file)
    done = run(folder, "predict", file, "image.nii.gz", "-o", file + "-out", *options)
    assert done.returncode == 0, done.stderr
    assert f"Computing with {package} in fp32 on cpu." in done.stdout
    manifest = json.loads((folder / f"{file}-out" / "manifest.json").read_text())
    assert (manifest["engine"], manifest["precision"]) == (package, "fp32")
    found = nib.load(folder / f"{file}-out" / "image.nii.gz")
    from transunet.inference.predictor import Predictor

    settings = {"mirror": "--mirror" in options, "window": "--window" in options}
    predictor = Predictor.from_pretrained(
        folder / "bundle", device="cpu", engine="eager", **settings
    )
    expected = predictor(folder / "image.nii.gz")
    assert np.allclose(found.affine, expected.affine)
    assert (np.asarray(found.dataobj) == expected.array[0]).mean() > 0.999


def test_a_converted_bundle_needs_no_torch(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    from transunet.inference.predictor import load_networks

    monkeypatch.setenv("TRANSUNET_CACHE", str(tmp_path))
    load_networks([folder / "bundle"], "cpu", "openvino")
    options = ("--engine", "openvino", "-o", "converted-out")
    done = run(folder, "predict", "bundle", "image.nii.gz", *options)
    assert done.returncode == 0, done.stderr
    assert (folder / "converted-out" / "image.nii.gz").exists()


def test_a_bundle_says_what_it_needs(folder: Path) -> None:
    done = run(folder, "predict", "bundle", "image.nii.gz", "-o", "out")
    assert done.returncode == 2
    assert "bundle: needs the package 'torch'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_program_says_what_it_needs(folder: Path) -> None:
    from transunet.backends.exported import pack

    _, config = from_pretrained(folder / "bundle")
    with zipfile.ZipFile(folder / "model.pt2", "w") as archive:
        for key, text in pack(config, "fingerprint").items():
            archive.writestr(f"model/extra/{key}", text)
    done = run(folder, "predict", "model.pt2", "image.nii.gz", "-o", "out", "--trust")
    assert done.returncode == 2
    assert "model.pt2: needs the package 'torch'" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_and_check_need_no_torch(folder: Path) -> None:
    for arguments in (["--help"], ["predict", "--help"], ["check", "--help"]):
        assert run(folder, *arguments).returncode == 0

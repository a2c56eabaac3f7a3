"""A bundle exported once per format, which takes seconds, for all tests of exporting."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from prediction import tiny_bundle
from transunet.backends import onnxruntime
from transunet.export.export import FORMATS, Exported, export

SUFFIXES = {"onnx": "net.onnx", "openvino": "net.xml", "torch-export": "net.pt2"}
Written = Callable[[str], Exported]


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two channels and three classes at 32 pixels."""
    return tiny_bundle(tmp_path_factory.mktemp("export") / "bundle", channels=2)


@pytest.fixture(scope="session")
def written(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """From a format's name to the file in it, and what was told of it."""
    done: dict[str, Exported] = {}
    folder = tmp_path_factory.mktemp("written")

    def make(name: str) -> Exported:
        for package in FORMATS[name].packages:
            pytest.importorskip(package, reason=f"{package} is not installed")
        if name not in done:
            done[name] = export(small_bundle, folder / SUFFIXES[name])
        return done[name]

    return make


@pytest.fixture
def onnx_at_hand(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let int8 start from the ONNX file that there is, instead of tracing the network again."""
    path = written("onnx").path
    in_truth = onnxruntime.write

    def write(model, config, to, precision="fp32", quantised=None):
        if quantised is None:
            shutil.copy(path, to)
        else:
            in_truth(model, config, to, precision, quantised)

    monkeypatch.setattr(onnxruntime, "write", write)

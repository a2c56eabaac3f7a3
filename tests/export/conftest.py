"""A bundle exported once per format, which takes seconds, for all tests of exporting."""

from collections.abc import Callable
from pathlib import Path

import pytest

from prediction import tiny_bundle
from tracing import traced_once
from transunet.export.export import FORMATS, Exported, export

__all__ = ["traced_once"]

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

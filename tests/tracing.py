"""ONNX graphs that are traced once for all tests and workers."""

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from transunet.backends import onnxruntime
from transunet.models.network_fingerprint import fingerprint_of


@pytest.fixture(autouse=True, scope="session")
def traced_once() -> Iterator[None]:
    """Keep each network's graph in the folder of this run: tracing one takes seconds."""
    traced = onnxruntime._traced

    def kept(onnx: Any, model: Any, ranges: Any = None) -> Any:
        name = fingerprint_of(model) + (sha256(str(ranges).encode()).hexdigest() if ranges else "")
        path = Path(os.environ["TRANSUNET_TESTS"]) / f"{name}.onnx"
        if not path.exists():
            partial = path.with_suffix(f".{os.getpid()}")
            onnx.save(traced(onnx, model, ranges), partial)
            partial.replace(path)
        return onnx.load(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "_traced", kept)
        yield

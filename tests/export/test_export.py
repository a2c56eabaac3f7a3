import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import transunet.export.export as export_module
from prediction import left_in
from transunet.backends import onnxruntime, pytorch
from transunet.backends.compare import compare
from transunet.backends.exported import CONFIG, FINGERPRINT, PRECISION
from transunet.backends.opening import open_network, read_metadata
from transunet.backends.pytorch import TorchNetwork
from transunet.bundle.io import from_pretrained
from transunet.errors import ConfigError, DataError
from transunet.export.export import FORMATS, check_target, export
from transunet.models.network_fingerprint import fingerprint_of

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

NAMES = ("onnx", "openvino", "torch-export")


@pytest.mark.parametrize("name", NAMES)
def test_the_files_logits_are_the_bundles(name: str, small_bundle: Path, written: Any) -> None:
    told = written(name)
    model, config = from_pretrained(small_bundle)
    loaded = open_network(told.path, device="cpu", trust=True)
    images = np.random.default_rng(5).normal(1, 3, (5, 2, 32, 32)).astype(np.float32)
    for batch in (1, 5):
        difference, equal = compare(model, loaded.network, images[:batch])
        assert difference < 1e-4
        assert equal > 0.999
    assert loaded.config == config
    assert told.difference is not None
    assert told.difference < 1e-4
    files = {"openvino": ["net.xml", "net.bin"]}.get(name, [told.path.name])
    assert told.size_bytes == sum((told.path.parent / file).stat().st_size for file in files)


@pytest.mark.parametrize("name", NAMES)
def test_the_file_says_what_it_is(name: str, small_bundle: Path, written: Any) -> None:
    metadata = read_metadata(written(name).path)
    model, config = from_pretrained(small_bundle)
    assert metadata.config == config
    assert metadata.fingerprint == fingerprint_of(model)
    assert metadata.precision == "fp32"


def test_onnx_takes_any_batch_height_and_width(small_bundle: Path, written: Any) -> None:
    told = written("onnx")
    session = ort.InferenceSession(told.path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 2, "height", "width"]
    assert told.shape == "(batch, 2, height, width)"
    plain = TorchNetwork(from_pretrained(small_bundle)[0], "cpu")
    sizes = ((32, 32), (48, 80), (64, 32), (70, 70), (70, 64), (33, 15), (16, 16), (5, 100), (7, 1))
    for batch, size in enumerate(sizes, start=1):
        images = np.random.default_rng(1).normal(size=(batch, 2, *size)).astype(np.float32)
        (found,) = session.run(["logits"], {"images": images})
        assert found.shape[2:] == size
        np.testing.assert_allclose(found, plain(images).numpy(), atol=1e-4)


def test_onnx_states_opset_and_metadata(written: Any) -> None:
    told = written("onnx")
    proto = onnx.load(told.path)
    assert told.opset == onnxruntime.OPSET == proto.opset_import[0].version
    texts = {prop.key: prop.value for prop in proto.metadata_props}
    assert {CONFIG, FINGERPRINT, PRECISION} <= set(texts)
    assert json.loads(texts[CONFIG])["labels"]["1"] == "left"


def test_weights_too_large_for_one_file_lie_beside_it(
    small_bundle: Path, written: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, config = from_pretrained(small_bundle)
    monkeypatch.setattr(onnxruntime, "_LARGEST_FILE", 1000)
    onnxruntime.write(model, config, tmp_path / "large.onnx", "fp32")
    assert left_in(tmp_path) == {"large.onnx", "large.onnx.data"}
    network = open_network(tmp_path / "large.onnx", device="cpu").network
    assert compare(model, network, np.ones((1, 2, 32, 32), np.float32))[0] < 1e-3


def test_predicting_from_onnx_needs_no_torch(written: Any, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np\n"
        "from transunet.backends.opening import open_network\n"
        f"network = open_network({str(written('onnx').path)!r}).network\n"
        "print(network(np.zeros((2, 2, 32, 32), np.float32)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "(2, 3, 32, 32)", done.stderr


def wrong(model: torch.nn.Module, config: object, path: Path, *_: object) -> None:
    """A writer that changes a weight on the way."""
    model.segmentation_head[0].bias.data[0] += 1
    pytorch.write(model, config, path)  # type: ignore[arg-type]
    model.segmentation_head[0].bias.data[0] -= 1


def full(model: object, config: object, path: Path, *_: object) -> None:
    path.write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


def broken(model: object, config: object, path: Path, *_: object) -> None:
    path.write_bytes(b"half")
    raise RuntimeError("PytorchStreamWriter failed writing file data/3")


@pytest.mark.parametrize(
    ("write", "says"),
    [(wrong, "logits differ by"), (full, "No space left"), (broken, "Is the disk full")],
)
def test_what_goes_wrong_leaves_nothing_behind(
    write: Any, says: str, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = replace(FORMATS["torch-export"], write=write)
    monkeypatch.setattr(export_module, "FORMATS", {**FORMATS, "torch-export": kind})
    with pytest.raises(DataError, match=says):
        export(small_bundle, tmp_path / "net.pt2")
    assert left_in(tmp_path) == set()


def test_a_failed_export_keeps_what_was_there(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(b"the old one")
    kind = replace(FORMATS["torch-export"], write=full)
    monkeypatch.setattr(export_module, "FORMATS", {**FORMATS, "torch-export": kind})
    with pytest.raises(DataError):
        export(small_bundle, path, overwrite=True)
    assert path.read_bytes() == b"the old one"
    assert left_in(tmp_path) == {"net.pt2"}


def test_compare_sees_nan(small_bundle: Path) -> None:
    model, _ = from_pretrained(small_bundle)

    class Nothing:
        image_size, device, fingerprint = (32, 32), "cpu", ""

        def __call__(self, images: np.ndarray) -> np.ndarray:
            return np.full((len(images), 3, 32, 32), np.nan, np.float32)

    difference, _ = compare(model, Nothing(), np.ones((1, 2, 32, 32), np.float32))
    assert np.isnan(difference)


@pytest.mark.parametrize(
    ("path", "settings", "says"),
    [
        ("net.onnx", {"format": "caffe"}, "no format 'caffe'; known: openvino, onnx"),
        ("net.bin", {}, "suffix is of no format"),
        ("net.onnx", {"format": "openvino"}, "end in .xml"),
        ("net.pt2", {"int8": True}, "no int8; possible: openvino, onnx"),
        ("taken.onnx", {}, "exists already"),
        ("folder.onnx", {"overwrite": True}, "is a folder"),
    ],
)
def test_targets_that_cannot_work(
    path: str, settings: dict[str, Any], says: str, tmp_path: Path
) -> None:
    (tmp_path / "taken.onnx").touch()
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ConfigError, match=says):
        check_target(tmp_path / path, **settings)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"'onnxscript'.*transunet-torch\[onnx\]"):
        check_target(tmp_path / "net.onnx")


def test_no_bundle_and_no_place(small_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no bundle"):
        export(tmp_path / "nothing", tmp_path / "net.pt2")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="Cannot write to the folder"):
        export(small_bundle, tmp_path / "file" / "net.pt2")
    assert left_in(tmp_path) == {"file"}

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import transunet.export.export as export_module
from prediction import left_in, noise, save_nifti
from transunet.backends.compare import compare
from transunet.backends.opening import open_network, read_metadata
from transunet.bundle.bundle_config import read_config
from transunet.bundle.io import from_pretrained
from transunet.data.layouts import open_dataset
from transunet.data.prepare import prepare
from transunet.data.preprocessing import Preprocessing
from transunet.errors import ConfigError, DataError
from transunet.export.calibration import calibration_images
from transunet.export.export import FORMATS, export
from transunet.export.quantise import kept_exact, quantise

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Noise, which is what the small bundle's random weights were scaled for."""
    return np.random.default_rng(0).standard_normal((6, 2, 32, 32), dtype=np.float32)


@pytest.fixture(scope="module")
def quantised(written: Any, images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantised")
    return quantise(written("onnx").path, folder / "int8.onnx", images)


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_weights_are_int8_but_the_first_convolutions(quantised: Path) -> None:
    graph = onnx.load(quantised).graph
    weights = {one.name: one for one in graph.initializer}
    source = {node.output[0]: node for node in graph.node}
    exact, eight = [], []
    for node in graph.node:
        if node.op_type in ("Conv", "MatMul"):
            weight = source.get(node.input[1])
            is_eight = weight is not None and weight.op_type == "DequantizeLinear"
            (eight if is_eight else exact).append(node)
    for node in eight:
        quantised_weight = source[node.input[1]].input[0]
        stored = weights[quantised_weight]
        values = onnx.numpy_helper.to_array(stored)
        assert values.dtype == np.int8
        assert np.abs(values.astype(int)).max() <= 64  # 7 bits
    # The patch embedding sees the image; two products of attention have no weights.
    assert Counter(node.op_type for node in exact) == {"Conv": 1, "MatMul": 2}
    padded = source[exact[0].input[0]]  # to whole patches
    assert (padded.op_type, padded.input[0]) == ("Pad", "images")
    assert len(eight) == 10 + 4  # decoder and head; attention's two and the MLP's two


def test_what_stays_exact() -> None:
    def node(kind: str, name: str, weight: str, **attributes: int) -> Any:
        return onnx.helper.make_node(kind, ["x", weight], ["y"], name=name, **attributes)

    nodes = [
        node("Conv", "mean", "w", group=32),
        node("Conv", "first", "w", group=1),
        node("Conv", "second", "w"),
        node("MatMul", "linear", "w"),
        node("MatMul", "attention", "x"),
    ]
    weight = onnx.numpy_helper.from_array(np.ones(1, np.float32), "w")
    graph = onnx.helper.make_graph(nodes, "graph", [], [], [weight])
    assert kept_exact(graph) == ["first", "mean", "attention"]


def test_nothing_else_is_left_beside_it(quantised: Path) -> None:
    assert left_in(quantised.parent) == {"int8.onnx"}


def test_without_images(written: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs images"):
        quantise(written("onnx").path, tmp_path / "q.onnx", np.empty((0, 2, 32, 32), np.float32))


@pytest.mark.parametrize("file", ["net.onnx", "net.xml"])
def test_labels_stay(
    file: str,
    small_bundle: Path,
    images: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Random weights decide on noise by a hair; trained ones keep 99.9 % of labels.
    monkeypatch.setattr(export_module, "LEAST_EQUAL", 0.8)
    name = {".onnx": "onnx", ".xml": "openvino"}[Path(file).suffix]
    for package in FORMATS[name].packages:
        pytest.importorskip(package, reason=f"{package} is not installed")
    told = export(small_bundle, tmp_path / file, int8_images=images)
    model, _ = from_pretrained(small_bundle)
    loaded = open_network(told.path, device="cpu")
    assert loaded.precision == "int8" == read_metadata(told.path).precision
    difference, equal = compare(model, loaded.network, images[:3])
    assert 1e-3 < difference < 3  # it is not fp32 after all
    assert equal > 0.8
    assert told.equal is not None
    assert told.equal > 0.8
    assert told.compared == "6 calibration images"


def test_int8_that_changes_labels_is_refused(
    small_bundle: Path, images: np.ndarray, tmp_path: Path
) -> None:
    # Ranges of images a thousand times darker: everything real saturates.
    def badly(source: Path, target: Path, images: np.ndarray) -> Path:
        return quantise(source, target, images / 1000)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_module, "quantise", badly)
        with pytest.raises(DataError, match="labels stay as they are"):
            export(small_bundle, tmp_path / "net.onnx", int8_images=images)
    assert left_in(tmp_path) == set()


def test_images_of_another_shape(small_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected \(N, 2, 32, 32\)"):
        export(small_bundle, tmp_path / "net.onnx", int8_images=np.ones((3, 1, 32, 32), "f4"))


def case(folder: Path, name: str, seed: int) -> None:
    for channel in range(2):
        voxels = noise((20, 24, 6), seed + channel)
        voxels[:, :, 0] = 7  # an empty slice
        save_nifti(folder / f"{name}_000{channel}.nii.gz", voxels, np.eye(4))


def test_calibration_images_are_what_predicting_sees(small_bundle: Path, tmp_path: Path) -> None:
    for index in range(3):
        case(tmp_path / "in", f"case{index}", 2 * index)
    config = read_config(small_bundle)
    seen = []
    found = calibration_images(
        [tmp_path / "in"], config, count=7, progress=lambda done, total: seen.append((done, total))
    )
    assert found.shape == (7, 2, 32, 32)
    assert found.dtype == np.float32
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert all(image.std() > 0.1 for image in found)  # the empty slices were passed over
    assert abs(float(found.mean())) < 0.5  # z-scores, not the scanner's numbers
    assert len({image.tobytes() for image in found}) == 7


def test_calibration_from_a_store(small_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for name in ("a", "b", "c", "d"):
        save_nifti(folder / "images" / f"{name}.nii.gz", noise(seed=ord(name)), np.eye(4))
        labels = np.zeros((20, 24, 6), np.uint8)
        labels[5:9, 5:9, 2:4] = 1
        save_nifti(folder / "labels" / f"{name}.nii.gz", labels, np.eye(4))
    store = prepare(open_dataset(folder), tmp_path / "store", preprocessing=Preprocessing())
    config = read_config(small_bundle)
    small = config.replace(
        architecture=config.architecture.replace(in_channels=1), preprocessing=store.preprocessing
    )
    found = calibration_images([tmp_path / "store"], small, count=6)
    assert len(found) == 2 * len(store.splits[0].train)  # the slices that have structures
    with pytest.raises(ConfigError, match="prepared otherwise"):
        calibration_images([tmp_path / "store"], config)


def test_no_or_unusable_calibration_images(small_bundle: Path, tmp_path: Path) -> None:
    config = read_config(small_bundle)
    with pytest.raises(ConfigError, match="--calibrate"):
        calibration_images([], config)
    with pytest.raises(ConfigError, match="nothing"):
        calibration_images([tmp_path / "nothing.nii"], config)
    with warnings.catch_warnings():
        save_nifti(tmp_path / "one.nii.gz", noise(), np.eye(4))
        with pytest.raises(DataError, match="channels"):
            calibration_images([tmp_path / "one.nii.gz"], config)

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import transunet.export.export as export_module
from prediction import left_in, noise, save_nifti
from transunet.backends import onnxruntime
from transunet.backends.compare import compare
from transunet.backends.opening import open_network, read_metadata
from transunet.bundle.bundle_config import read_config
from transunet.bundle.integer_ranges import IntegerRanges
from transunet.bundle.io import from_pretrained
from transunet.data.layouts import open_dataset
from transunet.data.prepare import prepare
from transunet.data.preprocessing import Preprocessing
from transunet.errors import ConfigError, DataError
from transunet.export.calibration import calibration_images
from transunet.export.export import FORMATS, export
from transunet.models.network_fingerprint import fingerprint_of
from transunet.models.quantised import measured_ranges

Ranges = dict[str, tuple[tuple[float, float], tuple[float, float]]]
onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Noise, which is what the small bundle's random weights were scaled for."""
    return np.random.default_rng(0).standard_normal((6, 2, 32, 32), dtype=np.float32)


def ranges_of(bundle: Path, images: np.ndarray) -> Ranges:
    model, _ = from_pretrained(bundle)
    return measured_ranges(model, (torch.from_numpy(image[None]) for image in images))


def test_weights_are_int8_but_the_first_convolutions(
    small_bundle: Path, images: np.ndarray, tmp_path: Path
) -> None:
    model, config = from_pretrained(small_bundle)
    ends = ranges_of(small_bundle, images)
    config = config.replace(ranges=IntegerRanges.of(fingerprint_of(model), 6, ends))
    onnxruntime.write(model, config, tmp_path / "int8.onnx", "int8")
    graph = onnx.load(tmp_path / "int8.onnx").graph
    source = {node.output[0]: node for node in graph.node}
    weights = {one.name: one for one in graph.initializer}
    exact, eight = [], []
    for node in graph.node:
        if node.op_type in ("Conv", "MatMul"):
            weight = source.get(node.input[1])
            is_eight = weight is not None and weight.op_type == "DequantizeLinear"
            (eight if is_eight else exact).append(node)
    for node in eight:
        values = onnx.numpy_helper.to_array(weights[source[node.input[1]].input[0]])
        assert values.dtype == np.int8
        assert np.abs(values.astype(int)).max() == 64  # 7 bits
        assert source[node.input[0]].op_type == "DequantizeLinear"
    # The patch embedding sees the image; two products of attention have no weights.
    assert Counter(node.op_type for node in exact) == {"Conv": 1, "MatMul": 2}
    padded = source[exact[0].input[0]]  # to whole patches
    assert (padded.op_type, padded.input[0]) == ("Pad", "images")
    assert len(eight) == 10 + 4 == len(ends)  # decoder and head; attention's two, the MLP's two


def test_ranges_are_those_of_onnx_runtimes_own_calibration(
    small_bundle: Path, written: Any, images: np.ndarray, tmp_path: Path
) -> None:
    tools = pytest.importorskip("onnxruntime.quantization.calibrate")
    calibrator = tools.create_calibrator(
        written("onnx").path,
        ["Conv", "MatMul"],
        augmented_model_path=str(tmp_path / "augmented.onnx"),
        calibrate_method=tools.CalibrationMethod.MinMax,
    )
    left = iter(images)

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(left, None)
            return None if image is None else {"images": image[None]}

    calibrator.collect_data(Reader())
    data = calibrator.compute_data().data
    graph = onnx.load(written("onnx").path).graph
    constant = {one.name for one in graph.initializer}
    transposed = {n.output[0] for n in graph.node if n.op_type == "Transpose"}
    nodes = [
        node
        for node in graph.node
        if node.op_type == "Conv"
        or (node.op_type == "MatMul" and node.input[1] in constant | transposed)
    ]
    expected = [
        [[end.item() for end in data[name].range_value] for name in (node.input[0], node.output[0])]
        for node in nodes
    ]
    found = ranges_of(small_bundle, images)
    given = {name: ends[0] for name, ends in found.items()}
    of_onnx = [tuple(one[0]) for one in expected[1:]]  # but the first convolution
    np.testing.assert_allclose(sorted(given.values()), sorted(of_onnx), rtol=1e-4, atol=1e-5)
    convolutions = [
        one[1] for one, node in zip(expected, nodes, strict=True) if node.op_type == "Conv"
    ]
    made = [ends[1] for name, ends in found.items() if not name.startswith("transformer")]
    np.testing.assert_allclose(made, convolutions[1:], rtol=1e-4, atol=1e-5)


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
    def badly(model: Any, batches: Any) -> Any:
        return measured_ranges(model, (batch / 1000 for batch in batches))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transunet.models.quantised.measured_ranges", badly)
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
        with pytest.raises(DataError, match="it has 1 channel; expected 2"):
            calibration_images([tmp_path / "one.nii.gz"], config)

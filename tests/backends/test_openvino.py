"""Patches in OpenVINO: exact over large volumes, one at a time, no larger than their weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tiny_3d import tiny_model_3d
from transunet.backends import openvino
from transunet.bundle.bundle_config import BundleConfig, Preprocessing
from transunet.models.segmentation_network import SegmentationNetwork

pytest.importorskip("openvino")
pytestmark = pytest.mark.runtime


def written(model: SegmentationNetwork, folder: Path) -> Path:
    names = {number: f"structure {number}" for number in range(3)}
    config = BundleConfig(architecture=model.config, preprocessing=Preprocessing(), labels=names)
    openvino.write(model, config, folder / "model.xml")
    return folder / "model.xml"


def test_means_of_large_volumes_keep_within_rounding(tmp_path: Path) -> None:
    size = (64, 96, 96)
    model = tiny_model_3d("UNet3D-S", size)
    image = np.random.default_rng(0).standard_normal((1, 1, *size), dtype=np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(image)).numpy()
    found = openvino.OpenVinoNetwork(written(model, tmp_path), size)(image)
    # With the runtime's own norm, or its mean of a volume, it would be thirty times as much.
    assert np.abs(found - expected).max() < 1e-4 * expected.std()


def test_patches_give_alone_and_together_what_the_network_gives(tmp_path: Path) -> None:
    size = (16, 32, 32)
    model = tiny_model_3d("TransUNet3D-S", size)
    path = written(model, tmp_path)
    images = np.random.default_rng(0).standard_normal((3, 1, *size), dtype=np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).numpy()
    network = openvino.OpenVinoNetwork(path, size)
    together = network(images)
    assert np.abs(together - expected).max() < 1e-4 * expected.std()
    for index in range(3):
        np.testing.assert_array_equal(network(images[[index]])[0], together[index])
    # Who opens the file without this package may give several at once.
    exactly = {"INFERENCE_PRECISION_HINT": "f32"}
    whole = openvino.core().compile_model(openvino._read(path), "CPU", exactly)(images)[0]
    assert np.abs(whole - expected).max() < 1e-4 * expected.std()


def test_no_map_of_positions_is_held_beside_the_weights(tmp_path: Path) -> None:
    size = (32, 64, 64)
    model = tiny_model_3d("TransUNet3D-S", size)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    network = openvino.OpenVinoNetwork(written(model, tmp_path), size)
    constants = [
        operation.output(0)
        for operation in network._compiled.get_runtime_model().get_ops()
        if operation.get_rt_info()["layerType"].astype(str) == "Const"
    ]
    held = sum(np.prod(list(each.shape)) * each.get_element_type().size for each in constants)
    # The finest level's map alone: 96 numbers for each of 32 x 32 x 32 positions, 12.6 MB.
    assert weights / 2 < held < weights + 1e6

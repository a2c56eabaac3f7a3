"""Where a network computes on a device, samples are resized, mirrored and averaged there.

No GPU is needed: networks say that they take tensors, and these lie on the CPU.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from prediction import OBLIQUE, noise, tiny_config, tiny_model
from tiny_3d import tiny_model_3d
from transunet.backends.protocol import takes_tensors, uploaded
from transunet.backends.pytorch import FixedNetwork, OnDevice, TorchNetwork
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.regions import Region
from transunet.data.resize import Edge, resize, resize_tensor, zoom_matrix
from transunet.data.sampling.slices import neighbourhoods, stack_neighbours
from transunet.data.volume import Volume
from transunet.inference import slice_inference
from transunet.inference.logits import argmax, label_map_of, label_type
from transunet.inference.predictor import Predictor
from transunet.inference.tta import Ensemble, MirrorTTA
from transunet.models.transunet2d.network import TransUNet
from transunet.models.transunet2d.optimised import fuse

GREY = Preprocessing(channels=(Channel(name="MRI"),))
LABELS = {0: "background", 1: "left", 2: "right"}
REGIONS = (
    Region(name="either", members=(1, 2), label=2),
    Region(name="left", members=(1,), label=1),
    Region(name="far", members=(3,), label=300),
)
SIZE_3D = (8, 32, 32)


def scan() -> Volume:
    return Volume(noise((50, 44, 19)).astype(np.float32)[None], OBLIQUE, "scan")


def two_d(**settings: Any) -> Predictor:
    return Predictor(tiny_model(), GREY, LABELS, device="cpu", **settings)


def with_neighbours() -> Predictor:
    model = TransUNet(tiny_config(channels=3)).eval()
    model.load_state_dict(tiny_model().state_dict())
    return Predictor(model, GREY, LABELS, context=1, batch_size=5, device="cpu")


def with_regions(**settings: Any) -> Predictor:
    names = {0: "background", 1: "left", 2: "either", 300: "far"}
    return Predictor(tiny_model(), GREY, names, regions=REGIONS, device="cpu", **settings)


def three_d(seed: int = 0, spacing: bool = False, **settings: Any) -> Predictor:
    pre = GREY.replace(spacing_mm=(2.0, 0.9, 0.8)) if spacing else GREY
    return Predictor(
        tiny_model_3d("TransUNet3D", SIZE_3D, seed=seed), pre, LABELS, device="cpu", **settings
    )


def alike(**settings: Any) -> Predictor:
    networks = [TorchNetwork(tiny_model(seed), "cpu") for seed in (0, 1)]
    return Predictor(Ensemble(networks), GREY, LABELS, **settings)


def unlike(**settings: Any) -> Predictor:
    other = Predictor(
        tiny_model(1),
        GREY.replace(orientation="SPL", spacing_mm=(None, 1.0, 0.9)),
        LABELS,
        device="cpu",
    )
    return two_d(others=[other, three_d(spacing=True)], **settings)


CASES: dict[str, Callable[[], Predictor]] = {
    "slices": two_d,
    "fused": lambda: Predictor(
        FixedNetwork(fuse(tiny_model()), (32, 32), "", "cpu"), GREY, LABELS, batch_size=3
    ),
    "resampled slices": lambda: Predictor(
        tiny_model(), GREY.replace(spacing_mm=(None, 0.9, 0.8)), LABELS, device="cpu"
    ),
    "neighbours": with_neighbours,
    "mirrored": lambda: two_d(mirror=True),
    "windows": lambda: two_d(window=True, batch_size=3),
    "windows, mirrored": lambda: two_d(window=True, mirror=True),
    "paper": lambda: two_d(procedure="paper"),
    "paper, mirrored": lambda: two_d(procedure="paper", mirror=True),
    "regions": with_regions,
    "regions, mirrored": lambda: with_regions(mirror=True),
    "ensemble": alike,
    "ensemble, mirrored, windows": lambda: alike(mirror=True, window=True),
    "unlike members": unlike,
    "patches": three_d,
    "patches, resampled, mirrored": lambda: three_d(seed=6, spacing=True, mirror=True),
}  # fmt: skip


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on networks take tensors, and what the CPU would do to samples fails."""

    def fails(*_: object, **__: object) -> None:
        raise AssertionError("done on the CPU")

    def begin() -> None:
        monkeypatch.setattr(OnDevice, "takes_tensors", True)
        monkeypatch.setattr(slice_inference, "resize", fails)
        for module in ("tta", "sliding_window", "ensemble"):
            monkeypatch.setattr(f"transunet.inference.{module}.as_array", fails)
        for module in ("logits", "ensemble"):
            monkeypatch.setattr(f"transunet.inference.{module}.lies_on_device", torch.is_tensor)

    return begin


def predicted(predictor: Predictor) -> tuple[NDArray[Any], NDArray[np.float32]]:
    image, parts = scan(), []
    planes = predictor.preprocessing.native_shape(image)[0]
    labels = predictor(image, observers=[lambda part, p: parts.append((part, p.copy()))])
    assert [part.start for part, _ in parts] == sorted(part.start for part, _ in parts)
    probabilities = np.concatenate([p for _, p in parts])
    assert len(probabilities) == planes
    return labels.array, probabilities


@pytest.mark.parametrize("case", CASES)
def test_labels_and_probabilities_are_the_cpus(case: str, on_device: Callable[[], None]) -> None:
    predictor = CASES[case]()
    labels, probabilities = predicted(predictor)
    on_device()
    found, there = predicted(predictor)
    assert found.dtype == labels.dtype
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(found, labels)
    np.testing.assert_allclose(there, probabilities, atol=1e-5)


def test_on_the_cpu_networks_take_arrays() -> None:
    network = MirrorTTA(TorchNetwork(tiny_model(), "cpu"))
    images = np.zeros((2, 1, 32, 32), np.float32)
    assert not takes_tensors(network)
    assert uploaded(network, images) is images
    assert isinstance(network(images), np.ndarray)


def test_an_ensemble_on_several_devices_takes_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnDevice, "takes_tensors", True)
    here, there = (TorchNetwork(tiny_model(seed), "cpu") for seed in (0, 1))
    assert takes_tensors(Ensemble([here, there]))
    there._device = torch.device("meta")
    assert not takes_tensors(Ensemble([here, there]))
    there.__class__ = type("Other", (), {"image_size": (32, 32), "device": "cpu"})
    assert not takes_tensors(Ensemble([here, there]))


def test_slices_too_large_for_the_device_are_resized_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels, _ = predicted(two_d())
    monkeypatch.setattr(OnDevice, "takes_tensors", True)
    monkeypatch.setattr(slice_inference, "_LARGEST_UPLOAD", 1)
    monkeypatch.setattr(slice_inference, "resize_tensor", None)
    np.testing.assert_array_equal(predicted(two_d())[0], labels)


def test_planes_of_one_value_are_computed_once_at_any_size(on_device: Callable[[], None]) -> None:
    model, sizes = tiny_model(), []
    model.register_forward_hook(lambda _m, inputs, _o: sizes.append(len(inputs[0])))
    array = scan().array.copy()
    array[..., 3:5] = 0
    array[..., 8:] = 7  # a spline of 7s is not 7 to the last bit everywhere
    image = Volume(array, np.diag([1.0, 1, 3, 1]), "scan")
    predictor = Predictor(model, GREY, LABELS, device="cpu", batch_size=4)
    expected = predictor(image).array
    assert sum(sizes) == 3 + 3 + 2  # of planes 3 and 4, and of 8 and later ones, one each
    on_device()
    np.testing.assert_array_equal(predictor(image).array, expected)
    assert sum(sizes) == 2 * (3 + 3 + 2)


@pytest.mark.parametrize("edge", ["scipy", "kept"])
@pytest.mark.parametrize(("order", "size"), [(3, (224, 224)), (3, (48, 512)), (1, (512, 60))])
def test_a_tensor_is_resized_by_the_same_matrices_in_doubles(
    order: int, size: tuple[int, int], edge: Edge
) -> None:
    images = np.random.default_rng(0).normal(size=(2, 3, 512, 64)).astype(np.float32)
    found = resize_tensor(torch.from_numpy(images), size, order=order, edge=edge)
    rows, columns = (
        zoom_matrix(length, new, order, edge).astype(np.float64)
        for length, new in zip((512, 64), size, strict=True)
    )
    exact = rows @ images.astype(np.float64) @ columns.T
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    # To the last bit: no factor of a product has lost digits on its way.
    np.testing.assert_allclose(found.numpy(), exact, rtol=6e-8, atol=1e-12)
    np.testing.assert_allclose(found.numpy(), resize(images, size, order, edge), atol=1e-5)


def test_a_tensors_neighbours_are_stacked_as_an_arrays() -> None:
    planes = np.random.default_rng(0).normal(size=(7, 2, 4, 5)).astype(np.float32)
    for part, context in ((slice(0, 3), 0), (slice(0, 4), 1), (slice(4, 7), 2)):
        around, chosen = neighbourhoods(part, len(planes), context)
        expected = stack_neighbours(planes[around], chosen)
        found = stack_neighbours(torch.from_numpy(planes[around]), chosen)
        assert expected.shape == (part.stop - part.start, 2 * (2 * context + 1), 4, 5)
        np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("classes", [3, 256, 257, 300])
def test_labels_come_back_in_as_few_bytes_as_they_need(
    classes: int, on_device: Callable[[], None]
) -> None:
    on_device()
    logits = np.random.default_rng(0).normal(size=(2, classes, 9, 8)).astype(np.float32)
    logits[0, -1, 0, 0] = 9
    found = argmax(torch.from_numpy(logits))
    assert found.dtype == argmax(logits).dtype == label_type(classes - 1)
    np.testing.assert_array_equal(found, argmax(logits))
    labels = [5, classes, 1]
    regions = label_map_of(torch.from_numpy(logits[:, :3]), labels, 0.1)
    assert regions.dtype == label_map_of(logits[:, :3], labels, 0.1).dtype
    np.testing.assert_array_equal(regions, label_map_of(logits[:, :3], labels, 0.1))


def test_a_compiled_network_fills_up_batches_of_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def run(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return 2 * x

    monkeypatch.setattr(torch, "compile", lambda module, **_: run)
    network = FixedNetwork(torch.nn.Identity(), (8, 8), "", device="cpu", compiled=True)
    images = torch.arange(5 * 64, dtype=torch.float32).reshape(5, 1, 8, 8)
    for count in (3, 5, 2):
        assert torch.equal(network(images[:count]), 2 * images[:count])
    assert seen == [3, 5, 5]

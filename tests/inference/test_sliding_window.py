"""Sliding windows: where they lie, how they are blended, and that MONAI agrees."""

import warnings

import numpy as np
import pytest
from numpy.typing import NDArray

from prediction import tiny_model
from transunet.backends.pytorch import TorchNetwork
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.errors import ConfigError
from transunet.inference.predictor import Predictor
from transunet.inference.sliding_window import SlidingWindow, gaussian, windows


class Place:
    """Each window answers with its own content and its own pixel positions."""

    device = "cpu"
    fingerprint = "place"

    def __init__(self, window: tuple[int, ...] = (8, 6)) -> None:
        self.image_size = window

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        pixels = np.prod(self.image_size)
        ramp = np.arange(pixels, dtype=np.float32).reshape(1, 1, *self.image_size)
        return np.concatenate([images, images * ramp, np.broadcast_to(ramp, images.shape)], axis=1)


@pytest.mark.parametrize("size", [(8, 6), (9, 13), (20, 12), (31, 17)])
def test_windows_cover_everything_and_stay_inside(size: tuple[int, int]) -> None:
    seen = np.zeros(size, int)
    for rows, columns in windows(size, (8, 6)):
        assert rows.stop <= size[0]
        assert columns.stop <= size[1]
        seen[rows, columns] += 1
    assert seen.min() >= 1


def test_weights_are_largest_in_the_middle() -> None:
    weights = gaussian((9, 7))
    assert weights.argmax() == 4 * 7 + 3
    assert weights.max() == 1
    assert weights.min() >= 1e-3
    assert np.array_equal(weights, weights[::-1, ::-1])


def test_a_network_that_sees_each_pixel_alone_is_unchanged() -> None:
    images = np.random.default_rng(0).random((2, 1, 21, 19), dtype=np.float32)
    np.testing.assert_allclose(SlidingWindow(Place(), 3)(images)[:, :1], images, atol=1e-6)


@pytest.mark.parametrize(
    "size", [(8, 6), (20, 12), (21, 19), (5, 30), (4, 3), (8, 6, 4), (11, 14, 5), (3, 20, 2)]
)
@pytest.mark.runtime
def test_monai_gives_the_same(size: tuple[int, ...]) -> None:
    network = Place((8, 6, 4)[: len(size)])
    with warnings.catch_warnings(action="ignore"):
        inferers = pytest.importorskip("monai.inferers", reason="compares with MONAI's inferer")
        import torch

        images = np.random.default_rng(1).random((2, 1, *size), dtype=np.float32)
        expected = inferers.sliding_window_inference(
            torch.from_numpy(images),
            network.image_size,
            4,
            lambda batch: torch.from_numpy(network(batch.numpy())),
            overlap=0.5,
            mode="gaussian",
        ).numpy()
    found = SlidingWindow(network, 4)(images)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_predictor_looks_at_slices_in_their_own_resolution() -> None:
    model = tiny_model()
    unit = Preprocessing(channels=(Channel(normalisation="range", high=1.0),))
    names = {0: "background", 1: "one", 2: "two"}
    slices = np.random.default_rng(2).random((3, 1, 70, 90), dtype=np.float32)
    predictor = Predictor(model, unit, names, device="cpu", window=True, batch_size=2)
    expected = SlidingWindow(TorchNetwork(model, "cpu"))(slices).argmax(axis=1)
    assert (predictor.label_slices(slices) == expected).mean() > 0.999
    with pytest.raises(ConfigError, match="no windows"):
        Predictor(model, unit, names, device="cpu", window=True, procedure="paper")

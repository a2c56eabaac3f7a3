"""Ensembles and mirror images: the mean of the probabilities, told as logits."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from prediction import noise, tiny_bundle, tiny_model
from transunet.backends.pytorch import TorchNetwork
from transunet.errors import ConfigError
from transunet.inference.logits import as_array, probabilities_of
from transunet.inference.predictor import Predictor
from transunet.inference.tta import Ensemble, MirrorTTA


class Tilted:
    """Logits that depend on the place in the image, so that mirroring shows."""

    image_size = (4, 5)
    device = "cpu"
    fingerprint = "tilted"

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        ramp = np.arange(20, dtype=np.float32).reshape(4, 5) * self.scale
        first = images[:, :1] * ramp
        return np.concatenate([first, np.cos(first), -first], axis=1)


@pytest.fixture
def images() -> NDArray[np.float32]:
    return np.random.default_rng(0).random((2, 1, 4, 5), dtype=np.float32)


def test_an_ensemble_is_the_mean_of_the_softmax(images: NDArray[np.float32]) -> None:
    members = [Tilted(0.1), Tilted(-0.3), Tilted(0.7)]
    expected = np.mean([probabilities_of(member(images)) for member in members], axis=0)
    np.testing.assert_allclose(probabilities_of(Ensemble(members)(images)), expected, atol=1e-6)


def test_an_ensemble_of_one_kind_is_that_kind(images: NDArray[np.float32]) -> None:
    alone = Tilted(0.2)
    np.testing.assert_allclose(
        probabilities_of(Ensemble([alone, alone])(images)),
        probabilities_of(alone(images)),
        atol=1e-6,
    )


def test_mirrored_is_the_mean_over_the_four_mirror_images(images: NDArray[np.float32]) -> None:
    network, total = Tilted(0.2), 0
    for axes in ((), (2,), (3,), (2, 3)):
        total = total + np.flip(probabilities_of(network(np.flip(images, axes))), axes)
    np.testing.assert_allclose(probabilities_of(MirrorTTA(network)(images)), total / 4, atol=1e-6)


def test_mirrored_in_3d_is_the_mean_over_eight(images: NDArray[np.float32]) -> None:
    """The network that weights depth most, as `Tilted` weights rows and columns."""

    class Deep(Tilted):
        def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            depth = np.arange(images.shape[2], dtype=np.float32)[:, None, None] + 1
            return super().__call__(images) * depth

    volumes = np.stack([images, 2 * images, -images], axis=2)
    network, total = Deep(0.2), np.zeros(1)
    for axes in ((), (2,), (3,), (4,), (2, 3), (2, 4), (3, 4), (2, 3, 4)):
        total = total + np.flip(probabilities_of(network(np.flip(volumes, axes))), axes)
    np.testing.assert_allclose(probabilities_of(MirrorTTA(network)(volumes)), total / 8, atol=1e-6)


def test_mirrored_does_not_care_how_the_image_lies(images: NDArray[np.float32]) -> None:
    network = MirrorTTA(Tilted(0.2))
    straight, turned = network(images), network(np.flip(images, (3,)))
    np.testing.assert_allclose(np.flip(turned, (3,)), straight, atol=1e-5)


def test_certainty_is_no_infinity() -> None:
    sure = Tilted(1e6)(np.ones((1, 1, 4, 5), np.float32))
    ensemble = Ensemble([Tilted(1e6)])(np.ones((1, 1, 4, 5), np.float32))
    assert np.isfinite(ensemble).all()
    assert np.array_equal(ensemble.argmax(1)[0, 1:], sure.argmax(1)[0, 1:])


def test_bundles_make_an_ensemble(tmp_path: Path) -> None:
    sources = [tiny_bundle(tmp_path / str(seed), seed) for seed in (1, 2)]
    image = noise().astype(np.float32)
    predictor = Predictor.from_pretrained(sources, device="cpu")
    slices = predictor.preprocessing.to_working(_volume(image)).swapaxes(0, 1)
    from transunet.data.resize import resize

    small = resize(slices, (32, 32), edge="kept")
    members = [TorchNetwork(tiny_model(seed), "cpu") for seed in (1, 2)]
    expected = np.mean([as_array(probabilities_of(member(small))) for member in members], axis=0)
    np.testing.assert_allclose(probabilities_of(predictor.network(small)), expected, atol=1e-5)
    assert predictor.fingerprint != Predictor.from_pretrained(sources[0]).fingerprint


def _volume(array: NDArray[np.float32]):
    from transunet.inference.predictor import as_volume

    return as_volume(array, (1, 1, 1))


def test_an_ensemble_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        Predictor.from_pretrained([])

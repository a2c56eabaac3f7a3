"""Slices and patches of air are computed once, and nothing that is written changes."""

import numpy as np
import pytest
import torch

from tiny_3d import TINY_TRUNK
from transunet import create_model
from transunet.backends.pytorch import TorchNetwork
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.sampling.slices import Slices
from transunet.data.volume import Volume
from transunet.inference.constant_samples import OncePerConstant
from transunet.inference.predictor import Predictor
from transunet.trust.likeness import mean_features

CT = Preprocessing(
    channels=(Channel(name="CT", normalisation="clip", low=-100, high=300),), orientation="SRA"
)
LABELS = {0: "background", 1: "one", 2: "two"}


class Counted:
    """A network that finds structure 2 in air, and whose samples do not know of each other."""

    image_size, device, fingerprint = (16, 16), "cpu", "counted"

    def __init__(self) -> None:
        self.samples = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.samples += len(images)
        x = images.mean(1, keepdims=True)
        ramp = np.linspace(-0.2, 0.2, 256, dtype=np.float32).reshape(16, 16)
        return np.concatenate([x + ramp, 2 * x - ramp, 0.5 - x], axis=1)


def scan(depth: int = 20) -> Volume:
    """A body in planes 7 to 11 with air around, which has noise in it; planes of 40 x 36 voxels."""
    rng = np.random.default_rng(0)
    hounsfield = rng.normal(-1000, 20, (40, 36, depth))
    hounsfield[8:30, 6:30, 7:12] = rng.normal(60, 90, (22, 24, 5))
    return Volume(hounsfield[None].astype(np.int16), np.diag([1, 1, 3, 1]), "scan")


@pytest.mark.parametrize("context", [0, 1])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_planes_of_air_change_nothing_that_is_written(
    context, mirror, batch_size, tmp_path, monkeypatch
):
    network, image = Counted(), scan()
    settings = {"mirror": mirror, "batch_size": batch_size}
    predictor = Predictor(
        network, CT, LABELS, sampling=Slices(size=(16, 16), context=context), **settings
    )
    labels = predictor(image, probabilities=tmp_path / "some.npy")
    body, mirrors = 5 + 2 * context, 4 if mirror else 1
    # Of a batch that holds air on both sides of the body, too, one plane of air is computed.
    assert network.samples == (body + 1) * mirrors
    monkeypatch.setattr(
        "transunet.inference.slice_inference.OncePerConstant",
        lambda network: lambda x, _: network(x),
    )
    network.samples = 0
    every = predictor(image, probabilities=tmp_path / "every.npy")
    assert network.samples == 20 * mirrors
    np.testing.assert_array_equal(labels.array, every.array)
    np.testing.assert_array_equal(np.load(tmp_path / "some.npy"), np.load(tmp_path / "every.npy"))
    assert (labels.array[..., 0] == 2).all()  # what the network finds in air is written


class AtItsOwnSize(Counted):
    """A network that sees planes as they are, and calls air dark."""

    image_size = (40, 36)

    def __init__(self) -> None:
        self.given: list[np.ndarray] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.given.extend(images)
        return np.stack([images[:, 0], 0.1 - images[:, 0]], axis=1)


def test_a_plane_with_one_voxel_of_another_value_is_computed():
    network, image = AtItsOwnSize(), scan()
    image.array[0, 39, 35, 19] = -99  # of all the air the only voxel above the window's lower end
    labels = Predictor(network, CT, {0: "background", 1: "dark"})(image).array[0]
    assert sum((plane != 0).sum() == 1 for plane in network.given) == 1
    assert len(network.given) == 7
    np.testing.assert_array_equal(labels, image.array[0] < -80)


def test_two_kinds_of_air_and_channels_that_differ_are_told_apart():
    samples = np.zeros((6, 2, 4, 4), np.float32)
    samples[1, 1] = np.nextafter(np.float32(0), np.float32(1))  # constant, by its last bit another
    samples[3, 0, 3, 3] = 1e-30
    samples[4] = np.nan
    given = []
    once = OncePerConstant(lambda x: (given.append(len(x)), x * 2 + 1)[1])
    np.testing.assert_array_equal(once(samples), samples * 2 + 1)
    np.testing.assert_array_equal(once(samples[5:]), samples[5:] * 2 + 1)
    np.testing.assert_array_equal(once(np.ones((3, 2, 4, 4), np.float32)), 3)
    assert given == [5, 1]  # the last plane of the first call is known by then


def test_who_watches_the_network_sees_planes_of_air_too():
    torch.manual_seed(0)
    model = create_model("testing", num_classes=3, image_size=32).eval()
    predictor, image = Predictor(model, CT, LABELS, device="cpu"), scan()
    calls: list[int] = []
    hook = model.deepest.register_forward_hook(lambda _m, _i, out: calls.append(len(out)))
    predictor(image)
    unwatched = sum(calls)
    with mean_features(predictor.network):
        predictor(image)
    hook.remove()
    assert (unwatched, sum(calls) - unwatched) == (6, 20)


def test_a_network_of_patches_on_a_device_is_given_its_own_tensors():
    torch.manual_seed(0)
    model = create_model("UNet3D", num_classes=3, image_size=(8, 16, 16), **TINY_TRUNK).eval()
    network = TorchNetwork(model, "cpu")
    images = np.zeros((4, 1, 8, 16, 16), np.float32)
    images[2] = np.random.default_rng(0).normal(size=(1, 8, 16, 16))
    once = OncePerConstant(network)
    for _ in range(2):
        logits = once(images)
        assert isinstance(logits, torch.Tensor)
        np.testing.assert_allclose(logits.numpy(), network(images).numpy(), atol=1e-4)

"""2.5D: a network that sees each slice's neighbours, in training, prediction and attention."""

import numpy as np
import pytest
import torch

from prediction import OBLIQUE, noise, tiny_config, tiny_model
from transunet.attention.view import AttentionView
from transunet.bundle.bundle_config import BundleConfig
from transunet.bundle.io import save_pretrained
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.sampling.patches import Patches
from transunet.data.sampling.slices import Slices
from transunet.data.volume import Volume
from transunet.errors import ConfigError
from transunet.inference.predictor import Predictor
from transunet.models.transunet2d.network import TransUNet

GREY = Preprocessing(channels=(Channel(name="MRI"),))
LABELS = {0: "background", 1: "left", 2: "right"}


def grey_and_three() -> tuple[TransUNet, TransUNet]:
    """A network for one grey channel, and the same weights for three."""
    grey = tiny_model()
    three = TransUNet(tiny_config(channels=3)).eval()
    three.load_state_dict(grey.state_dict())
    return grey, three


def scan(shape: tuple[int, int, int] = (20, 24, 9), seed: int = 0) -> Volume:
    return Volume(noise(shape, seed)[None].astype(np.float32), OBLIQUE, "scan")


@pytest.mark.parametrize("procedure", ["native", "paper"])
def test_equal_neighbours_give_the_2d_labels_to_the_bit(procedure):
    grey, three = grey_and_three()
    image = scan()
    image = image.with_array(np.repeat(image.array[:, :, :1], 24, axis=2))  # equal along one axis
    alike = GREY.replace(orientation="".join(image.orientation[i] for i in (1, 0, 2)))
    flat = Predictor(grey, alike, LABELS, device="cpu", procedure=procedure)
    deep = Predictor(three, alike, LABELS, context=1, device="cpu", procedure=procedure)
    assert alike.native_shape(image)[0] == 24
    np.testing.assert_array_equal(deep(image).array, flat(image).array)


def test_a_batch_boundary_changes_nothing():
    _, three = grey_and_three()
    image = scan()
    whole = Predictor(three, GREY, LABELS, context=1, device="cpu", batch_size=64)(image)
    for batch_size in (1, 2, 4):
        parts = Predictor(three, GREY, LABELS, context=1, device="cpu", batch_size=batch_size)
        assert (parts(image).array != whole.array).sum() <= 2  # sums in another order


def test_the_network_sees_the_slice_below_itself_and_above():
    class Seen:
        image_size, device, fingerprint = None, "cpu", "seen"

        def __init__(self):
            self.images = []

        def __call__(self, images):
            self.images.extend(images)
            return np.zeros((len(images), 3, *images.shape[2:]), np.float32)

    seen, image = Seen(), scan()
    Predictor(seen, GREY, LABELS, context=1, batch_size=4)(image)
    planes = GREY.to_working(image)[0]
    for index, (below, itself, above) in enumerate(seen.images):
        np.testing.assert_allclose(itself, planes[index], atol=1e-5)
        np.testing.assert_allclose(below, planes[max(index - 1, 0)], atol=1e-5)
        np.testing.assert_allclose(above, planes[min(index + 1, len(planes) - 1)], atol=1e-5)


def test_a_bundle_carries_its_context(tmp_path):
    _, three = grey_and_three()
    config = BundleConfig(
        architecture=three.config,
        preprocessing=GREY,
        sampling=Slices(size=(32, 32), context=1),
        labels=LABELS,
    )
    save_pretrained(three, config, tmp_path / "bundle")
    predictor = Predictor.from_pretrained(tmp_path / "bundle", device="cpu", engine="eager")
    direct = Predictor(three, GREY, LABELS, context=1, device="cpu")
    assert predictor.context == predictor.replace(mirror=True).context == 1
    np.testing.assert_array_equal(predictor(scan()).array, direct(scan()).array)
    with pytest.raises(ConfigError, match="1 channels in 5 planes, the model takes 3"):
        config.replace(sampling=Slices(size=(32, 32), context=2))
    patches, one = Patches(size=(8, 32, 32)), three.config.replace(in_channels=1)
    with pytest.raises(ConfigError, match=r"patches of \(8, 32, 32\) .*takes \(32, 32\)"):
        config.replace(architecture=one, sampling=patches)


def test_attention_sees_the_neighbours_too():
    grey, three = grey_and_three()
    image = scan()
    flat = AttentionView(grey, GREY, device="cpu").maps(image, [("rollout", "mean")])[0].tokens
    deep = AttentionView(three, GREY, "cpu", context=1).maps(image, [("rollout", "mean")])[0].tokens
    assert deep.shape == flat.shape
    assert not np.allclose(deep, flat)
    same = image.with_array(np.repeat(image.array[..., :1], 9, axis=3))
    along = GREY.replace(orientation="".join(image.orientation[i] for i in (2, 0, 1)))
    flat = AttentionView(grey, along, device="cpu").maps(same, [("rollout", "mean")])[0].tokens
    deep = AttentionView(three, along, "cpu", context=1).maps(same, [("rollout", "mean")])[0].tokens
    torch.testing.assert_close(torch.from_numpy(deep), torch.from_numpy(flat), rtol=1e-5, atol=1e-6)

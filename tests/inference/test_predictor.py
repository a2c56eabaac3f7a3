import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from golden_figures import facts, figure, seed_state, uniform
from prediction import mirrored_along
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError
from transunet.inference.predictor import Predictor
from transunet.models.transunet2d.network import TransUNet
from transunet.models.variants import variant

UNIT = Preprocessing(channels=(Channel(normalisation="range", high=1.0),))
NAMES = {0: "background", 1: "one", 2: "two", 3: "three"}


def volume_of(slices: NDArray[np.float32]) -> Volume:
    """(S, H, W) as a volume that UNIT cuts into these slices."""
    return Volume(np.moveaxis(slices, 0, -1)[None], np.eye(4), "test")


@pytest.fixture(scope="module")
def small() -> TransUNet:
    torch.manual_seed(0)
    return TransUNet(variant("R26-ViT-Ti_16", num_classes=4, image_size=32)).eval()


@pytest.mark.slow
def test_the_papers_procedure_gives_the_references_volume() -> None:
    fact = facts()["volume"]
    smooth = gaussian_filter(uniform("volume/image", (6, 72, 96)), (0, 3, 3))
    image = ((smooth - smooth.min()) / (smooth.max() - smooth.min())).astype(np.float32)
    keys = ("num_classes", "image_size", "n_skip")
    model = TransUNet(variant("R50-ViT-B_16", **{key: fact[key] for key in keys}))
    seed_state(model)
    predictor = Predictor(model, UNIT, NAMES, device="cpu", procedure="paper")
    labels = np.moveaxis(predictor(volume_of(image)).array[0], -1, 0)
    assert np.bincount(labels.ravel(), minlength=4).tolist() == fact["pred_hist"]
    assert np.array_equal(labels, figure("volume_prediction"))


def test_the_label_map_lies_on_the_images_grid(small: TransUNet) -> None:
    rng = np.random.default_rng(0)
    affine = np.array([[0, 0, -2.5, 10], [-0.7, 0, 0, 3], [0, 0.7, 0, -8], [0, 0, 0, 1]])
    image = Volume(rng.random((1, 20, 24, 5), dtype=np.float32), affine, "oblique")
    labels = Predictor(small, UNIT, NAMES, device="cpu")(image)
    assert labels.array.shape == (1, 20, 24, 5)
    assert labels.array.dtype == np.uint8
    assert np.array_equal(labels.affine, affine)


def test_orientation_of_the_file_does_not_matter(small: TransUNet) -> None:
    rng = np.random.default_rng(1)
    image = Volume(rng.random((1, 24, 20, 6), dtype=np.float32), np.diag([1, 1, 3, 1]), "case")
    predictor = Predictor(small, UNIT, NAMES, device="cpu")
    straight, turned = predictor(image), predictor(image.reoriented("PSL"))
    assert np.array_equal(turned.reoriented("RAS").array, straight.array)


def test_batches_do_not_matter(small: TransUNet) -> None:
    image = volume_of(np.random.default_rng(2).random((7, 30, 40), dtype=np.float32))
    seen: list[tuple[int, int]] = []
    one = Predictor(small, UNIT, NAMES, device="cpu", batch_size=1)(image)
    three = Predictor(small, UNIT, NAMES, device="cpu", batch_size=3)(
        image, lambda done, total: seen.append((done, total))
    )
    assert (one.array == three.array).mean() > 0.999
    assert seen == [(3, 7), (6, 7), (7, 7)]


def test_native_labels_follow_the_resized_logits(small: TransUNet) -> None:
    slices = np.random.default_rng(3).random((2, 1, 32, 32), dtype=np.float32)
    labels = Predictor(small, UNIT, NAMES, device="cpu").label_slices(slices)
    with torch.inference_mode():
        expected = small(torch.from_numpy(slices)).argmax(1).numpy()
    assert np.array_equal(labels, expected)


def test_a_model_in_training_stays_in_training(small: TransUNet) -> None:
    small.train()
    Predictor(small, UNIT, NAMES, device="cpu")(volume_of(np.zeros((1, 32, 32), np.float32)))
    assert small.training
    small.eval()


def test_bad_input_is_refused(small: TransUNet) -> None:
    predictor = Predictor(small, UNIT, NAMES, device="cpu")
    image = np.full((1, 32, 32), np.nan, np.float32)
    with pytest.raises(DataError, match=r"test: .*NaN"):
        predictor(volume_of(image))
    with pytest.raises(DataError, match="2 channels"):
        predictor(Volume(np.zeros((2, 32, 32, 1), np.float32), np.eye(4)))
    with pytest.raises(ConfigError, match="available: "):
        Predictor(small, UNIT, NAMES, device="tpu9")
    with pytest.raises(ConfigError, match="native, paper"):
        Predictor(small, UNIT, NAMES, device="cpu", procedure="best")  # type: ignore[arg-type]


class Halving:
    """A network whose logits have half of the images' size."""

    device, fingerprint, image_size = "cpu", "halving", (224, 32)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.concatenate([np.zeros_like(images), images - 0.5], axis=1)[:, :, ::2, ::2]


@pytest.mark.parametrize("native", [(40, 40), (512, 40)])  # 512 -> 224: scipy's last row is 0
def test_both_procedures_give_what_each_gives_alone(native: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = volume_of(gaussian_filter(rng.random((5, *native), dtype=np.float32), (0, 2, 2)) * 2)
    image = image.with_array(image.array - image.array.mean() + 0.5)
    names = {0: "background", 1: "bright"}
    both = Predictor(Halving(), UNIT, names, batch_size=2).by_procedure(image)
    for procedure, labels in both.items():
        alone = Predictor(Halving(), UNIT, names, batch_size=2, procedure=procedure)(image)
        assert np.array_equal(labels.array, alone.array)
    assert not np.array_equal(both["native"].array, both["paper"].array)
    with pytest.raises(ConfigError, match="no windows"):
        Predictor(Halving(), UNIT, names, window=True).by_procedure(image)


@pytest.mark.parametrize(
    ("axes", "force", "looks"),
    [
        (None, False, {(), (2,), (3,), (2, 3)}),
        ((0, 1), False, {(), (2,), (3,), (2, 3)}),
        ((1,), False, {(), (3,)}),
        ((), True, {(), (2,), (3,), (2, 3)}),
    ],
)
def test_mirror_images_are_those_that_training_saw(
    axes: tuple[int, ...] | None, force: bool, looks: set[tuple[int, ...]]
) -> None:
    seen: list[NDArray[np.float32]] = []

    class Watching(Halving):
        def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
            seen.append(images)
            return super().__call__(images)

    slices = np.random.default_rng(0).random((1, 224, 32), dtype=np.float32)
    Predictor(
        Watching(),
        UNIT,
        {0: "background", 1: "bright"},
        mirror=True,
        training_data=mirrored_along(axes),
        force=force,
    ).label_slices(slices[:, None])
    found = {
        flipped for flipped in looks if any((np.flip(seen[0], flipped) == s).all() for s in seen)
    }
    assert found == looks
    assert len(seen) == len(looks)


def test_mirror_images_that_training_never_saw_are_refused(small: TransUNet) -> None:
    predictor = Predictor(small, UNIT, NAMES, device="cpu", training_data=mirrored_along(()))
    with pytest.raises(ConfigError, match=r"training showed the network none.*p_mirror"):
        predictor.replace(mirror=True)


def test_other_settings_around_the_same_network(small: TransUNet) -> None:
    base = Predictor(small, UNIT, NAMES, device="cpu", largest_component=["two"], sources=["a"])
    other = base.replace(mirror=True, batch_size=1)
    assert other.settings == base.settings | {"mirror": True}
    assert (other.batch_size, other.sources, other.engine) == (1, ("a",), "eager")
    assert other.replace(mirror=False).network is base.network
    with pytest.raises(ConfigError, match="no windows"):
        base.replace(window=True, procedure="paper")

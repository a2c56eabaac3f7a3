"""Patch inference: equal to MONAI's inferer, to whole logits resized, and bounded in memory."""

import tracemalloc
import warnings
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from prediction import OBLIQUE, noise
from tiny_3d import tiny_model_3d
from transunet.backends.pytorch import TorchNetwork
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.resize import resize
from transunet.data.sampling.patches import Patches
from transunet.data.sampling.slices import Slices
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError
from transunet.inference.logits import probabilities_of
from transunet.inference.patch_inference import blended_planes, resized_planes
from transunet.inference.predictor import Predictor
from transunet.inference.slice_inference import VolumeSlices
from transunet.inference.tta import MirrorTTA
from transunet.models.segmentation_network import SegmentationNetwork

LABELS = {0: "background", 1: "left", 2: "right"}
MRI = Preprocessing(channels=(Channel(name="MRI"),))
SIZE = (8, 16, 16)


def tiny_3d(name: str = "UNet3D", size: tuple[int, int, int] = SIZE) -> SegmentationNetwork:
    return tiny_model_3d(name, size)


class Pointwise:
    """Probabilities of a voxel that follow from its intensity and its place in the patch."""

    device = "cpu"
    fingerprint = "pointwise"

    def __init__(self, size: tuple[int, int, int] = SIZE, classes: int = 3) -> None:
        self.image_size, self.classes, self.calls = size, classes, 0
        ramp = np.linspace(-1, 1, int(np.prod(size)), dtype=np.float32).reshape(size)
        self.ramp = ramp * np.arange(classes, dtype=np.float32).reshape(-1, 1, 1, 1)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        self.calls += len(images)
        classes = np.arange(self.classes, dtype=np.float32).reshape(1, -1, 1, 1, 1)
        return images[:, :1] * classes - classes**2 / 2 + self.ramp[None]


def whole(network, array: NDArray[np.float32], sampling: Patches, **settings) -> NDArray:
    """Probabilities (D, classes, H, W) of a working volume (C, D, H, W)."""
    planes = array.swapaxes(0, 1)
    parts = [np.asarray(part) for part in blended_planes(network, planes, sampling, **settings)]
    assert max(map(len, parts)) <= 8
    return np.concatenate(parts)


@pytest.mark.runtime
@pytest.mark.parametrize("name", ["UNet3D", "TransUNet3D"])
@pytest.mark.parametrize(
    "shape", [(8, 16, 16), (16, 32, 24), (20, 40, 16), (5, 16, 24), (3, 10, 9), (12, 7, 32)]
)
def test_monai_gives_the_same_where_its_windows_lie_the_same(name, shape):
    with warnings.catch_warnings(action="ignore"):
        inferers = pytest.importorskip("monai.inferers", reason="compares with MONAI's inferer")
    network = TorchNetwork(tiny_3d(name), "cpu")
    array = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    inferer = inferers.SlidingWindowInferer(SIZE, 4, overlap=0.5, mode="gaussian")
    with torch.inference_mode():
        expected = inferer(
            torch.from_numpy(array[None]), lambda batch: probabilities_of(network(batch.numpy()))
        )
    found = whole(network, array, Patches(size=SIZE), batch_size=4)
    assert expected.std() > 0.01
    np.testing.assert_allclose(found.swapaxes(0, 1), expected[0].numpy(), atol=1e-5)


@pytest.mark.runtime
@pytest.mark.parametrize(
    ("overlap", "shape"),
    [(0.25, (14, 28, 16)), (0.25, (8, 40, 10)), (0.75, (12, 24, 20)), (0, (16, 16, 32))],
)
@pytest.mark.parametrize("mirrored", [False, True])
def test_monai_gives_the_same_with_other_overlaps_and_mirrored(overlap, shape, mirrored):
    """MONAI's inferer on each mirror image of the volume, ours on mirror images of patches."""
    with warnings.catch_warnings(action="ignore"):
        inferers = pytest.importorskip("monai.inferers", reason="compares with MONAI's inferer")
    network = TorchNetwork(tiny_3d(), "cpu")
    array = np.random.default_rng(1).normal(size=(1, 1, *shape)).astype(np.float32)
    inferer = inferers.SlidingWindowInferer(SIZE, 4, overlap=overlap, mode="gaussian")

    def probabilities(flipped: NDArray[np.float32]) -> NDArray[np.float32]:
        given = torch.from_numpy(np.ascontiguousarray(flipped))
        with torch.inference_mode():
            return inferer(given, lambda batch: probabilities_of(network(batch.numpy()))).numpy()

    flips = list(product((False, True), repeat=3)) if mirrored else [(False, False, False)]
    expected = 0
    for flip in flips:
        axes = [axis + 2 for axis, chosen in enumerate(flip) if chosen]
        expected = expected + np.flip(probabilities(np.flip(array, axes)), axes) / len(flips)
    ours = MirrorTTA(network) if mirrored else network
    found = whole(ours, array[0], Patches(size=SIZE, overlap=overlap), batch_size=3)
    np.testing.assert_allclose(found.swapaxes(0, 1), expected[0], atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 16, 16), (9, 17, 19), (23, 30, 21), (5, 9, 40), (31, 16, 5)])
@pytest.mark.parametrize("overlap", [0, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_rolling_buffer_gives_what_a_whole_volume_of_probabilities_gives(
    shape, overlap, batch_size
):
    sampling, network = Patches(size=SIZE, overlap=overlap), Pointwise()
    array = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    told: list[tuple[int, int]] = []
    found = whole(
        network, array, sampling, batch_size=batch_size, progress=lambda *n: told.append(n)
    )
    np.testing.assert_allclose(found, every_patch_computed(network, array, sampling), atol=3e-6)
    positions = sampling.positions(shape)
    assert told == [(n + 1, len(positions)) for n in range(len(positions))]


def every_patch_computed(
    network: Pointwise, array: NDArray[np.float32], sampling: Patches
) -> NDArray[np.float64]:
    """The definition: Gaussian means, all in memory, of a network called for each patch."""
    shape = array.shape[1:]
    total = np.zeros((network.classes, *(n + 80 for n in shape)))
    weight = np.zeros([n + 80 for n in shape])
    for position in sampling.positions(shape):
        ends = zip(position, sampling.size, strict=True)
        box = tuple(slice(40 + n, 40 + n + side) for n, side in ends)
        patch = sampling.read(array, position, sampling.padding)
        total[:, *box] += probabilities_of(network(patch[None]))[0] * sampling.weights()
        weight[box] += sampling.weights()
    inside = tuple(slice(40, 40 + n) for n in shape)
    return (total[:, *inside] / weight[inside]).swapaxes(0, 1)


@pytest.mark.parametrize("made_by", ["numpy", "torch"])
@pytest.mark.parametrize(
    "shape", [(7, 6, 5), (7, 12, 9), (30, 6, 5), (1, 3, 4), (3, 20, 2), (61, 13, 11), (6, 6, 5)]
)
@pytest.mark.parametrize("length", [1, 7, 20])
def test_planes_are_resized_as_the_whole_volume_is(length, shape, made_by):
    volume = np.random.default_rng(0).random((length, 3, 6, 5), dtype=np.float32)
    expected = resize(volume.swapaxes(0, 1), shape, order=1, edge="kept")
    for step in (1, 3, 8):
        parts = [volume[start : start + step] for start in range(0, length, step)]
        if made_by == "torch":
            parts = [torch.from_numpy(part) for part in parts]
        found = np.concatenate([np.asarray(part) for part in resized_planes(parts, length, shape)])
        np.testing.assert_allclose(found.swapaxes(0, 1), expected, atol=2e-6)


def test_a_patch_of_nothing_but_air_is_computed_once():
    array = np.zeros((1, 64, 64, 64), np.float32)
    array[:, 40:, 40:, 40:] = np.random.default_rng(0).normal(size=(24, 24, 24))
    sampling, network = Patches(size=(16, 16, 16)), Pointwise((16, 16, 16))
    positions = sampling.positions((64, 64, 64))
    told = sum(sampling.read(array, position).any() for position in positions)
    whole(network, array, sampling, batch_size=2)
    assert network.calls == told + 1 < len(positions) / 3


@pytest.mark.parametrize("padding", ["zero", "minimum"])
def test_air_changes_no_probability_whatever_lies_in_it(padding):
    """Two kinds of air in turn, a channel that is not air, single voxels, and a padded border."""
    shape = (12, 40, 40)
    array = np.full((2, *shape), -1.5, np.float32)
    array[0, :, 16:32] = 3  # another uniform value: what is kept of air is made anew
    array[0, 11, 39, 39] = -1.4999999  # one voxel, in its last bits
    array[1, 4, 0, 39] = np.nextafter(np.float32(-1.5), np.float32(0))
    array[1, :, 36:, :8] = np.random.default_rng(0).normal(size=(12, 4, 8))
    sampling, network = Patches(size=SIZE, padding=padding), Pointwise()
    network.ramp = network.ramp * 5  # so that patches differ from their neighbours' places
    expected = every_patch_computed(network, array, sampling)
    calls, network.calls = network.calls, 0
    found = whole(network, array, sampling, batch_size=3)
    assert network.calls < calls
    np.testing.assert_allclose(found, expected, atol=3e-6)
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.9999


def test_memory_is_bounded_by_a_patchs_depth():
    """Nine classes of a volume twenty times as deep as a patch are never held."""
    size, shape, classes = (16, 32, 32), (320, 32, 32), 9
    plane_bytes = 4 * classes * 32 * 32
    array = np.random.default_rng(0).random((320, 1, 32, 32), dtype=np.float32)
    names = {index: f"class {index}" for index in range(classes)}
    predictor = Predictor(Pointwise(size, classes), MRI, names, batch_size=1)
    for native in (None, (400, 40, 40)):
        tracemalloc.start()
        labels = predictor.label_slices(array, shape=native)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert labels.shape == (native or shape)
        # A patch's depth of them, and a few at a time on their way to labels; and what a patch is.
        patch = 4 * classes * np.prod(size)
        assert peak - labels.nbytes < (size[0] + 60) * plane_bytes + 10 * patch
        assert peak < 320 * plane_bytes / 2


def scan(shape: tuple[int, int, int] = (26, 30, 17), channels: int = 1) -> Volume:
    array = np.stack([noise(shape, seed) for seed in range(channels)])
    return Volume(array.astype(np.float32), OBLIQUE, "scan")


@pytest.mark.parametrize("spacing_mm", [None, (None, 1.0, 0.9), (2.0, 1.0, 1.0), (4.0, 0.6, 0.9)])
def test_the_label_map_is_that_of_whole_probabilities_resized(spacing_mm, tmp_path):
    network, image = Pointwise(), scan()
    preprocessing = MRI.replace(spacing_mm=spacing_mm)
    predictor = Predictor(network, preprocessing, LABELS)
    assert predictor.sampling == Patches(size=SIZE)
    maps = {"probabilities": tmp_path / "p.npy", "uncertainty": tmp_path / "u.nii"}
    labels = predictor(image, **maps)
    working = preprocessing.to_working(image)
    probabilities = whole(network, working, Patches(size=SIZE)).swapaxes(0, 1)
    native = resize(probabilities, preprocessing.native_shape(image), order=1, edge="kept")
    expected = preprocessing.unoriented(native, image)
    assert labels.array.shape == image.array.shape
    assert (labels.array[0] == expected.argmax(axis=0)).mean() > 0.999
    stored = np.load(maps["probabilities"])
    np.testing.assert_allclose(stored, expected, atol=2e-3)
    np.testing.assert_allclose(stored.astype(np.float32).sum(axis=0), 1, atol=5e-3)
    assert len({int(label) for label in np.unique(labels.array)}) == 3


@pytest.mark.parametrize("spacing_mm", [(2.0, 1.0, 1.0), (1.0, None, None)])
def test_planes_that_are_resampled_are_those_of_the_working_volume(spacing_mm):
    preprocessing = MRI.replace(spacing_mm=spacing_mm)
    planes = VolumeSlices(scan(), preprocessing)
    working = preprocessing.to_working(scan()).swapaxes(0, 1)
    assert planes.shape == working.shape
    np.testing.assert_allclose(planes[3:7], working[3:7], atol=1e-5)


@pytest.mark.parametrize("name", ["UNet3D", "TransUNet3D"])
def test_mirroring_averages_eight_mirror_images(name):
    model, image = tiny_3d(name), scan((20, 24, 9))
    mirrored = Predictor(model, MRI, LABELS, device="cpu", mirror=True)
    network = TorchNetwork(model, "cpu")

    class Mean:
        image_size, device, fingerprint = SIZE, "cpu", "mean"

        def __call__(self, images):
            total = 0
            for flips in product((False, True), repeat=3):
                axes = [axis + 2 for axis, flip in enumerate(flips) if flip]
                logits = network(np.ascontiguousarray(np.flip(images, axes)))
                total = total + np.flip(probabilities_of(logits).numpy(), axes)
            return np.log(total / 8)

    expected = Predictor(Mean(), MRI, LABELS)(image)
    assert (mirrored(image).array == expected.array).mean() > 0.999
    plain = Predictor(model, MRI, LABELS, device="cpu")(image)
    assert (mirrored(image).array != plain.array).any()


def test_a_batch_of_patches_changes_nothing():
    image, model = scan((40, 44, 20)), tiny_3d()
    one = Predictor(model, MRI, LABELS, device="cpu", batch_size=1)(image)
    five = Predictor(model, MRI, LABELS, device="cpu", batch_size=5)(image)
    assert (one.array != five.array).mean() < 1e-3


def test_what_is_for_slices_is_refused_for_patches():
    model = tiny_3d()
    for settings in ({"procedure": "paper"}, {"window": True}):
        with pytest.raises(ConfigError, match="is for slices; this network takes patches"):
            Predictor(model, MRI, LABELS, device="cpu", **settings)
    with pytest.raises(ConfigError, match="context=1 contradicts sampling"):
        Predictor(model, MRI, LABELS, device="cpu", context=1)
    with pytest.raises(ConfigError, match=r"slices of .*, the network takes"):
        Predictor(model, MRI, LABELS, device="cpu", sampling=Slices(size=(16, 16)))
    with pytest.raises(ConfigError, match="is for slices"):
        Predictor(model, MRI, LABELS, device="cpu").by_procedure(scan())


def test_a_picture_is_refused_with_what_is_expected():
    picture = Volume(np.zeros((1, 30, 40, 1), np.float32), np.eye(4), "photo.png")
    with pytest.raises(DataError, match=r"photo\.png: is a picture or a single plane .*2D network"):
        Predictor(tiny_3d(), MRI, LABELS, device="cpu")(picture)

"""Volumes brought to one spacing for networks of three axes: intensities, images, labels."""

import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes, zoom

from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.resize import nearest, resize, resize_labels
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError
from transunet.inference.slice_inference import VolumeSlices

FOREGROUND = Channel(
    name="CT", normalisation="foreground", low=-50, high=200, mean=80.0, deviation=40.0
)
NONZERO = Channel(name="T1", normalisation="nonzero")


def ball(shape, radius, spacing):
    middle = np.array(shape) / 2 - 0.5
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return (np.linalg.norm((grid - middle) * spacing, axis=-1) < radius).astype(np.uint8)


def dice(a, b):
    return 2 * np.logical_and(a, b).sum() / (a.sum() + b.sum())


def test_ct_is_clipped_and_standardised_by_the_foreground():
    values = np.array([-1000, -50, 80, 120, 200, 3000], np.float32)
    expected = (np.clip(values, -50, 200) - 80) / 40  # nnU-Net's CTNormalization
    np.testing.assert_allclose(FOREGROUND.normalise(values), expected, rtol=1e-6)
    assert FOREGROUND.measure([values]) is None


@pytest.mark.process  # importing MONAI starts one
def test_mr_without_background_is_standardised_as_monai_does(rng):
    transforms = pytest.importorskip("monai.transforms")
    values = rng.normal(300, 80, (6, 7, 8)).astype(np.float32)
    values[:, :3] = 0
    expected = transforms.NormalizeIntensity(nonzero=True, channel_wise=True)(values[None])[0]
    found = NONZERO.normalise(values)
    np.testing.assert_allclose(found, np.asarray(expected), atol=1e-5)
    assert (found[:, :3] == 0).all()
    slab = NONZERO.normalise(values[2:4], NONZERO.measure([values[:4], values[4:]]))
    np.testing.assert_allclose(slab, found[2:4], atol=1e-6)
    assert not NONZERO.normalise(np.zeros((2, 3, 4), np.float32)).any()


def test_what_is_0_amid_tissue_is_dark_and_no_air(rng):
    values = rng.normal(300, 80, (4, 12, 12)).astype(np.float32)
    values[:, :3] = values[1:, 6:8, 5:7] = 0  # air, and a ventricle that opens into the first plane
    tissue = np.stack([binary_fill_holes(plane) for plane in values != 0])
    assert (tissue[1:, 6:8, 5:7]).all()
    assert not tissue[:, :3].any()
    found = NONZERO.normalise(values)
    inside = values[tissue]
    np.testing.assert_allclose(found[tissue], (inside - inside.mean()) / inside.std(), atol=1e-4)
    assert (found[:, :3] == 0).all()
    assert (found[1:, 6:8, 5:7] < -2).all()


def test_only_the_foregrounds_channel_tells_mean_and_deviation():
    pre = Preprocessing(channels=(FOREGROUND, Channel(), NONZERO), spacing_mm=(3, 1, 1))
    assert Preprocessing.from_json(pre.model_dump(mode="json"), "config.json") == pre
    assert Channel().model_dump() == {
        "name": "image",
        "normalisation": "zscore",
        "low": 0.0,
        "high": 1.0,
    }
    with pytest.raises(ConfigError, match="deviation=0"):
        FOREGROUND.replace(deviation=0)
    with pytest.raises(ConfigError, match="above"):
        FOREGROUND.replace(high=-60)


def test_images_are_resampled_as_scipy_does(rng):
    volume = Volume(rng.normal(size=(1, 20, 24, 15)).astype(np.float32), np.diag([1, 1, 2, 1]))
    pre = Preprocessing(
        channels=(Channel(normalisation="range", high=1),), spacing_mm=(1.5, 1.25, 0.8)
    )
    working = pre.to_working(volume)
    assert working.shape[1:] == (20, 16, 30)
    native = volume.array[0].transpose(2, 0, 1)
    expected = zoom(native, np.divide((20, 16, 30), native.shape), order=3, mode="mirror")
    np.testing.assert_allclose(working[0], expected, atol=1e-5)


@pytest.mark.parametrize("native", [(6, 1, 1), (1.5, 1, 1)])
def test_planes_far_apart_are_resampled_between_linearly(rng, native):
    planes, rows, columns = native
    volume = Volume(
        rng.normal(size=(1, 18, 20, 14)).astype(np.float32), np.diag([rows, columns, planes, 1])
    )
    wanted = (4.5 if planes == 6 else 6, 1.2, 1.2)  # one of the two is far coarser than in plane
    pre = Preprocessing(channels=(Channel(normalisation="range", high=1),), spacing_mm=wanted)
    working = pre.to_working(volume)[0]
    array = volume.array[0].transpose(2, 0, 1)
    factors = np.divide(working.shape, array.shape)
    in_plane = zoom(array, (1, *factors[1:]), order=3, mode="mirror")
    expected = zoom(in_plane, (factors[0], 1, 1), order=1, mode="mirror")
    np.testing.assert_allclose(working, expected, atol=1e-5)
    assert np.abs(expected - zoom(array, factors, order=3, mode="mirror")).max() > 0.05


def test_several_orders_are_one_after_the_other(rng):
    image = rng.normal(size=(5, 8, 9)).astype(np.float32)
    mixed = resize(image, (8, 12, 7), order=(1, 3, 0))
    steps = resize(image, (8, 8, 9), 1)
    steps = resize(resize(steps, (8, 12, 9), 3), (8, 12, 7), 0)
    np.testing.assert_allclose(mixed, steps, atol=1e-5)
    with pytest.raises(ConfigError, match="order"):
        resize(image, (8, 12, 7), order=(1, 2, 3))


@pytest.mark.parametrize("channel", [FOREGROUND, NONZERO, Channel()])
@pytest.mark.parametrize("spacing_mm", [None, (1.5, 1.2, 0.9), (9, 1, 1)])
def test_prediction_sees_what_training_saw(rng, channel, spacing_mm):
    array = rng.normal(80, 60, (1, 18, 20, 14)).astype(np.float32)
    array[:, :4] = 0
    volume = Volume(array, np.diag([1, 1.1, 2, 1]))
    pre = Preprocessing(channels=(channel,), spacing_mm=spacing_mm)
    planes = VolumeSlices(volume, pre)
    seen = planes[0 : len(planes)].swapaxes(0, 1)
    np.testing.assert_allclose(seen, pre.to_working(volume), atol=1e-5)


def test_labels_are_resampled_by_class(rng):
    labels = rng.integers(0, 4, (6, 9, 7)).astype(np.uint8)
    size = (11, 6, 13)
    indicators = [
        zoom(
            (labels == c).astype(np.float32), np.divide(size, labels.shape), order=1, mode="mirror"
        )
        for c in range(4)
    ]
    weights = np.sort(indicators, axis=0)
    clear = weights[-1] - weights[-2] > 1e-4
    found = resize_labels(labels, size)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[clear], np.argmax(indicators, axis=0)[clear])
    assert np.isin(found, labels).all()
    assert resize_labels(labels, labels.shape) is labels


def test_labels_by_class_are_nearer_to_the_surface_than_the_nearest_voxels():
    def sphere(side):  # on a grid whose first and last voxels lie at the same places
        axis = np.linspace(-1, 1, side)
        return (np.sqrt(sum(np.square(np.meshgrid(axis, axis, axis)))) < 0.7).astype(np.uint8)

    for new in (33, 40, 57):
        by_class = dice(resize_labels(sphere(20), (new,) * 3), sphere(new))
        assert by_class > dice(nearest(sphere(20), (new,) * 3, edge="kept"), sphere(new))
        assert by_class > 0.95


def test_a_small_structure_is_kept():
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[2:9, 2:9, 2:9] = 1
    labels[10, 10, 10] = 2
    labels[5, 5, 5] = 3  # inside the other
    for size in ((9, 9, 9), (17, 19, 23), (8, 12, 12)):
        assert set(np.unique(resize_labels(labels, size))) == {0, 1, 2, 3}


def test_labels_come_back_from_another_spacing():
    labels = ball((40, 44, 20), 14, (1, 1, 2.5))
    volume = Volume(labels[None], np.diag([1, 1, 2.5, 1]))
    for spacing in ((2.5, 0.8, 0.8), (2, 1.3, 1.3), (1, 1, 1)):
        pre = Preprocessing(spacing_mm=spacing)
        working = pre.labels_to_working(volume)
        assert working.shape == pre.working_shape(volume)
        assert dice(pre.from_working(working, volume).array[0], labels) > 0.95


def test_a_volume_of_absurd_size_is_refused_before_it_is_made():
    volume = Volume(np.zeros((1, 30, 40, 50), np.float32), np.diag([1000, 1000, 1000, 1]), "ct_9")
    pre = Preprocessing(spacing_mm=(1, 1, 1))
    for use in (pre.to_working, pre.labels_to_working, pre.working_shape):
        with pytest.raises(DataError, match=r"ct_9: .*30000 x 40000.*coarser spacing"):
            use(volume)

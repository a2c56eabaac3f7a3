import numpy as np
import pytest
from scipy.ndimage import zoom

from transunet.data.resize import nearest, resize, zoom_matrix
from transunet.errors import ConfigError

# 512 -> 224 and 8 -> 26 are pairs where scipy's last sample falls outside the image.
PAIRS = [
    ((35, 50), (64, 64)),
    ((512, 40), (224, 40)),
    ((8, 26), (26, 8)),
    ((7, 2), (3, 5)),
    ((1, 4), (3, 1)),
    ((9,), (14,)),
    ((6, 9, 5), (11, 4, 5)),
    ((8, 26, 8), (26, 8, 26)),
]


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("size", "new"), PAIRS)
def test_resize_is_scipy_zoom(rng, size, new, order):
    image = rng.normal(size=size).astype(np.float32)
    expected = zoom(image, np.divide(new, size), order=order)
    np.testing.assert_allclose(resize(image, new, order), expected, atol=1e-6 * np.ptp(image))


def test_no_number_is_so_small_that_processors_are_slow_with_it():
    for order in (1, 3):
        matrix = np.abs(zoom_matrix(512, 224, order, "kept"))
        assert matrix[matrix > 0].min() > 1e-21
        np.testing.assert_allclose(matrix.sum(1) > 0.99, True)


@pytest.mark.parametrize(("length", "new"), [(224, 512), (512, 224), (700, 333), (65, 64)])
def test_bands_are_rounded_as_the_whole_matrix(rng, length, new):
    image = rng.normal(size=(2, length, 3)).astype(np.float32)
    whole = zoom_matrix(length, new, 1, "kept") @ image
    np.testing.assert_allclose(resize(image, (new, 3), 1, "kept"), whole, rtol=2e-7, atol=1e-7)


@pytest.mark.parametrize(("size", "new"), PAIRS)
def test_nearest_is_scipy_zoom_of_order_0(rng, size, new):
    labels = rng.integers(1, 300, size).astype(np.uint16)
    out = nearest(labels, new)
    assert out.dtype == np.uint16
    np.testing.assert_array_equal(out, zoom(labels, np.divide(new, size), order=0))


def test_the_last_row_can_be_kept(rng):
    ones = np.ones((512, 512), np.float32)
    assert resize(ones, (224, 224))[-1].max() == 0  # as scipy has it
    np.testing.assert_allclose(resize(ones, (224, 224), edge="kept"), 1, atol=1e-6)
    assert nearest(ones, (224, 224), edge="kept").min() == 1
    image = rng.normal(size=(512, 8)).astype(np.float32)
    kept = resize(image, (224, 8), edge="kept")
    np.testing.assert_allclose(kept[:-1], resize(image, (224, 8))[:-1], atol=1e-6)
    np.testing.assert_allclose(kept[-1], image[-1], atol=1e-5)


def test_leading_axes_are_slices(rng):
    stack = rng.normal(size=(2, 3, 9, 11)).astype(np.float32)
    out = resize(stack, (20, 7))
    assert out.shape == (2, 3, 20, 7)
    np.testing.assert_allclose(out[1, 2], resize(stack[1, 2], (20, 7)), atol=1e-6)
    labels = rng.integers(0, 3, (4, 9, 11)).astype(np.uint8)
    np.testing.assert_array_equal(nearest(labels, (20, 7))[3], nearest(labels[3], (20, 7)))


def test_the_same_size_changes_nothing(rng):
    image = rng.normal(size=(9, 9)).astype(np.float32)
    np.testing.assert_array_equal(resize(image, (9, 9)), image)


def test_impossible_requests_are_refused():
    with pytest.raises(ConfigError, match="order 2"):
        resize(np.ones((4, 4), np.float32), (2, 2), order=2)
    with pytest.raises(ConfigError, match="0"):
        resize(np.ones((4, 4), np.float32), (0, 2))

import numpy as np
import pytest
from scipy.ndimage import rotate as scipy_rotate

from transunet.training.augmentation import paper, rotate, turn_and_flip


def test_image_and_label_move_together(rng):
    label = rng.integers(0, 5, (20, 30)).astype(np.uint8)
    image = np.stack([label, label * 2]).astype(np.float32)
    for seed in range(60):
        new_image, new_label = paper(image, label, np.random.default_rng(seed))
        np.testing.assert_array_equal(new_image[0], new_label)
        np.testing.assert_array_equal(new_image[1], new_label * 2.0)
        assert new_image.dtype == np.float32
        assert new_label.dtype == np.uint8


def test_how_often_what_happens(rng):
    label = np.arange(600).reshape(20, 30) + 1
    image = label[None].astype(np.float32)
    kinds = {"same": 0, "turned": 0, "rotated": 0}
    for seed in range(2000):
        _, new = paper(image, label, np.random.default_rng(seed))
        if new.shape == label.shape and np.array_equal(new, label):
            kinds["same"] += 1
        elif np.array_equal(np.unique(new), np.unique(label)):
            kinds["turned"] += 1  # every pixel is still there, once
        else:
            kinds["rotated"] += 1
    # A flip follows every turn, so a turn never changes nothing.
    assert kinds["turned"] == pytest.approx(1000, abs=100)
    assert kinds["rotated"] == pytest.approx(500, abs=80)
    assert kinds["same"] == pytest.approx(500, abs=80)


def test_rotation_is_nearest_neighbour_at_the_same_size(rng):
    label = rng.integers(1, 4, (16, 24)).astype(np.uint8)
    image = rng.normal(size=(2, 16, 24)).astype(np.float32)
    new_image, new_label = rotate(image, label, -13)
    for channel in range(2):
        expected = scipy_rotate(image[channel], -13, order=0, reshape=False)
        np.testing.assert_array_equal(new_image[channel], expected)
    np.testing.assert_array_equal(new_label, scipy_rotate(label, -13, order=0, reshape=False))
    assert set(np.unique(new_label)) <= {0, 1, 2, 3}


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("quarters", range(4))
def test_turn_and_flip_is_numpys(rng, quarters, axis):
    label = rng.integers(0, 9, (4, 6))
    _, new = turn_and_flip(label[None].astype(np.float32), label, quarters, axis)
    np.testing.assert_array_equal(new, np.flip(np.rot90(label, quarters), axis))

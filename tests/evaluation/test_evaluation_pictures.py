"""Pictures of a report: outlines, the choice of the slice, how it is turned."""

import base64
import re
from itertools import pairwise

import numpy as np
import pytest

from transunet.data.volume import Volume
from transunet.drawing.contours import loops
from transunet.drawing.panels import Panel
from transunet.evaluation.pictures import WorstSlice, draw_layers, image_on, worst_slice
from transunet.evaluation.records import Structure

ONE = (Structure((1,), "one"),)
RAS = np.eye(4)


def area(loop):
    """Signed area by the shoelace formula."""
    closed = [*loop, loop[0]]
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(closed)) / 2


def test_outline_of_a_rectangle_has_its_four_corners():
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:7] = True
    (loop,) = loops(mask)
    assert set(loop) == {(2, 1), (7, 1), (7, 4), (2, 4)}


def test_outline_at_the_border_of_the_image():
    assert len(loops(np.ones((2, 3), bool))) == 1
    assert set(loops(np.ones((2, 3), bool))[0]) == {(0, 0), (3, 0), (3, 2), (0, 2)}


def test_outline_of_a_ring_is_two_loops_of_opposite_turn():
    mask = np.ones((5, 5), bool)
    mask[2, 2] = False
    assert sorted(area(loop) for loop in loops(mask)) == [-1, 25]


def test_outline_of_nothing_is_empty():
    assert loops(np.zeros((4, 4), bool)) == []


@pytest.mark.parametrize("seed", range(5))
def test_outlines_enclose_exactly_the_mask(seed):
    mask = np.random.default_rng(seed).random((12, 15)) < 0.5  # touching corners and holes
    assert sum(area(loop) for loop in loops(mask)) == mask.sum()


def test_an_endless_outline_is_drawn_coarser():
    noise = np.random.default_rng(0).random((300, 300)) < 0.5
    points = [point for loop in loops(noise) for point in loop]
    assert len(points) < 20_000
    assert max(max(point) for point in points) >= 290


def volume(array, affine=RAS, name="v"):
    return Volume(np.asarray(array)[None], affine, name)


def labels(shape, *voxels):
    array = np.zeros(shape, np.uint8)
    for voxel in voxels:
        array[voxel] = 1
    return array


def test_the_slice_with_most_wrong_voxels_is_shown():
    real = labels((40, 40, 5), np.s_[10:20, 10:20, 1:4])
    predicted = real.copy()
    predicted[10, 10, 1] = 0
    predicted[10:12, 10, 3] = 0
    worst = worst_slice(volume(predicted), volume(real), None, ONE)
    assert worst.caption == "axial slice 4 of 5 · 2 voxels differ"
    assert worst.panel.labels.sum() == 100
    assert worst.prediction.sum() == 98
    assert worst.panel.picture is None


def test_without_errors_the_fullest_slice_is_shown():
    real = labels((20, 20, 3), np.s_[5:7, 5, 0], np.s_[5:10, 5, 2])
    worst = worst_slice(volume(real), volume(real), None, ONE)
    assert worst.caption == "axial slice 3 of 3 · no voxel differs"


def test_other_labels_are_ignored():
    real = labels((20, 20, 3), np.s_[5, 5, 0])
    predicted = real.copy()
    predicted[8:12, 8, 2] = 7
    worst = worst_slice(volume(predicted), volume(real), None, ONE)
    assert "no voxel differs" in worst.caption


def test_the_patients_right_is_on_the_left_and_anterior_on_top():
    # RAS: the first axis runs to the right, so its last voxel is the patient's rightmost.
    real = labels((60, 60, 1), np.s_[20:40, 20:40, 0])
    predicted = labels((60, 60, 1), np.s_[38, 38, 0])  # to the right and in front
    worst = worst_slice(volume(predicted), volume(real), None, ONE)
    height, width = worst.prediction.shape
    row, column = np.argwhere(worst.prediction)[0]
    assert row < height / 2
    assert column < width / 2
    assert worst.panel.letters == ("R", "L", "A", "P")


def test_the_stored_axes_do_not_matter():
    affine = np.array([[0, 0, -1.0, 0], [1, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])
    real = labels((30, 12, 40), np.s_[5:20, 3:8, 10:30])
    predicted = labels((30, 12, 40), np.s_[5:20, 3:8, 12:33])
    worst = worst_slice(volume(predicted, affine), volume(real, affine), None, ONE)
    turned = [volume(one, affine).reoriented("RAS") for one in (predicted, real)]
    same = worst_slice(*turned, None, ONE)
    assert np.array_equal(worst.prediction, same.prediction)
    assert worst.caption == same.caption == "axial slice 4 of 12 · 75 voxels differ"


def test_thick_slices_are_leafed_through_and_drawn_in_proportion():
    affine = np.diag([1.0, 4.0, 1.0, 1.0])
    real = labels((30, 6, 30), np.s_[10:20, 2, 10:20])
    worst = worst_slice(volume(real, affine), volume(real, affine), None, ONE)
    assert "coronal slice 3 of 6" in worst.caption
    assert worst.panel.letters == ("R", "L", "S", "I")
    flat = np.diag([1.0, 1.0, 1.4, 1.0])
    real = labels((30, 1, 30), np.s_[10:20, 0, 10:20])
    worst = worst_slice(volume(real, flat), volume(real, flat), None, ONE)
    assert worst.panel.pixel_mm == (1.4, 1.0)


def test_the_picture_is_cut_to_the_structures():
    real = labels((200, 200, 1), np.s_[100:120, 50:90, 0])
    worst = worst_slice(volume(real), volume(real), None, ONE)
    assert worst.panel.labels.shape == (40 + 2 * 12, 20 + 2 * 12)  # rows run along the second axis


def test_large_pictures_are_thinned_out():
    real = labels((2000, 1500, 1), np.s_[10:1990, 10:1490, 0])
    worst = worst_slice(volume(real), volume(real), None, ONE)
    assert max(worst.panel.labels.shape) <= 768
    assert worst.panel.pixel_mm == (3.0, 3.0)


def test_a_photograph_is_shown_as_it_is_stored():
    # Row 10, column 30 of the file is index [10, 30] on the identity affine of pictures.
    real = labels((100, 120, 1), np.s_[0:100, 0:120, 0])
    predicted = labels((100, 120, 1), np.s_[10, 30, 0])
    colours = np.zeros((3, 100, 120, 1), np.float32)
    colours[0, 10, 30] = 255
    image = Volume(colours, RAS, "photo")
    worst = worst_slice(volume(predicted), volume(real), image, ONE, oriented=False)
    assert np.argwhere(worst.prediction).tolist() == [[10, 30]]
    assert worst.panel.picture.shape == (100, 120, 3)
    assert np.argwhere(worst.panel.picture[..., 0] > 0).tolist() == [[10, 30]]
    assert worst.panel.letters is None
    assert worst.caption == "11,999 voxels differ"


def test_the_image_is_windowed_and_survives_nan():
    real = labels((20, 20, 1), np.s_[0:20, 0:20, 0])
    array = np.linspace(-1000, 3000, 400, dtype=np.float32).reshape(20, 20, 1)
    array[3, 3] = np.nan
    worst = worst_slice(volume(real), volume(real), volume(array), ONE)
    assert (worst.panel.picture.min(), worst.panel.picture.max()) == (0, 255)
    constant = volume(np.full((20, 20, 1), 7, np.float32))
    assert worst_slice(volume(real), volume(real), constant, ONE).panel.picture.max() == 0


def test_an_image_on_another_grid_is_not_shown_and_it_is_said(tmp_path, save, blocks):
    path = save(tmp_path / "image.nii.gz", np.zeros((3, 3, 3), np.int16))
    image, note = image_on(volume(blocks()), [path])
    assert image is None
    assert "image not shown: the shapes differ" in note
    assert image_on(volume(blocks()), []) == (None, "")


def test_the_layers_draw_image_prediction_and_reference():
    pytest.importorskip("matplotlib", reason="pictures are drawn with the extra [train]")
    mask = np.array([[0, 1], [0, 1]])
    picture = np.zeros((2, 2), np.uint8)
    panel = Panel(picture, 1 - mask, (2.0, 1.0), ("R", "L", "A", "P"))
    layers = draw_layers(WorstSlice(panel, mask, "caption"), ONE)
    assert list(layers) == ["image", "prediction", "reference"]
    drawn = {name: svg(address) for name, address in layers.items()}
    for text in drawn.values():  # two columns of 1 mm, two rows of 2 mm
        assert 'viewBox="0 0 79.2 158.4"' in text
    assert "data:image/png;base64," in drawn["image"]
    assert "#4fc3f7" not in drawn["image"]
    # Exactly along the pixels' edges: the right column, then the left one.
    assert corners(drawn["prediction"]) == {(39.6, 0), (79.2, 0), (39.6, 158.4), (79.2, 158.4)}
    assert "fill-opacity: 0.3; stroke-dasharray" in drawn["prediction"]
    assert corners(drawn["reference"]) == {(0, 0), (39.6, 0), (0, 158.4), (39.6, 158.4)}
    assert "dasharray" not in drawn["reference"]
    assert draw_layers(WorstSlice(panel, mask, "caption"), ONE) == layers


def svg(address):
    head, _, body = address.partition(",")
    assert head == "data:image/svg+xml;base64"
    return base64.b64decode(body).decode()


def corners(drawn):
    """Of the only path with a stroke."""
    (path,) = re.findall(r'<path d="([^"]+)"[^>]*stroke: #4fc3f7', drawn)
    return {(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)}

"""Metrics against tables worked out by hand, a straightforward method, and another library."""

import json
import subprocess
import sys
from itertools import pairwise
from math import isnan, nan, sqrt
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from golden.seeded import uniform
from transunet.errors import ConfigError, DataError, GeometryError
from transunet.evaluation.metrics import POLICIES, case_metrics, dice_per_class, image_diagonal_mm
from transunet.evaluation.surfaces import surface, surface_distances

GOLDEN = Path(__file__).parents[1] / "golden"


def box(shape, *ranges, value=1):
    """Label map with `value` inside the half-open index ranges."""
    array = np.zeros(shape, np.uint8)
    array[tuple(slice(*r) for r in ranges)] = value
    return array


def blobs(seed, shape=(40, 48, 30)):
    """Two smooth, similar, irregular masks."""
    rng = np.random.default_rng(seed)
    one = ndimage.gaussian_filter(rng.standard_normal(shape), 4)
    two = one + 0.5 * ndimage.gaussian_filter(rng.standard_normal(shape), 4)
    return one > np.quantile(one, 0.85), two > np.quantile(two, 0.8)


def brute_force(predicted, real, spacing):
    """Pooled surface distances the slow and obvious way: every voxel pair, neighbours looked up."""

    def outline(mask):
        filled = {tuple(index) for index in np.argwhere(mask)}
        steps = [
            tuple(sign * (axis == k) for k in range(mask.ndim))
            for axis in range(mask.ndim)
            for sign in (-1, 1)
        ]
        return [
            point
            for point in filled
            if any(
                tuple(p + s for p, s in zip(point, step, strict=True)) not in filled
                for step in steps
            )
        ]

    def one_way(source, target):
        scale = np.asarray(spacing)
        return [min(np.linalg.norm((np.subtract(p, q)) * scale) for q in target) for p in source]

    first, second = outline(predicted), outline(real)
    return one_way(first, second) + one_way(second, first)


# A 3 x 3 square and the same square one column further on, in a 5 x 5 image. The surface of a 3 x 3
# square is its 8 outer pixels. P to R: the 3 pixels of P's left column lie 1 column from R's left
# column; P's middle right pixel is R's centre, which is not on R's surface and lies 1 row or 1
# column from it; the other 4 pixels lie on R's surface. R to P is the mirror image: pooled, 8 ones,
# 8 zeros.
SQUARE = box((5, 5), (1, 4), (1, 4))
SHIFTED = box((5, 5), (1, 4), (2, 5))


def test_shifted_square_with_unit_pixels():
    measured = case_metrics(SQUARE, SHIFTED, (1, 1), [1], tolerance_mm=0.5)[1]
    assert measured.dice == pytest.approx(2 * 6 / (9 + 9))
    assert measured.iou == pytest.approx(6 / 12)
    assert measured.hd95 == pytest.approx(1)  # position 0.95 * 15 = 14.25 of 8 zeros and 8 ones
    assert measured.assd == pytest.approx(0.5)
    assert measured.nsd == pytest.approx(0.5)
    assert measured.prediction_ml == measured.reference_ml == pytest.approx(0.009)


def test_shifted_square_with_wide_columns():
    # Columns 3 mm apart, rows 1 mm: the left column's distances become 3 mm; the centre is reached
    # along the column, 1 mm. Each way 3, 3, 3, 1, 0, 0, 0, 0; pooled mean 20/16, position 14.25 is
    # a 3.
    measured = case_metrics(SQUARE, SHIFTED, (1, 3), [1], tolerance_mm=2)[1]
    assert measured.hd95 == pytest.approx(3)
    assert measured.assd == pytest.approx(20 / 16)
    assert measured.nsd == pytest.approx(10 / 16)


def test_percentile_is_linear_over_the_pooled_distances():
    # P = {0}, R = {0, 10}: P to R 0; R to P 0 and 10. Pooled 0, 0, 10: position 0.95 * 2 = 1.9, so
    # 9. (The larger of the two directed percentiles would be 9.5, their mean 4.75.)
    predicted, real = np.zeros((2, 11), int), np.zeros((2, 11), int)
    predicted[0, 0] = real[0, 0] = real[0, 10] = 1
    measured = case_metrics(predicted, real, (1, 1), [1])[1]
    assert measured.hd95 == pytest.approx(9.0)
    assert measured.assd == pytest.approx(10 / 3)


def test_cube_around_its_centre_voxel():
    # 26 of the cube's 27 voxels are surface: 6 at 1 mm from the centre, 12 at sqrt 2, 8 at sqrt 3.
    # The centre is 1 mm from the surface. 27 pooled values; position 0.95 * 26 = 24.7 is among the
    # sqrt 3.
    cube, centre = box((5, 5, 5), *[(1, 4)] * 3), box((5, 5, 5), *[(2, 3)] * 3)
    measured = case_metrics(cube, centre, (1, 1, 1), [1], tolerance_mm=1)[1]
    assert measured.dice == pytest.approx(2 / 28)
    assert measured.iou == pytest.approx(1 / 27)
    assert measured.hd95 == pytest.approx(sqrt(3))
    assert measured.assd == pytest.approx((7 + 12 * sqrt(2) + 8 * sqrt(3)) / 27)
    assert measured.nsd == pytest.approx(7 / 27)


def test_volumes_in_millilitres():
    cube, centre = box((5, 5, 5), *[(1, 4)] * 3), box((5, 5, 5), *[(2, 3)] * 3)
    measured = case_metrics(cube, centre, (0.5, 0.5, 2), [1])[1]
    assert measured.prediction_ml == pytest.approx(27 * 0.5 / 1000)
    assert measured.reference_ml == pytest.approx(0.5 / 1000)


def test_perfect_agreement():
    measured = case_metrics(SQUARE, SQUARE, (1, 1), [1], tolerance_mm=0)[1]
    assert (measured.dice, measured.iou, measured.hd95, measured.assd, measured.nsd) == (
        1,
        1,
        0,
        0,
        1,
    )


def test_a_structure_that_fills_the_image_has_its_border_as_surface():
    full = np.ones((4, 4, 4), bool)
    expected = np.ones((4, 4, 4), bool)
    expected[1:3, 1:3, 1:3] = False
    assert np.array_equal(surface(full), expected)


@pytest.mark.parametrize("shape", [(9,), (7, 9), (6, 7, 8)])
def test_surface_is_the_mask_minus_its_erosion(shape):
    mask = np.random.default_rng(3).random(shape) < 0.7
    assert np.array_equal(surface(mask), mask & ~ndimage.binary_erosion(mask))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(7, 8, 6), (9, 12)])
def test_distances_equal_brute_force(seed, shape):
    rng = np.random.default_rng(seed)
    predicted, real = rng.random(shape) < 0.3, rng.random(shape) < 0.2
    spacing = rng.uniform(0.5, 3, len(shape))
    expected = brute_force(predicted, real, spacing)
    measured = case_metrics(predicted, real, spacing, [1], tolerance_mm=1.5)[1]
    assert measured.hd95 == pytest.approx(np.percentile(expected, 95), rel=1e-12)
    assert measured.assd == pytest.approx(np.mean(expected), rel=1e-12)
    assert measured.nsd == pytest.approx(np.mean(np.asarray(expected) <= 1.5))


@pytest.mark.parametrize("order", ["C", "F"])
def test_cropping_and_memory_order_change_nothing(order):
    predicted, real = blobs(1)
    spacing = (0.7, 0.9, 3.0)
    to_real = ndimage.distance_transform_edt(~surface(real), sampling=spacing)[surface(predicted)]
    to_predicted = ndimage.distance_transform_edt(~surface(predicted), sampling=spacing)
    full_volume = np.concatenate([to_real, to_predicted[surface(real)]])
    maps = [np.asarray(mask, np.uint16, order=order) for mask in (predicted, real)]
    measured = case_metrics(*maps, spacing, [1])[1]
    assert measured.hd95 == pytest.approx(np.percentile(full_volume, 95), rel=1e-12)
    assert measured.assd == pytest.approx(full_volume.mean(), rel=1e-12)


def test_maps_of_different_memory_order():
    rng = np.random.default_rng(5)
    predicted, real = rng.integers(0, 3, (2, 6, 7, 8))
    plain = case_metrics(predicted, real, (1, 2, 3), [1, 2])
    assert case_metrics(np.asfortranarray(predicted), real, (1, 2, 3), [1, 2]) == plain
    assert case_metrics(predicted, np.asfortranarray(real), (1, 2, 3), [1, 2]) == plain


def test_a_single_slice_is_measured_as_an_image():
    thin = case_metrics(SQUARE[..., None], SHIFTED[..., None], (1, 3, 5), [1])[1]
    flat = case_metrics(SQUARE, SHIFTED, (1, 3), [1])[1]
    assert (thin.hd95, thin.assd, thin.nsd) == (flat.hd95, flat.assd, flat.nsd)
    assert thin.prediction_ml == pytest.approx(5 * flat.prediction_ml)


def test_a_single_voxel_is_measured():
    one = np.ones((1, 1, 1), np.uint8)
    assert case_metrics(one, one, (1, 1, 1), [1])[1].hd95 == 0


def test_each_class_is_measured_alone():
    predicted = box((8, 8), (0, 3), (0, 3)) + box((8, 8), (5, 8), (5, 8), value=2)
    real = box((8, 8), (0, 3), (0, 3)) + box((8, 8), (5, 8), (4, 8), value=2)
    measured = case_metrics(predicted, real, (1, 1), [1, 2])
    assert measured[1].dice == 1
    assert measured[2].dice == pytest.approx(18 / 21)
    assert measured[2] == case_metrics(predicted == 2, real == 2, (1, 1), [1])[1]


def test_background_can_be_measured():
    measured = case_metrics(SQUARE, SHIFTED, (1, 1), [0])[0]
    assert measured.dice == pytest.approx(2 * 13 / (16 + 16))


def test_empty_in_both_is_not_counted():
    measured = case_metrics(SQUARE, SHIFTED, (1, 1), [2])[2]
    values = (measured.dice, measured.iou, measured.hd95, measured.assd, measured.nsd)
    assert all(isnan(value) for value in values)
    assert measured.prediction_ml == measured.reference_ml == 0


@pytest.mark.parametrize("swapped", [False, True])
def test_empty_in_one_scores_zero_and_the_diagonal(swapped):
    maps = [box((6, 8, 4), (1, 3), (1, 3), (1, 3)), np.zeros((6, 8, 4), np.uint8)]
    measured = case_metrics(*(maps[::-1] if swapped else maps), (0.5, 0.5, 3), [1])[1]
    assert (measured.dice, measured.iou, measured.nsd) == (0, 0, 0)
    assert measured.hd95 == measured.assd == pytest.approx(13)  # 3, 4 and 12 mm
    assert sorted([measured.prediction_ml, measured.reference_ml]) == pytest.approx([0, 0.006])


def test_the_diagonal_leaves_a_single_slice_out():
    assert image_diagonal_mm((6, 8, 1), (0.5, 0.5, 12)) == pytest.approx(5)


@pytest.mark.parametrize(
    ("predicted", "real", "expected"),
    [
        (SQUARE, np.zeros_like(SQUARE), (1, 0)),
        (np.zeros_like(SQUARE), SQUARE, (0, 0)),
        (np.zeros_like(SQUARE), np.zeros_like(SQUARE), (0, 0)),
        # As worked out above with unit pixels, though the columns are 3 mm apart here.
        (SQUARE, SHIFTED, (pytest.approx(2 / 3), pytest.approx(1))),
    ],
)
def test_official_convention(predicted, real, expected):
    measured = case_metrics(predicted, real, (1, 3), [1], convention="official")[1]
    assert (measured.dice, measured.hd95) == expected
    assert all(isnan(value) for value in (measured.iou, measured.assd, measured.nsd))


def test_official_convention_reproduces_the_golden_volume():
    recipe = json.loads((GOLDEN / "golden.json").read_text())["volume"]
    with np.load(GOLDEN / "golden.npz", allow_pickle=False) as arrays:
        predicted = arrays["volume_prediction"]
    real = _golden_label(predicted.shape)
    assert np.bincount(real.ravel()).tolist() == recipe["label_hist"]
    measured = case_metrics(predicted, real, (1, 1, 1), [1, 2, 3], convention="official").values()
    ours = [[m.dice, m.hd95] for m in measured]
    np.testing.assert_allclose(ours, recipe["legacy_metrics_dice_hd95"], rtol=1e-9)


def _golden_label(shape):
    field = ndimage.gaussian_filter(uniform("volume/label", shape), (1, 6, 6))
    return np.digitize(field, np.quantile(field, [0.6, 0.8, 0.9])).astype(np.uint8)


def test_dice_per_class_agrees_with_the_full_metrics():
    rng = np.random.default_rng(7)
    predicted, real = rng.integers(0, 4, (2, 10, 10, 4))
    predicted[predicted == 3] = 0
    dice = dice_per_class(predicted, real, [1, 2, 3, 4])
    full = case_metrics(predicted, real, (1, 1, 1), [1, 2, 3, 4])
    assert dice == pytest.approx({c: m.dice for c, m in full.items()}, nan_ok=True)
    assert dice[3] == 0
    assert isnan(dice[4])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint16, np.int64, np.uint64])
def test_every_integer_type_is_measured(dtype):
    measured = case_metrics(SQUARE.astype(dtype), SHIFTED.astype(dtype), (1, 1), [1])[1]
    assert measured.dice == pytest.approx(2 / 3)


def test_the_arrays_are_left_alone():
    predicted, real = SQUARE.copy(), SHIFTED.copy()
    predicted.setflags(write=False)
    real.setflags(write=False)
    case_metrics(predicted, real, (1, 1), [1])


def test_policies_say_what_is_done():
    assert "not counted" in POLICIES["honest"]
    assert "diagonal" in POLICIES["honest"]
    assert "voxels" in POLICIES["official"]
    assert "comparison with the paper" in POLICIES["official"]


def test_different_shapes_are_refused():
    with pytest.raises(GeometryError, match=r"\(5, 5\).*\(5, 4\)"):
        case_metrics(SQUARE, SQUARE[:, :4], (1, 1), [1])
    with pytest.raises(GeometryError, match="shape"):
        dice_per_class(SQUARE, SQUARE[:, :4], [1])


def test_probabilities_are_refused():
    with pytest.raises(DataError, match="prediction is not a label map"):
        case_metrics(SQUARE.astype(float), SQUARE, (1, 1), [1])
    with pytest.raises(DataError, match="reference is not a label map"):
        dice_per_class(SQUARE, SQUARE.astype(float), [1])


@pytest.mark.parametrize("spacing", [(1,), (1, 1, 1), (1, 0), (1, nan), (1, -2), (1, np.inf)])
def test_impossible_spacing_is_refused(spacing):
    with pytest.raises(GeometryError, match="2 positive voxel sizes"):
        case_metrics(SQUARE, SHIFTED, spacing, [1])


@pytest.mark.parametrize("tolerance", [-1, nan, np.inf])
def test_impossible_tolerance_is_refused(tolerance):
    with pytest.raises(ConfigError, match="tolerance"):
        case_metrics(SQUARE, SHIFTED, (1, 1), [1], tolerance_mm=tolerance)


def test_unknown_convention_is_refused():
    with pytest.raises(ConfigError, match="known: honest, official"):
        case_metrics(SQUARE, SHIFTED, (1, 1), [1], convention="paper")


# The library surface-distance puts its surface on the corners between voxels and weights each piece
# by its area; we put it on the voxels next to the outside and count each once. Every voxel of our
# surface is half a voxel's diagonal from a corner of theirs and the other way round, so distances
# differ by a diagonal at most.
@pytest.fixture
def other_library():
    return pytest.importorskip("surface_distance", reason="pip install surface-distance")


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
@pytest.mark.parametrize("seed", range(4))
def test_overlap_and_largest_distance_against_surface_distance(other_library, seed):
    predicted, real = blobs(seed)
    spacing = [(1, 1, 1), (0.8, 0.8, 2.5)][seed % 2]
    theirs = other_library.compute_surface_distances(real, predicted, spacing)
    measured = case_metrics(predicted, real, spacing, [1])[1]
    assert measured.dice == pytest.approx(other_library.compute_dice_coefficient(real, predicted))
    # The largest distance knows no weights: here the bound of one diagonal is strict.
    largest = np.concatenate(surface_distances(predicted, real, spacing)).max()
    other = other_library.compute_robust_hausdorff(theirs, 100)
    assert abs(largest - other) <= np.linalg.norm(spacing)


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
@pytest.mark.parametrize("shift", [2, 5, 9])
def test_equal_surfaces_against_surface_distance(other_library, shift):
    # A body and its shifted copy: both directions have the same distances and the same areas, so
    # pooling the directions (ours) and taking the worse one (theirs) agree; area weights change
    # little.
    grid = np.ogrid[:40, :40, :40]
    predicted, real = (
        sum((x - c) ** 2 for x, c in zip(grid, centre, strict=True)) <= 10**2
        for centre in ((15, 19, 19), (15 + shift, 19, 19))
    )
    spacing = (1.5, 1.0, 1.0)
    theirs = other_library.compute_surface_distances(real, predicted, spacing)
    measured = case_metrics(predicted, real, spacing, [1], tolerance_mm=3)[1]
    half_diagonal = np.linalg.norm(spacing) / 2
    assert abs(measured.hd95 - other_library.compute_robust_hausdorff(theirs, 95)) < half_diagonal
    directed = other_library.compute_average_surface_distance(theirs)
    assert abs(measured.assd - np.mean(directed)) < half_diagonal
    low, high = (
        other_library.compute_surface_dice_at_tolerance(theirs, 3 + d)
        for d in (-half_diagonal, half_diagonal)
    )
    assert low <= measured.nsd <= high


def test_a_larger_tolerance_never_lowers_nsd():
    predicted, real = blobs(2)
    scores = [
        case_metrics(predicted, real, (1, 1, 2), [1], tolerance_mm=t)[1].nsd
        for t in (0, 0.5, 1, 2, 4, 50)
    ]
    assert all(a <= b for a, b in pairwise(scores))
    assert scores[-1] == 1


@pytest.mark.process
def test_the_benchmark_runs_and_finds_equal_values():
    script = Path(__file__).parents[2] / "benchmarks" / "hd95.py"
    if not script.is_file():
        pytest.skip(f"needs {script}")
    command = [sys.executable, str(script), "--size", "48"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "48 x 48 x 14" in done.stdout

import numpy as np
import pytest

from transunet.data.volume import CORNER_TOLERANCE, Doubt, Grid, Volume, same_grid
from transunet.errors import GeometryError


def volume(affine=None, shape=(1, 4, 5, 6), name="case_1"):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return Volume(array, np.eye(4) if affine is None else affine, name)


def test_geometry_comes_from_the_affine(oblique):
    v = volume(oblique)
    assert v.spacing_mm == pytest.approx((0.7, 3.0, 1.1))
    assert v.spatial_shape == (4, 5, 6)
    assert v.channels == 1
    # First array axis towards anterior, second towards inferior, third towards left.
    assert v.orientation == "AIL"


@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 4, 5, 6, 1), (1, 0, 5, 6)])
def test_an_array_that_is_no_volume_is_refused(shape):
    with pytest.raises(GeometryError, match="case_1"):
        Volume(np.zeros(shape), np.eye(4), "case_1")


@pytest.mark.parametrize(
    "affine",
    [np.zeros((4, 4)), np.diag([1, 1, 0, 1.0]), np.full((4, 4), np.nan), np.eye(3)],
    ids=["zeros", "flat", "nan", "3x3"],
)
def test_a_bad_affine_is_refused(affine):
    with pytest.raises(GeometryError, match=r"case_1.*(singular|finite)"):
        volume(affine)


def test_tiny_voxels_are_not_singular():
    assert volume(np.diag([1e-4, 1e-4, 1e-4, 1])).spacing_mm == pytest.approx((1e-4,) * 3)


def test_reoriented_moves_voxels_and_affine_together(oblique):
    v = volume(oblique)
    ras = v.reoriented("RAS")
    assert ras.orientation == "RAS"
    # Every voxel still lies at the same place in the world.
    for index in [(0, 0, 0), (3, 4, 5), (1, 2, 4)]:
        world = v.affine @ (*index, 1)
        there = np.rint(np.linalg.solve(ras.affine, world)[:3]).astype(int)
        assert ras.array[(0, *there)] == v.array[(0, *index)]
        np.testing.assert_allclose(ras.affine @ (*there, 1), world, atol=1e-9)
    back = ras.reoriented(v.orientation)
    np.testing.assert_array_equal(back.array, v.array)
    np.testing.assert_allclose(back.affine, v.affine, atol=1e-9)


@pytest.mark.parametrize("codes", ["", "RA", "RRS", "XYZ", "RASL"])
def test_an_orientation_names_three_directions(codes):
    with pytest.raises(GeometryError, match="three directions"):
        volume().reoriented(codes)


def test_axes_in_tells_which_axis_runs_where(oblique):
    # AIL: right-left is the array's third axis, front-back the first, head-foot the second.
    assert volume(oblique).grid.axes_in("RAS") == (2, 0, 1)


def test_same_grid_passes_rounding_and_names_differences():
    a = volume()
    assert same_grid(a, a.grid) is None
    rounded = np.eye(4)
    rounded[0, 3] = 0.9 * CORNER_TOLERANCE
    assert same_grid(a, volume(rounded)) is None
    shifted = np.eye(4)
    shifted[0, 3] = 1.1 * CORNER_TOLERANCE
    assert "0.11 mm" in same_grid(a, volume(shifted))
    assert "LAS" in same_grid(a, volume(np.diag([-1, 1, 1, 1])))
    assert "1 x 1 x 1 mm and 1 x 1 x 3 mm" in same_grid(a, volume(np.diag([-1.0, -1, 3, 1])))
    assert "4 x 5 x 7" in same_grid(a, volume(shape=(1, 4, 5, 7)))


def test_same_grid_sees_an_error_that_grows_along_the_volume():
    # 1 % in spacing is nothing at the first voxel and much at the last of 100.
    scaled = Grid((100, 5, 5), np.diag([1.01, 1, 1, 1]))
    assert same_grid(Grid((100, 5, 5), np.eye(4)), scaled) is not None
    assert same_grid(Grid((5, 5, 5), np.eye(4)), Grid((5, 5, 5), scaled.affine)) is None


def test_with_array_keeps_the_grid_and_refuses_another():
    v = volume()
    labels = v.with_array(np.ones((2, 4, 5, 6), np.uint8))
    assert labels.channels == 2
    assert labels.name == "case_1"
    with pytest.raises(GeometryError, match="does not fit"):
        v.with_array(np.ones((1, 5, 4, 6)))


def test_the_affine_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="read-only"):
        volume().affine[0, 0] = 2


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SAR", "PIR"])
def test_the_same_voxels_in_another_order_are_put_in_order_exactly(oblique, codes):
    v = volume(oblique)
    back = v.reoriented(codes).on_grid(v)
    np.testing.assert_array_equal(back.array, v.array)
    np.testing.assert_array_equal(back.affine, v.affine)


def test_axes_at_half_a_right_angle_are_put_in_order_too():
    a = np.sqrt(0.5)
    affine = np.array([[a, -a, 0, 0], [a, a, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    v = volume(affine)
    swapped = Volume(v.array.transpose(0, 2, 1, 3), affine[:, [1, 0, 2, 3]])
    np.testing.assert_array_equal(swapped.on_grid(v).array, v.array)


@pytest.mark.parametrize(
    "affine", [np.diag([1.0, -1, 1, 1]), np.diag([1.0, 1, 1.2, 1])], ids=["elsewhere", "rescaled"]
)
def test_another_grid_is_not_put_in_order(affine):
    assert volume(affine).on_grid(volume()) is None
    assert volume(shape=(1, 4, 5, 7)).on_grid(volume()) is None


def test_either_reading_of_a_header_in_doubt_is_the_same_grid():
    true, unit = np.diag([1.5, 1.5, 10, 1]), np.eye(4)
    array = volume().array
    doubtful = Volume(array, true, doubt=Doubt((unit,)))
    assert same_grid(doubtful, volume()) is None
    assert same_grid(volume(), doubtful) is None
    assert same_grid(Volume(array, true), volume()) is not None
    turned = volume().reoriented("LPS").on_grid(doubtful)
    np.testing.assert_array_equal(turned.array, array)
    assert turned.spacing_mm == (1.5, 1.5, 10)

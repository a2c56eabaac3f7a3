"""Arrays that numpy saved: which axes they have, where they lie, and what is refused."""

import json

import numpy as np
import pytest

from transunet.data.formats import read_grid, read_labels, read_volume, write_volume
from transunet.data.formats.npy import sidecar_of
from transunet.data.volume import Volume
from transunet.errors import DataError, GeometryError, TransUNetError


def saved(path, array, **sidecar):
    np.save(path, array)
    if sidecar:
        sidecar_of(path).write_text(json.dumps(sidecar))
    return path


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((6, 9), np.float32, (1, 6, 9, 1)),
        ((6, 9, 4), np.int16, (1, 6, 9, 4)),
        ((6, 9, 3), np.float64, (1, 6, 9, 3)),
        ((2, 6, 9, 4), np.float16, (2, 6, 9, 4)),
        ((6, 9, 3), np.uint8, (3, 6, 9, 1)),
        ((6, 9, 1), np.bool_, (1, 6, 9, 1)),
    ],
)
def test_the_axes_of_an_image(tmp_path, rng, shape, dtype, expected):
    array = (rng.random(shape) * 200).astype(dtype)
    volume = read_volume(saved(tmp_path / "a.npy", array))
    assert volume.array.shape == expected
    assert volume.array.dtype == np.float32
    assert read_grid(tmp_path / "a.npy").spatial_shape == expected[1:]
    assert volume.spacing_mm == (1, 1, 1)
    colours = array.ndim == 3 and expected[0] == 3
    given = np.moveaxis(array, -1, 0) if colours else array
    np.testing.assert_array_equal(volume.array.ravel(), given.ravel().astype(np.float32))


def test_the_order_in_memory_does_not_matter(tmp_path, rng):
    array = rng.random((6, 9, 4)).astype(">f4")
    path = saved(tmp_path / "a.npy", np.asfortranarray(array))
    np.testing.assert_array_equal(read_volume(path).array[0], array)


def test_a_label_map_of_three_slices_is_no_photograph(tmp_path, rng):
    labels = rng.integers(0, 3, (6, 9, 3)).astype(np.uint8)
    found = read_labels(saved(tmp_path / "a.npy", labels))
    np.testing.assert_array_equal(found.array[0], labels)
    assert found.spatial_shape == (6, 9, 3)


def test_a_sidecar_tells_where_the_voxels_lie(tmp_path):
    path = saved(tmp_path / "a.npy", np.zeros((6, 9, 4)), spacing_mm=[0.5, 0.75, 3])
    assert read_volume(path).spacing_mm == read_grid(path).spacing_mm == (0.5, 0.75, 3)
    affine = [[0, -2, 0, 5], [1, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]]
    saved(path, np.zeros((6, 9, 4)), affine=affine)
    np.testing.assert_array_equal(read_labels(path).affine, affine)


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 4), (6, 9, 1)])
@pytest.mark.parametrize("affine", [np.eye(4), np.diag([0.5, 0.75, 3, 1])])
def test_a_label_map_has_its_images_axes_and_place(tmp_path, rng, shape, affine):
    image = read_volume(saved(tmp_path / "image.npy", rng.random(shape), affine=affine.tolist()))
    labels = image.with_array((image.array > 0.5).astype(np.uint8))
    write_volume(labels, tmp_path / "labels.npy")
    assert np.load(tmp_path / "labels.npy").shape == shape
    assert sidecar_of(tmp_path / "labels.npy").exists() == (not np.array_equal(affine, np.eye(4)))
    again = read_labels(tmp_path / "labels.npy")
    np.testing.assert_array_equal(again.array, labels.array)
    np.testing.assert_array_equal(again.affine, affine)


def test_the_label_map_of_a_photograph_has_two_axes(tmp_path, rng):
    photo = rng.integers(0, 255, (6, 9, 3)).astype(np.uint8)
    image = read_volume(saved(tmp_path / "image.npy", photo))
    write_volume(image.with_array(np.ones((1, 6, 9, 1), np.uint8)), tmp_path / "labels.npy")
    assert np.load(tmp_path / "labels.npy").shape == (6, 9)


def test_channels_are_written_first(tmp_path, rng):
    array = rng.random((2, 3, 4, 5))
    write_volume(Volume(array, np.eye(4)), tmp_path / "a.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((2, 2), complex), "complex128; expected real"),
        (np.array(["a", "b"]), "expected real"),
        (np.zeros((2, 2), "datetime64[s]"), "expected real"),
        (np.zeros((2, 2), [("a", "f4"), ("b", "f4")]), "expected real"),
        (np.zeros(5), r"shape \(5,\)"),
        (np.array(5.0), r"shape \(\)"),
        (np.zeros((2, 2, 2, 2, 2)), r"\(2, 2, 2, 2, 2\); expected \(X, Y, Z\)"),
        (np.zeros((0, 3, 4)), "a.npy"),
    ],
)
def test_what_is_no_image_is_refused_by_name(tmp_path, array, told):
    path = saved(tmp_path / "a.npy", array)
    for use in (read_volume, read_labels, read_grid):
        with pytest.raises(TransUNetError, match=rf"(?s)a\.npy.*{told}|{told}"):
            use(path)


class Bomb:
    """Says so when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("it was unpickled",)


def test_objects_are_never_unpickled(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([[Bomb(), 1]], dtype=object), allow_pickle=True)
    for use in (read_volume, read_labels, read_grid):
        with pytest.raises(DataError, match=r"a\.npy"):
            use(path)


def test_a_header_that_claims_too_much_is_refused_at_once(tmp_path):
    path = saved(tmp_path / "a.npy", np.zeros((10, 10, 10)))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(10, 10, 10), ", b"(99999, 99999, 99999), ")[: len(content)])
    with pytest.raises(DataError, match=r"a\.npy: it cannot be read as an array"):
        read_volume(path)
    np.savez(tmp_path / "b.npz", np.zeros((2, 2)))
    (tmp_path / "b.npy").write_bytes((tmp_path / "b.npz").read_bytes())
    with pytest.raises(DataError, match=r"b\.npy: it cannot be read as an array"):
        read_volume(tmp_path / "b.npy")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", DataError),
        ("[]", DataError),
        ("{}", DataError),
        ('{"spacing": [1, 1, 1]}', DataError),
        ('{"spacing_mm": [1, 1]}', DataError),
        ('{"spacing_mm": ["a", 1, 1]}', DataError),
        ('{"spacing_mm": [NaN, 1, 1]}', DataError),
        ('{"spacing_mm": [0, 1, 1]}', GeometryError),
        ('{"spacing_mm": [-1, 1, 1]}', GeometryError),
        ('{"affine": [[1, 0], [0, 1]]}', DataError),
        ('{"affine": [[0,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]]}', GeometryError),
        ("[" * 50000, DataError),
    ],
)
def test_a_sidecar_that_tells_nothing_is_refused_by_name(tmp_path, text, error):
    path = saved(tmp_path / "a.npy", np.zeros((2, 3, 4)))
    sidecar_of(path).write_text(text)
    with pytest.raises(error, match=r"a\.npy"):
        read_volume(path)

import numpy as np
import pytest

from transunet.batch.outputs import write_labels
from transunet.data.formats import read_grid, read_labels, read_volume, write_volume
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError
from transunet.evaluation.pairs import Pair

h5py = pytest.importorskip("h5py", reason="needs the extra [images]")


def test_a_slice_of_npz(tmp_path, rng):
    image, label = (
        rng.random((6, 9)).astype(np.float32),
        rng.integers(0, 9, (6, 9)).astype(np.float32),
    )
    np.savez(tmp_path / "case0005_slice000.npz", image=image, label=label)
    path = tmp_path / "case0005_slice000.npz"
    np.testing.assert_array_equal(read_volume(path).array[0, ..., 0], image)
    np.testing.assert_array_equal(read_labels(path).array[0, ..., 0], label)
    assert read_labels(path).array.dtype == np.uint8
    assert read_grid(path).spatial_shape == (6, 9, 1)


def test_a_volume_of_hdf5_has_its_slices_last(tmp_path, rng):
    image, label = rng.random((4, 6, 9)), rng.integers(0, 9, (4, 6, 9)).astype(np.uint8)
    path = tmp_path / "case0001.npy.h5"
    with h5py.File(path, "w") as file:
        file["image"], file["label"] = image, label
    v = read_volume(path)
    assert v.spatial_shape == read_grid(path).spatial_shape == (6, 9, 4)
    np.testing.assert_array_equal(v.array[0, :, :, 2], image[2].astype(np.float32))
    np.testing.assert_array_equal(read_labels(path).array[0, :, :, 3], label[3])


def test_a_label_map_that_was_predicted_as_npz_lies_where_its_image_does(tmp_path, rng):
    labels = rng.integers(0, 3, (1, 5, 6, 4)).astype(np.uint8)
    affine = np.array([[0, -0.7, 0, 9], [0.7, 0, 0, -4], [0, 0, 2.5, 1], [0, 0, 0, 1]])
    path = tmp_path / "a.npz"
    write_labels(Volume(labels, affine), path)
    read = read_labels(path)
    np.testing.assert_array_equal(read.array, labels)
    np.testing.assert_array_equal(read.affine, affine)
    assert read_grid(path).spatial_shape == (5, 6, 4)
    np.testing.assert_array_equal(read_grid(path).affine, affine)
    assert Pair("a", path, path).tells_space


def test_pickled_objects_are_never_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.array([{"a": 1}], dtype=object), label=np.zeros((2, 2)))
    with pytest.raises(DataError, match=r"a\.npz.*pickle"):
        read_volume(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["a.npz", "a.h5"])
def test_damage_is_one_clear_error(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(DataError, match=rf"{name}.*'image'"):
        read_volume(path)


def test_missing_and_misshapen_arrays_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.zeros((2, 2, 2, 2)))
    with pytest.raises(DataError, match=r"\(2, 2, 2, 2\)"):
        read_volume(tmp_path / "a.npz")
    with pytest.raises(DataError, match="'label'"):
        read_labels(tmp_path / "a.npz")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = "text"
    with pytest.raises(DataError, match=r"a\.h5"):
        read_volume(tmp_path / "a.h5")


def test_writing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="NIfTI"):
        write_volume(Volume(np.zeros((1, 2, 2, 1), np.uint8), np.eye(4)), tmp_path / "a.npz")

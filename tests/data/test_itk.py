from dataclasses import replace

import numpy as np
import pytest

from transunet.data.formats import FORMATS, read_grid, read_labels, read_volume, write_volume
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError

itk = pytest.importorskip("SimpleITK", reason="needs the extra [images]")

SUFFIXES = [".nrrd", ".mha", ".mhd", ".nhdr"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_itk_and_nibabel_place_the_same_voxels_at_the_same_points(
    tmp_path, rng, oblique, save, suffix
):
    # ITK itself turns a NIfTI (RAS) into its own convention (LPS): both readers must agree on the
    # result.
    array = rng.integers(-99, 99, (4, 5, 6)).astype(np.int16)
    nifti = save(tmp_path / "a.nii.gz", array, oblique)
    itk.WriteImage(itk.ReadImage(str(nifti)), str(tmp_path / f"a{suffix}"))
    ours, theirs = read_volume(tmp_path / f"a{suffix}"), read_volume(nifti)
    np.testing.assert_array_equal(ours.array, theirs.array)
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-5)
    assert ours.orientation == theirs.orientation == "AIL"
    np.testing.assert_array_equal(read_grid(tmp_path / f"a{suffix}").affine, ours.affine)
    assert read_grid(tmp_path / f"a{suffix}").spatial_shape == (4, 5, 6)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_comes_back_exactly(tmp_path, rng, oblique, suffix):
    labels = Volume(rng.integers(0, 9, (1, 4, 5, 6)).astype(np.uint8), oblique)
    write_volume(labels, tmp_path / f"l{suffix}")
    back = read_labels(tmp_path / f"l{suffix}")
    np.testing.assert_array_equal(back.array, labels.array)
    np.testing.assert_allclose(back.affine, oblique, atol=1e-9)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_label_map_gets_the_images_numbers_to_the_last_digit(tmp_path, rng, suffix):
    image = itk.GetImageFromArray(rng.normal(size=(6, 5, 4)).astype(np.float32))
    image.SetSpacing((0.1, 1 / 3, 2.7))
    image.SetOrigin((-0.1, 7.3, 1e-3))
    turn = np.deg2rad(17)
    image.SetDirection([np.cos(turn), -np.sin(turn), 0, np.sin(turn), np.cos(turn), 0, 0, 0, 1])
    itk.WriteImage(image, str(tmp_path / f"i{suffix}"))
    image = itk.ReadImage(str(tmp_path / f"i{suffix}"))
    v = read_volume(tmp_path / f"i{suffix}")
    write_volume(v.with_array(np.ones((1, 4, 5, 6), np.uint8)), tmp_path / f"l{suffix}")
    label = itk.ReadImage(str(tmp_path / f"l{suffix}"))
    assert label.GetPixelIDValue() == itk.sitkUInt8
    assert label.GetSize() == image.GetSize()
    for tell in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(label, tell)() == pytest.approx(getattr(image, tell)(), rel=1e-15)


def test_a_nrrd_names_its_segments_as_slicer_does(tmp_path, rng):
    names = {0: "background", 1: "linke Niere", 4: "Größe"}
    labels = Volume(rng.choice([0, 1, 4], (1, 4, 5, 6)).astype(np.uint8), np.eye(4))
    write_volume(replace(labels, label_names=names), tmp_path / "l.nrrd")
    header = itk.ReadImage(str(tmp_path / "l.nrrd"))
    expected = {
        "Segment1_Name": "Größe",
        "Segment1_LabelValue": "4",
        "Segment1_Layer": "0",
        "Segment1_Color": "0.941176 0.384314 0.572549",  # #f06292
        "Segment1_Extent": "0 3 0 4 0 5",
        "Segmentation_SourceRepresentation": "Binary labelmap",
    }
    assert {key: header.GetMetaData(key) for key in expected} == expected
    assert FORMATS[".nrrd"].label_names(tmp_path / "l.nrrd") == {1: "linke Niere", 4: "Größe"}
    np.testing.assert_array_equal(read_labels(tmp_path / "l.nrrd").array, labels.array)


def test_a_predicted_nifti_can_be_written_as_nrrd(tmp_path, rng, oblique, save):
    v = read_volume(save(tmp_path / "a.nii.gz", np.zeros((4, 5, 6), np.int16), oblique))
    write_volume(v.with_array(np.ones((1, 4, 5, 6), np.uint8)), tmp_path / "l.nrrd")
    np.testing.assert_allclose(read_labels(tmp_path / "l.nrrd").affine, v.affine, atol=1e-6)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_components_and_fourth_axes_are_channels(tmp_path, rng, suffix):
    v = Volume(rng.integers(0, 99, (2, 4, 5, 6)).astype(np.int16), np.eye(4))
    write_volume(v, tmp_path / f"v{suffix}")
    np.testing.assert_array_equal(read_volume(tmp_path / f"v{suffix}").array, v.array)
    four = itk.GetImageFromArray(v.array.transpose(0, 3, 2, 1), False)
    assert four.GetDimension() == 4
    itk.WriteImage(four, str(tmp_path / f"four{suffix}"))
    np.testing.assert_array_equal(read_volume(tmp_path / f"four{suffix}").array, v.array)


def test_a_flat_image_stays_flat(tmp_path, rng):
    array = rng.integers(0, 99, (5, 4)).astype(np.int16)
    itk.WriteImage(itk.GetImageFromArray(array), str(tmp_path / "f.mha"))
    v = read_volume(tmp_path / "f.mha")
    np.testing.assert_array_equal(v.array[0, ..., 0], array.T)
    write_volume(v.with_array(v.array.astype(np.uint8)), tmp_path / "l.mha")
    label = itk.ReadImage(str(tmp_path / "l.mha"))
    assert label.GetDimension() == 2
    np.testing.assert_array_equal(itk.GetArrayFromImage(label), array)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_damage_is_one_clear_error(tmp_path, rng, suffix):
    path = tmp_path / f"a{suffix}"
    noise = rng.integers(0, 255, (1, 20, 20, 20)).astype(np.uint8)
    write_volume(Volume(noise, np.eye(4)), path)
    whole = path.read_bytes()
    for keep in (0, 30, len(whole) // 2):
        path.write_bytes(whole[:keep])
        with pytest.raises(DataError, match=rf"a\{suffix}.*cut short"):
            read_volume(path)


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path):
    v = Volume(np.zeros((1, 2, 2, 2), np.uint8), np.eye(4))
    with pytest.raises(ConfigError, match="Cannot write"):
        write_volume(v, tmp_path / "nowhere" / "a.nrrd")


@pytest.mark.parametrize("shape", [(1, 1, 7, 6, 5), (1, 7, 6, 5)])
def test_axes_of_one_beyond_the_third_are_dropped(tmp_path, rng, shape):
    array = rng.integers(0, 99, shape).astype(np.int16)
    itk.WriteImage(itk.GetImageFromArray(array, isVector=False), str(tmp_path / "a.nrrd"))
    read = read_volume(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(read.array[0], array.reshape(7, 6, 5).T)
    assert read_grid(tmp_path / "a.nrrd").spatial_shape == (5, 6, 7)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_labels_in_single_precision_are_rounded(tmp_path, suffix):
    array = np.array([[[0, 255, 510]]], np.float32) * np.float32(1 / 255)
    itk.WriteImage(itk.GetImageFromArray(array), str(tmp_path / f"l{suffix}"))
    assert read_labels(tmp_path / f"l{suffix}").array.flatten().tolist() == [0, 1, 2]


@pytest.mark.parametrize(("suffix", "line"), [(".mhd", "ElementDataFile"), (".nhdr", "data file")])
def test_a_header_whose_voxels_were_not_copied_along_says_so(tmp_path, suffix, line):
    path = tmp_path / f"a{suffix}"
    itk.WriteImage(itk.GetImageFromArray(np.zeros((3, 4, 5), np.int16)), str(path))
    for file in tmp_path.iterdir():
        if file != path:
            file.unlink()
    with pytest.raises(DataError, match=rf"a\{suffix}: .*its line '{line}' names: copy that along"):
        read_volume(path)

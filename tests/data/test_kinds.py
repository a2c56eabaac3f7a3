"""Files whose names do not say what they are, or say it otherwise: read by content."""

import gzip
import json
import shutil
import zipfile

import nibabel as nib
import numpy as np
import pytest

from transunet.data.checks.check import check
from transunet.data.checks.corrections import fix
from transunet.data.formats import (
    is_dicom_path,
    kind_in_folder,
    kind_of,
    open_image,
    read_grid,
    read_labels,
    read_volume,
    write_volume,
)
from transunet.data.layouts import open_dataset
from transunet.data.prepare import prepare
from transunet.errors import ConfigError, DataError
from transunet.evaluation.evaluate import EvaluationRequest, evaluate

ARRAY = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
AFFINE = np.diag([1.0, 2, 3, 1])


def nifti(array=ARRAY, kind=nib.Nifti1Image):
    return kind(array, AFFINE).to_bytes()


PLAIN, TWO = nifti(), nifti(kind=nib.Nifti2Image)


def reads(path, array=ARRAY):
    np.testing.assert_array_equal(read_volume(path).array[0], array)
    assert read_volume(path).spacing_mm == read_grid(path).spacing_mm == (1, 2, 3)
    assert read_grid(path).spatial_shape == array.shape
    np.testing.assert_array_equal(read_labels(path).array[0], array)
    return True


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.nii.gz", PLAIN),
        ("packed.nii", gzip.compress(PLAIN)),
        ("PLAIN.NII.GZ", PLAIN),
        ("PACKED.NII.GZ", gzip.compress(PLAIN)),
        ("Mixed.Nii", PLAIN),
        ("Mixed.Nii.Gz", gzip.compress(PLAIN)),
        ("two.nii", gzip.compress(TWO)),
        ("none", PLAIN),
        ("none", gzip.compress(PLAIN)),
        ("none", gzip.compress(TWO)),
        ("scan.2024", gzip.compress(PLAIN)),
    ],
)
def test_nifti_is_read_by_content(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert reads(tmp_path / name)


@pytest.mark.parametrize("content", [PLAIN[:100], gzip.compress(PLAIN)[:150], b"", b"text " * 99])
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "none"])
def test_damage_is_one_clear_error_whatever_the_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises((DataError, ConfigError), match=name):
        read_volume(tmp_path / name)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".png", ".tif", ".npy"])
def test_other_formats_are_known_by_how_they_begin_and_in_capitals(tmp_path, suffix):
    pytest.importorskip("SimpleITK" if suffix in (".nrrd", ".mha") else "PIL")
    volume = read_volume(path_of(tmp_path / "a.nii"))
    if suffix in (".png", ".tif"):
        volume = volume.with_array(volume.array.astype(np.uint8))
        volume = type(volume)(volume.array[..., :1], np.eye(4))
    write_volume(volume, tmp_path / f"a{suffix}")
    for name in ("none", f"CAPITAL{suffix.upper()}"):
        shutil.copy(tmp_path / f"a{suffix}", tmp_path / name)
        np.testing.assert_array_equal(read_volume(tmp_path / name).array, volume.array)
    assert kind_of(tmp_path / "none") == suffix


def path_of(path, array=ARRAY):
    path.write_bytes(nifti(array))
    return path


def test_in_a_folder_only_names_without_an_ending_are_looked_into(tmp_path):
    for name in ("none", "scan.2024", "LICENSE"):
        (tmp_path / name).write_bytes(b"text" if name == "LICENSE" else PLAIN)
    found = [kind_in_folder(tmp_path / name) for name in ("none", "scan.2024", "LICENSE")]
    assert found == [".nii", None, None]


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair, nib.AnalyzeImage])
@pytest.mark.parametrize("name", ["a.img", "a.hdr", "a.img.gz"])
def test_a_pair_is_read_by_either_name(tmp_path, kind, name):
    nib.save(kind(ARRAY, AFFINE), tmp_path / name)
    other = name.replace("img", "x").replace("hdr", "img").replace("x", "hdr")
    assert reads(tmp_path / name)
    assert reads(tmp_path / other)


def test_half_a_pair_is_told_so(tmp_path):
    nib.save(nib.Nifti1Pair(ARRAY, AFFINE), tmp_path / "a.img")
    (tmp_path / "a.hdr").unlink()
    with pytest.raises(DataError, match=r"a\.img: it is one file of a pair.*Copy both"):
        read_volume(tmp_path / "a.img")


def test_a_label_map_of_a_pair_gets_its_header_as_one_file(tmp_path):
    image = nib.Nifti1Pair(ARRAY, AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, 4)
    nib.save(image, tmp_path / "a.img")
    labels = read_volume(tmp_path / "a.img").with_array(np.ones((1, 3, 4, 5), np.uint8))
    write_volume(labels, tmp_path / "l.nii.gz")
    header = nib.load(tmp_path / "l.nii.gz").header
    assert (header["qform_code"], header["sform_code"], header["magic"]) == (1, 4, b"n+1")


@pytest.fixture
def pairs(tmp_path):
    """A data set of images and masks, each a pair of files."""
    for number in range(3):
        label = (20 + number < ARRAY).astype(np.uint8)
        for part, array in (("images", ARRAY * (number + 1)), ("masks", label)):
            (tmp_path / "set" / part).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Pair(array, AFFINE), tmp_path / "set" / part / f"c{number}.img")
    return tmp_path / "set"


def test_a_pair_is_one_case_of_a_data_set(pairs, tmp_path):
    report = check(pairs)
    assert (len(report.dataset.cases), report.problems) == (3, ())
    store = prepare(open_dataset(pairs), tmp_path / "store")
    assert len(store.cases) == 3
    assert {"images/c0.img", "images/c0.hdr"} <= set(store.case("c0").hashes)


@pytest.mark.parametrize("ending", [".hdr", ".img"])
def test_a_description_may_name_either_file_of_a_pair(pairs, tmp_path, ending):
    (pairs / "dataset.json").write_text(
        json.dumps(
            {
                "channel_names": {"0": "MRI"},
                "labels": {"background": 0, "a": 1},
                "numTraining": 3,
                "file_ending": ending,
            }
        )
    )
    (pairs / "masks").rename(pairs / "labelsTr")
    (pairs / "imagesTr").mkdir()
    for file in (pairs / "images").iterdir():
        file.rename(pairs / "imagesTr" / file.name.replace(".", "_0000."))
    (pairs / "images").rmdir()
    report = check(pairs)
    assert (report.dataset.layout, len(report.dataset.cases)) == ("nnunet", 3)
    assert report.problems == ()


def test_a_corrected_copy_holds_both_files_of_a_pair(pairs, tmp_path):
    image = np.where(ARRAY == 7, np.nan, ARRAY).astype(np.float32)
    nib.save(nib.Nifti1Pair(image, AFFINE), pairs / "images" / "c0.img")
    fixed = fix(check(pairs), tmp_path / "out")
    assert [one.kind for one in fixed.corrected] == ["not-finite"]
    assert check(tmp_path / "out").errors == ()
    assert read_volume(tmp_path / "out/images/c0.img").array[0, 0, 1, 2] == 0
    assert (tmp_path / "out/images/c1.hdr").is_file()


def test_folders_of_pairs_and_of_files_without_suffix_are_evaluated(pairs, tmp_path):
    (tmp_path / "predicted").mkdir()
    for number in range(3):
        content = nifti((20 + number < ARRAY).astype(np.uint8))
        (tmp_path / "predicted" / f"c{number}").write_bytes(gzip.compress(content))
    result = evaluate(tmp_path / "predicted", EvaluationRequest(pairs / "masks"))
    assert [case.metrics["1"].dice for case in result.evaluation.cases] == [1, 1, 1]


def archive(path, **files):
    with zipfile.ZipFile(path, "w") as out:
        for name, content in files.items():
            out.writestr(name.replace("__", "/", 1).replace("_nii", ".nii"), content)
    return path


def test_a_zip_of_a_volume_is_read_as_that(tmp_path):
    path = archive(tmp_path / "a.zip", x__a_nii=PLAIN, readme=b"text")
    assert reads(path)
    voxels, read = open_image([path])
    assert (voxels, read().spatial_shape) == (3 * 4 * 5, (3, 4, 5))
    assert read().name == str(path)
    assert not is_dicom_path(path)


def test_a_zip_may_hold_a_file_per_channel_but_not_several_images(tmp_path):
    path = archive(tmp_path / "a.zip", c_0001_nii=nifti(ARRAY + 1), c_0000_nii=PLAIN)
    assert read_volume(path).array[:, 0, 0, 0].tolist() == [0, 1]
    path = archive(tmp_path / "b.zip", a_nii=PLAIN, b_nii=PLAIN)
    with pytest.raises(DataError, match=r"b\.zip: it holds 2 images \(a\.nii, b\.nii"):
        read_volume(path)
    assert not is_dicom_path(path)


def test_a_zip_with_dicom_in_it_stays_a_series(tmp_path):
    path = archive(tmp_path / "a.zip", IM1=b"\0" * 128 + b"DICM", a_nii=PLAIN)
    assert is_dicom_path(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.png", "a.npy", "a.nrrd", "a.mha"])
def test_an_empty_file_is_called_empty(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=rf"{name}: it is empty\. .*again"):
        read_volume(tmp_path / name)

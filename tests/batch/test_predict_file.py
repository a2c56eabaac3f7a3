"""One image file to one label file: where it lies, what it holds, what is refused."""

import shutil
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from prediction import OBLIQUE, left_in, noise, save_nifti, tiny_bundle
from transunet.batch.outputs import label_name
from transunet.batch.run import predict_file
from transunet.data.formats import read_labels
from transunet.data.inputs import find_inputs
from transunet.errors import ConfigError, DataError
from transunet.inference.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.from_pretrained(tiny_bundle(tmp_path_factory.mktemp("bundle")), device="cpu")


def test_a_label_map_has_its_images_geometry_units_and_codes(
    predictor: Predictor, tmp_path: Path
) -> None:
    image = nib.load(save_nifti(tmp_path / "a.nii.gz"))
    written = predict_file(predictor, tmp_path / "a.nii.gz", tmp_path / "out" / "b.nii.gz")
    labels = nib.load(written)
    assert labels.shape == image.shape
    assert np.array_equal(labels.affine, image.affine)
    assert labels.header.get_xyzt_units() == ("mm", "sec")
    for form in ("get_qform", "get_sform"):
        for mine, its in zip(
            getattr(labels, form)(coded=True), getattr(image, form)(coded=True), strict=True
        ):
            assert np.array_equal(mine, its)
    assert np.array_equal(labels.header["pixdim"], image.header["pixdim"])
    assert labels.get_data_dtype() == np.uint8
    assert len(np.unique(labels.dataobj)) > 1


def test_the_file_holds_what_the_predictor_says(predictor: Predictor, tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii")
    written = predict_file(predictor, str(path), tmp_path / "out" / "a.nii")
    assert written == tmp_path / "out" / "a.nii"
    from transunet.data.formats import read_volume

    expected = predictor(read_volume(path)).array[0]
    assert np.array_equal(np.asarray(nib.load(written).dataobj), expected)


def test_a_failure_leaves_nothing_behind(predictor: Predictor, tmp_path: Path) -> None:
    two = save_nifti(tmp_path / "two.nii.gz", np.stack([noise(), noise()], axis=-1), OBLIQUE)
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"two.nii.gz: .*2 channels"):
        predict_file(predictor, two, out / "two.nii.gz")
    assert not out.exists() or not left_in(out)


def test_a_bundle_may_be_given_with_its_settings(predictor: Predictor, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    path = save_nifti(tmp_path / "a.nii.gz")
    settings = {"device": "cpu", "mirror": True}
    one = predict_file(bundle, path, tmp_path / "one.nii.gz", **settings)
    two = predict_file([bundle, bundle], path, tmp_path / "two.nii.gz", **settings)
    assert np.array_equal(np.asarray(nib.load(one).dataobj), np.asarray(nib.load(two).dataobj))
    with pytest.raises(ConfigError, match="its own settings; found mirror"):
        predict_file(predictor, path, tmp_path / "three.nii.gz", mirror=True)


def test_labels_as_arrays_are_read_back(predictor: Predictor, tmp_path: Path) -> None:
    from transunet.data.formats import read_labels

    path = save_nifti(tmp_path / "a.nii.gz")
    written = predict_file(predictor, path, tmp_path / "a.npz")
    assert np.array_equal(read_labels(written).array, predictor(path).array)
    with np.load(written) as stored:
        np.testing.assert_allclose(stored["affine"], OBLIQUE, atol=1e-6)


def test_an_output_of_no_known_format_is_refused_first(
    predictor: Predictor, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"labels.txt: label maps are written as .npz, .nii"):
        predict_file(predictor, tmp_path / "a.nii.gz", tmp_path / "labels.txt")


def test_a_file_without_suffix_a_pair_and_a_zip_become_nifti(
    predictor: Predictor, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    source = nib.load(save_nifti(tmp_path / "a.nii.gz"))
    nib.save(nib.Nifti1Pair(source.dataobj, source.affine), folder / "pair.img")
    shutil.copy(tmp_path / "a.nii.gz", folder / "bare")
    with zipfile.ZipFile(folder / "packed.zip", "w") as archive:
        archive.write(tmp_path / "a.nii.gz", "export/a.nii.gz")
    cases = find_inputs([folder], 1)
    assert [label_name(case) for case in cases] == ["bare.nii.gz", "packed.nii.gz", "pair.nii.gz"]
    expected = read_labels(predict_file(predictor, tmp_path / "a.nii.gz", tmp_path / "l.nii.gz"))
    for case in cases:
        out = predict_file(predictor, case.images, tmp_path / label_name(case))
        assert np.array_equal(read_labels(out).array, expected.array)


@pytest.mark.parametrize("name", ["L.NII.GZ", "L.Nii.Gz", "L.NPY", "L.NPZ", "L.MHA", "L.NRRD"])
def test_capital_letters_in_an_output_are_kept(
    predictor: Predictor, tmp_path: Path, name: str
) -> None:
    image = save_nifti(tmp_path / "a.nii.gz")
    expected = predictor(image)
    written = read_labels(predict_file(predictor, image, tmp_path / "out" / name))
    assert np.array_equal(written.array, expected.array)
    assert name == "L.NPZ" or np.allclose(written.affine, expected.affine)
    beside = {f"{name}.json"} if name == "L.NPY" else set()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {name} | beside


@pytest.mark.parametrize("name", ["out.img", "out.mhd", "out.nhdr"])
def test_two_files_are_no_output(predictor: Predictor, tmp_path: Path, name: str) -> None:
    image = save_nifti(tmp_path / "a.nii.gz")
    with pytest.raises(ConfigError, match=r"out\..*not written as two files.*Choose \.nii\.gz"):
        predict_file(predictor, image, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]

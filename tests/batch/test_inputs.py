"""From image files to label files: which files make a case, and where the label map lies."""

import shutil
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from prediction import OBLIQUE, left_in, noise, save_nifti, tiny_bundle
from transunet.batch.outputs import label_name
from transunet.batch.run import predict_file
from transunet.data.cases import Case
from transunet.data.formats import read_labels
from transunet.data.inputs import find_inputs
from transunet.errors import ConfigError, DataError
from transunet.inference.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.from_pretrained(tiny_bundle(tmp_path_factory.mktemp("bundle")), device="cpu")


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.touch()
    return paths


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


def test_a_folder_gives_its_images_in_order_and_nothing_else(tmp_path: Path) -> None:
    touch(tmp_path, "b.nii.gz", "a.nii", "notes.txt", ".hidden.nii.gz")
    (tmp_path / "deeper").mkdir()
    assert [case.name for case in find_inputs([tmp_path], 1)] == ["a", "b"]


def test_channel_files_make_one_case(tmp_path: Path) -> None:
    t1, t2 = touch(tmp_path, "p_0000.nii.gz", "p_0001.nii.gz")
    assert find_inputs([tmp_path], 2) == [Case("p", (t1, t2), None)]
    # With one channel, numbered files are patients, unless all of them are channel 0.
    assert [case.name for case in find_inputs([tmp_path], 1)] == ["p_0000", "p_0001"]
    assert [case.name for case in find_inputs([t1], 1)] == ["p"]


@pytest.mark.parametrize("numbers", [(1, 2), (0, 1), (1,)])
def test_numbered_files_that_hold_all_channels_are_cases(
    tmp_path: Path, numbers: tuple[int, ...]
) -> None:
    for number in numbers:
        save_nifti(tmp_path / f"case_{number:04d}.nii.gz", np.zeros((4, 4, 3, 2), np.int16))
    cases = find_inputs([tmp_path], 2)
    assert [case.name for case in cases] == [f"case_{number:04d}" for number in numbers]
    assert all(len(case.images) == 1 for case in cases)


def test_numbered_photographs_are_cases_of_a_network_for_colours(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs the extra images")
    for number in (1, 2, 3):
        image.new("RGB", (8, 8)).save(tmp_path / f"photo_{number:04d}.png")
    assert [case.name for case in find_inputs([tmp_path], 3)] == [
        "photo_0001",
        "photo_0002",
        "photo_0003",
    ]


def test_files_per_channel_and_with_all_channels_go_together(tmp_path: Path) -> None:
    for index in (0, 1):
        save_nifti(tmp_path / f"a_000{index}.nii.gz", np.zeros((4, 4, 3), np.int16))
    save_nifti(tmp_path / "b.nii.gz", np.zeros((4, 4, 3, 2), np.int16))
    assert {case.name: len(case.images) for case in find_inputs([tmp_path], 2)} == {"a": 2, "b": 1}


def test_a_case_without_all_its_channels_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "p_0000.nii.gz", "q_0000.nii.gz", "q_0001.nii.gz", "q_0002.nii.gz")
    with pytest.raises(DataError, match=r"Case q .*expected 2"):
        find_inputs([tmp_path], 2)


def test_folders_lead_the_names_of_inputs_that_are_called_the_same(tmp_path: Path) -> None:
    for folder in ("p1/ct", "p2/ct", "p2/ct/deep"):
        (tmp_path / folder).mkdir(parents=True)
    first = touch(tmp_path / "p1/ct", "a.nii.gz", "b.nii.gz")
    second = touch(tmp_path / "p2/ct", "a.nii", "deep/a.nrrd")
    assert [case.name for case in find_inputs([*first, second[0]], 1)] == ["p1/a", "b", "p2/a"]
    assert [case.name for case in find_inputs([first[0], second[1]], 1)] == [
        "p1/ct/a",
        "p2/ct/deep/a",
    ]
    assert [case.name for case in find_inputs(second, 1)] == ["a", "deep/a"]
    folders = [tmp_path / "p1/ct", tmp_path / "p2/ct"]
    assert [case.name for case in find_inputs(folders, 1)] == ["p1/a", "b", "p2/a", "deep/a"]


def test_an_input_that_is_given_twice_is_taken_once(tmp_path: Path) -> None:
    (image,) = touch(tmp_path, "a.nii")
    assert len(find_inputs([tmp_path, image, image], 1)) == 1


def test_two_inputs_of_one_name_in_one_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="called a"):
        find_inputs(touch(tmp_path, "a.nii.gz", "a.nii"), 1)


def test_a_link_that_leads_nowhere_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.nii").symlink_to("/nowhere/b.nii")
    with pytest.raises(ConfigError, match=r"a\.nii is a link to /nowhere/b\.nii, which is not"):
        find_inputs([tmp_path / "a.nii"], 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.nii.gz", "no image"), ("notes.txt", "not an image"), ("empty", "holds no images")],
)
def test_inputs_that_cannot_be_are_wrong_use(tmp_path: Path, name: str, message: str) -> None:
    touch(tmp_path, "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=message):
        find_inputs([tmp_path / name], 1)


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


def test_patterns_are_expanded_where_the_shell_did_not(tmp_path: Path) -> None:
    touch(tmp_path, "b.nii.gz", "a1.nii", "a2.nii")
    assert [case.name for case in find_inputs([tmp_path / "a*.nii"], 1)] == ["a1", "a2"]
    assert [case.name for case in find_inputs([tmp_path / "*.nii*"], 1)] == ["a1", "a2", "b"]
    with pytest.raises(ConfigError, match=r"no image .*c\*"):
        find_inputs([tmp_path / "c*"], 1)


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

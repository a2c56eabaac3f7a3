"""Which images a folder stands for: nested ones, a data set's, and never what was written there."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dicom_made import header, ramp, save, series_of
from prediction import left_in, save_nifti, tiny_bundle
from transunet.batch.run import predict_cases, predict_file
from transunet.data.cases import Case
from transunet.data.formats import read_volume
from transunet.data.inputs import find_inputs
from transunet.errors import ConfigError, DataError
from transunet.inference.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    bundle = tiny_bundle(tmp_path_factory.mktemp("bundle"), channels_named=("CT",))
    return Predictor.from_pretrained(bundle, device="cpu")


def names(*paths: Path, channels: int = 1, **options: object) -> list[str]:
    return [case.name for case in find_inputs(paths, channels, **options)]


def acdc(folder: Path) -> Path:
    """Two patients for training and one for testing, as the challenge gives them."""
    for number in (1, 2, 101):
        patient = f"patient{number:03}"
        place = folder / ("testing" if number > 100 else "training") / patient
        for name in ("4d", "frame01", "frame01_gt", "frame12", "frame12_gt"):
            save_nifti(place / f"{patient}_{name}.nii.gz")
        (place / "Info.cfg").write_text("ED: 1\n")
    return folder


def test_images_in_folders_below_keep_their_folders(predictor: Predictor, tmp_path: Path) -> None:
    for name in ("b/scan.nii.gz", "a/deep/scan.nii.gz", "top.nii.gz", ".hidden/x.nii.gz"):
        save_nifti(tmp_path / "in" / name)
    cases = find_inputs([tmp_path / "in"], 1)
    assert [case.name for case in cases] == ["top", "a/deep/scan", "b/scan"]
    out = tmp_path / "out"
    outcomes = predict_cases(predictor, cases, out)
    assert [(o.status, o.error) for o in outcomes] == [("done", None)] * 3
    assert {"top.nii.gz", "a/deep/scan.nii.gz", "b/scan.nii.gz"} <= left_in(out)
    assert (out / "cases/a/deep/scan.json").exists()
    assert '"a/deep/scan"' in (out / "statistics.json").read_text()
    assert not [name for name in left_in(out) if ".partial-" in name]
    assert {o.status for o in predict_cases(predictor, cases, out)} == {"kept"}
    assert nib.load(out / "b/scan.nii.gz").shape == (20, 24, 6)


def test_what_a_killed_worker_left_of_a_nested_case_is_swept(
    predictor: Predictor, tmp_path: Path
) -> None:
    save_nifti(tmp_path / "in/a/scan.nii.gz")
    half = tmp_path / "out/a/.partial-xyz"
    half.mkdir(parents=True)
    (half / "scan.nii.gz").write_bytes(b"half")
    predict_cases(predictor, find_inputs([tmp_path / "in"], 1), tmp_path / "out")
    assert not half.exists()


def test_a_folder_that_was_predicted_into_is_passed_over(
    predictor: Predictor, tmp_path: Path
) -> None:
    save_nifti(tmp_path / "a/scan.nii.gz")
    predict_cases(predictor, find_inputs([tmp_path], 1), tmp_path / "labels")
    assert names(tmp_path) == ["a/scan"]
    assert names(tmp_path / "labels/a") == ["scan"]  # asked for by name, it is an input


def test_pictures_beside_volumes_are_passed_over(tmp_path: Path) -> None:
    for name in ("masks/1.png", "masks/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names(tmp_path) == ["masks/1", "masks/2"]
    save_nifti(tmp_path / "scan.nii.gz")
    assert names(tmp_path) == ["scan"]


def test_channels_in_folders_are_joined(tmp_path: Path) -> None:
    for patient in ("p", "q"):
        for channel in ("0000", "0001"):
            save_nifti(tmp_path / patient / f"{patient}_{channel}.nii.gz")
    found = find_inputs([tmp_path], 2)
    assert [case.name for case in found] == ["p/p", "q/q"]
    assert [len(case.images) for case in found] == [2, 2]


def test_of_a_data_set_the_test_cases_are_taken(tmp_path: Path) -> None:
    folder = acdc(tmp_path / "ACDC")
    assert names(folder) == ["patient101_frame01", "patient101_frame12"]
    assert len(names(folder, split="train")) == 4
    assert names(folder / "testing") == names(folder)  # no splits of its own: all of its cases
    with pytest.raises(ConfigError, match="no case of the split 'validation'; it has test, train"):
        names(folder, split="validation")


def test_only_labelled_cases_where_that_is_asked_for(tmp_path: Path) -> None:
    folder = acdc(tmp_path / "ACDC")
    (folder / "testing/patient101/patient101_frame12_gt.nii.gz").unlink()
    assert names(folder, labelled=True) == ["patient101_frame01"]
    (folder / "testing/patient101/patient101_frame01_gt.nii.gz").unlink()
    assert len(names(folder, labelled=True)) == 4  # none for testing: the others
    with pytest.raises(ConfigError, match="no labelled case of the split 'test'"):
        names(folder, labelled=True, split="test")


def test_images_that_lie_in_the_folder_itself_are_meant(tmp_path: Path) -> None:
    for name in ("img0001", "img0002", "other"):
        save_nifti(tmp_path / f"{name}.nii.gz")
    assert names(tmp_path) == ["img0001", "img0002", "other"]  # though BTCV's are called so


def test_a_split_needs_a_data_set(tmp_path: Path) -> None:
    image = save_nifti(tmp_path / "a.nii.gz")
    with pytest.raises(ConfigError, match=r"a\.nii\.gz is of no data set"):
        names(image, split="test")


def two_series(folder: Path) -> Path:
    """A folder with a series of 5 and one of 3 slices."""
    save(folder, series_of(ramp()))
    return save(folder, series_of(ramp(3), uid="1.2.3"))


@pytest.fixture
def dicom() -> None:
    pytest.importorskip("pydicom", reason="needs the extra [dicom]")


@pytest.mark.usefixtures("dicom")
def test_patients_with_a_folder_each(tmp_path: Path) -> None:
    for name in ("p2/ct", "p1", "p3/a/b"):
        save(tmp_path / name, series_of(ramp(1)))
    (tmp_path / "p4").mkdir()
    (tmp_path / "p4" / "notes.txt").write_text("not DICOM")
    assert names(tmp_path) == ["p1", "p2/ct", "p3/a/b"]
    save_nifti(tmp_path / "p4" / "scan.nii.gz")
    assert names(tmp_path) == ["p1", "p2/ct", "p3/a/b", "p4/scan"]


@pytest.mark.usefixtures("dicom")
@pytest.mark.parametrize("packed", [False, True])
def test_all_series_of_a_folder_or_archive_are_cases(
    predictor: Predictor, tmp_path: Path, packed: bool
) -> None:
    import shutil

    path = two_series(tmp_path / "anna")
    if packed:
        path = Path(shutil.make_archive(str(tmp_path / "zip/anna"), "zip", path))
    refused = predict_cases(predictor, find_inputs([path], 1), tmp_path / "refused")
    assert [outcome.status for outcome in refused] == ["failed"]
    told = str(refused[0].error)
    assert "--series" in told
    assert "1. CT 'made', 3 slices of 7 x 6, 1.2.3" in told.replace("2. CT", "1. CT")
    cases = find_inputs([path], 1, series="all")
    assert [case.name for case in cases] == ["anna_series1", "anna_series2"]
    outcomes = predict_cases(predictor, cases, tmp_path / "out")
    assert [(o.status, o.error) for o in outcomes] == [("done", None)] * 2
    shapes = {nib.load(file).shape for file in (tmp_path / "out").glob("*.nii.gz")}
    assert shapes == {(7, 6, 5), (7, 6, 3)}


@pytest.mark.usefixtures("dicom")
def test_one_series_is_chosen_and_another_one_not_taken_for_it(
    predictor: Predictor, tmp_path: Path
) -> None:
    path, out = two_series(tmp_path / "anna"), tmp_path / "out"
    chosen = find_inputs([path], 1, series="1.2.3")
    assert [o.status for o in predict_cases(predictor, chosen, out)] == ["done"]
    assert nib.load(out / "anna.nii.gz").shape == (7, 6, 3)
    assert '"series": "1.2.3"' in (out / "manifest.json").read_text()
    assert [o.status for o in predict_cases(predictor, chosen, out)] == ["kept"]
    other = find_inputs([path], 1, series="1.2.826.0.1.3680043.9.1.1")
    (failed,) = predict_cases(predictor, other, out)
    assert "made from another image" in str(failed.error)
    (failed,) = predict_cases(predictor, find_inputs([path], 1, series="9"), tmp_path / "none")
    assert "has no series 9; it holds:" in str(failed.error)
    assert read_volume(path, "1.2.3").spatial_shape == (7, 6, 3)
    with pytest.raises(ConfigError, match="no DICOM"):
        read_volume(save_nifti(tmp_path / "a.nii.gz"), 1)


@pytest.mark.usefixtures("dicom")
def test_headers_are_read_once_for_each_case(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transunet.data.formats.dicom import headers

    path, read = save(tmp_path / "anna", series_of(ramp())), []
    cases = find_inputs([path], 1)
    real = headers.read_dataset

    def counted(file: Path, *, pixels: bool) -> object:
        read.append(file)
        return real(file, pixels=pixels)

    monkeypatch.setattr(headers, "read_dataset", counted)
    predict_cases(predictor, cases, tmp_path / "out")
    assert sorted(read) == sorted(path.iterdir())  # the pixels are read by another module


@pytest.mark.usefixtures("dicom")
def test_one_series_is_a_case_by_its_own_name(tmp_path: Path) -> None:
    path = save(tmp_path / "anna", series_of(ramp()))
    assert names(path, series="all") == ["anna"]
    (path / "I000").write_bytes((path / "I000").read_bytes()[:300])  # told when it is read
    assert names(path, series="all") == ["anna"]


def test_a_series_needs_dicom(tmp_path: Path) -> None:
    image = save_nifti(tmp_path / "a.nii.gz")
    with pytest.raises(ConfigError, match="none of the inputs is DICOM"):
        names(image, series="all")


def test_two_folders_with_one_name_lead_it(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        save_nifti(tmp_path / folder / "a.nii.gz")
    assert names(tmp_path / "x", tmp_path / "y") == ["x/a", "y/a"]
    assert names(tmp_path) == ["x/a", "y/a"]
    assert np.unique([case.images for case in find_inputs([tmp_path], 1)]).size == 2


@pytest.mark.usefixtures("dicom")
def test_links_to_folders_are_cases(
    predictor: Predictor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_nifti(tmp_path / "disk/scan.nii.gz")
    slices = save(tmp_path / "disk2/series", series_of(ramp()))
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "p1").symlink_to(tmp_path / "disk")
    (folder / "p2").symlink_to(tmp_path / "disk2")
    (folder / "p3").symlink_to(tmp_path / "gone")
    (tmp_path / "disk2/up").symlink_to(tmp_path)
    assert names(folder) == ["p1/scan", "p2/series"]
    assert f"{folder}/p3 is a link to {tmp_path}/gone, which is not there" in caplog.text
    (series,) = find_inputs([folder / "p2"], 1)
    assert [o.status for o in predict_cases(predictor, [series], tmp_path / "out")] == ["done"]
    # What lies behind a link counts as the image's content, too.
    (folder / "study").mkdir()
    (folder / "study/ct").symlink_to(slices)
    assert names(folder / "study") == ["ct"]
    again = Case("study", (folder / "study",), None)
    assert [o.status for o in predict_cases(predictor, [again], tmp_path / "out")] == ["done"]
    (slices / "I004").unlink()
    (failed,) = predict_cases(predictor, [again], tmp_path / "out")
    assert "another image" in str(failed.error)


@pytest.mark.usefixtures("dicom")
def test_what_is_no_slice_makes_no_case(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "transunet")
    directory, report = "1.2.840.10008.1.3.10", "1.2.840.10008.5.1.4.1.1.88.22"
    save(tmp_path / "p1/ct", series_of(ramp()))
    save(tmp_path, [header("1.2.7", "1.2", "", directory)])
    for place, modality in (("p1", "SR"), ("p1/key", "KO"), ("p1", "RTSTRUCT"), ("p1/pr", "PR")):
        save(tmp_path / place, [header("1.2.7", "1.2", modality, report)])
    (tmp_path / "p1/empty.dcm").touch()
    assert names(tmp_path) == ["p1/ct"]
    told = "passed over: 1 DICOMDIR, 1 KO, 1 PR, 1 RTSTRUCT, 1 SR, 1 empty files"
    assert told in caplog.text
    with pytest.raises(ConfigError, match=r"holds no images .*passed over: 1 KO"):
        names(tmp_path / "p1/key")


@pytest.mark.usefixtures("dicom")
def test_a_folder_with_slices_of_its_own_is_a_case_beside_those_below(
    predictor: Predictor, tmp_path: Path
) -> None:
    folder = save(tmp_path / "p1", series_of(ramp(1), uid="1.2.3"))
    save(folder, [header("1.2.7", "1.2", "SR", "1.2.840.10008.5.1.4.1.1.88.22")])
    save(folder / "ct", series_of(ramp()))
    save(tmp_path / "p2", series_of(ramp(3), uid="1.2.4"))
    save(tmp_path / "p2/deep", series_of(ramp(4), uid="1.2.5"))
    cases = find_inputs([tmp_path], 1)
    outcomes = predict_cases(predictor, cases, tmp_path / "out")
    assert [(o.case, o.error) for o in outcomes] == [
        (name, None) for name in ("p1", "p1/ct", "p2", "p2/deep")
    ]
    shapes = [nib.load(tmp_path / "out" / f"{case.name}.nii.gz").shape[2] for case in cases]
    assert shapes == [1, 5, 3, 4]


@pytest.mark.usefixtures("dicom")
def test_slices_given_one_by_one_are_one_case(
    predictor: Predictor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "transunet")
    folder = save(tmp_path / "p1/ct", series_of(ramp()))
    save(folder, [header("1.2.7", "1.2", "SR", "1.2.840.10008.5.1.4.1.1.88.22")])
    (folder / "empty.dcm").touch()
    files = sorted(folder.iterdir())
    (case,) = find_inputs(files, 1)
    assert (case.name, case.images) == ("ct", tuple(files))
    assert find_inputs([folder / "*"], 1) == [case]
    outcomes = predict_cases(predictor, [case], tmp_path / "single")
    assert [outcome.error for outcome in outcomes] == [None]
    assert "passed over: 1 SR, 1 empty files" in caplog.text
    predict_cases(predictor, find_inputs([folder], 1), tmp_path / "whole")
    whole, single = (nib.load(tmp_path / name / "ct.nii.gz") for name in ("whole", "single"))
    np.testing.assert_array_equal(whole.dataobj, single.dataobj)
    np.testing.assert_array_equal(whole.affine, single.affine)
    written = predict_file(predictor, files, tmp_path / "file.nii.gz")
    np.testing.assert_array_equal(nib.load(written).dataobj, single.dataobj)
    other = save(tmp_path / "p2/ct", series_of(ramp(3)))
    assert names(*files, *sorted(other.iterdir())) == ["p1/ct", "p2/ct"]


@pytest.mark.usefixtures("dicom")
def test_files_of_several_series_are_chosen_from_as_in_a_folder(tmp_path: Path) -> None:
    files = sorted(two_series(tmp_path / "anna").iterdir())
    assert names(*files) == ["anna"]
    assert names(*files, series="all") == ["anna_series1", "anna_series2"]
    assert read_volume(files, "1.2.3").spatial_shape == (7, 6, 3)
    with pytest.raises(DataError, match="holds 2 series"):
        read_volume(files)


@pytest.mark.usefixtures("dicom")
def test_files_that_are_an_image_each_stay_so(tmp_path: Path) -> None:
    for number in (1, 2):
        for name in ("a", "b"):  # a slice of two patients, and two echoes of one slice
            uid = f"1.2.{number if name == 'a' else 9}"
            (slice_,) = series_of(ramp(1) + number, uid=uid)
            slice_.save_as(tmp_path / f"{name}{number}.dcm", enforce_file_format=True)
    paths = {name: sorted(tmp_path.glob(f"{name}?.dcm")) for name in "ab"}
    for files in paths.values():
        assert names(*files) == [file.stem for file in files]
        channels = read_volume(files)
        np.testing.assert_array_equal(channels.array[1], channels.array[0] + 1)


@pytest.mark.usefixtures("dicom")
def test_a_file_without_a_suffix_is_an_image(tmp_path: Path) -> None:
    folder = save(tmp_path, series_of(ramp(1)))
    assert names(folder / "I000") == ["I000"]
    assert read_volume(folder / "I000").spatial_shape == (7, 6, 1)

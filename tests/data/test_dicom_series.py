"""Which files make a series, and when its slices make a grid."""

import pickle
import sys

import numpy as np
import pytest

from dicom_made import AXIAL, OBLIQUE, STUDY, header, positions, ramp, save, series_of
from transunet.data.formats.dicom import modality, read, read_grid
from transunet.data.formats.dicom_files import is_dicom, is_slice
from transunet.data.formats.dicom_series import (
    NoSuchSeriesError,
    SeriesChoice,
    SeveralSeriesError,
    choose_series,
    find_series,
    listing,
)
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError, GeometryError

pytest.importorskip("pydicom", reason="needs the extra [dicom]")

SHUFFLED = [3, 0, 4, 1, 2]


def test_slices_are_sorted_by_position_whatever_their_names_and_numbers(tmp_path):
    def mislead(dataset, index):
        dataset.InstanceNumber = 99 - index
        dataset.SliceLocation = -index

    pixels = ramp()
    save(tmp_path / "s", series_of(pixels, edit=mislead), SHUFFLED)
    volume = read(tmp_path / "s")
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, pixels.transpose(2, 1, 0)[None])


def test_the_affine_is_in_ras_and_steps_by_positions_not_thickness(tmp_path):
    save(tmp_path / "s", series_of(ramp()), SHUFFLED)
    volume = read(tmp_path / "s")
    expected = [[-0.75, 0, 0, 10], [0, -0.5, 0, 20], [0, 0, 2.5, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(volume.affine, expected, atol=1e-12)
    assert volume.orientation == "LPS"


def test_an_oblique_voxel_lies_where_the_standard_puts_it(tmp_path):
    datasets = series_of(ramp(), directions=OBLIQUE)
    save(tmp_path / "s", datasets, SHUFFLED)
    volume = read(tmp_path / "s")
    column, row, index = 5, 4, 3
    position = np.array(datasets[index].ImagePositionPatient, float)
    along_row, along_column = np.reshape(OBLIQUE, (2, 3))
    lps = position + along_row * 0.75 * column + along_column * 0.5 * row  # PS3.3 C.7.6.2.1.1
    ras = (volume.affine @ [column, row, index, 1])[:3]
    np.testing.assert_allclose(ras, lps * [-1, -1, 1], atol=1e-9)
    assert volume.array[0, column, row, index] == ramp()[index, row, column]


def test_the_grid_is_known_without_the_pixels(tmp_path):
    save(tmp_path / "s", series_of(ramp()), SHUFFLED)
    grid = read_grid(tmp_path / "s")
    assert grid.spatial_shape == (7, 6, 5)
    np.testing.assert_array_equal(grid.affine, read(tmp_path / "s").affine)


def test_rounded_positions_pass(tmp_path, rng):
    where = positions(5) + rng.uniform(-0.02, 0.02, (5, 3))
    save(tmp_path / "s", series_of(ramp(), where=where))
    assert read(tmp_path / "s").spacing_mm == pytest.approx((0.75, 0.5, 2.5), abs=0.02)


def test_one_slice_is_as_thick_as_its_header_says(tmp_path):
    save(tmp_path / "s", series_of(ramp(1)))
    assert read(tmp_path / "s").spacing_mm == pytest.approx((0.75, 0.5, 5))


def test_a_missing_slice_is_refused_with_the_positions_beside_it(tmp_path):
    save(tmp_path / "s", series_of(ramp()), [4, 0, 2, 1])
    with pytest.raises(GeometryError, match=r"missing: 1 between 35\.00 mm and 40\.00 mm"):
        read(tmp_path / "s")


def test_one_missing_slice_among_many_is_refused(tmp_path):
    save(tmp_path / "s", series_of(ramp(60)), [i for i in range(60) if i != 58])
    with pytest.raises(GeometryError, match=r"missing: 1 between 172\.50 mm and 177\.50 mm"):
        read(tmp_path / "s")


def test_doubled_slices_are_refused_with_position_and_files(tmp_path):
    save(tmp_path / "s", series_of(ramp()), [0, 1, 2, 3, 4, 1])
    with pytest.raises(GeometryError, match=r"32\.50 mm \(I001, I005\)"):
        read(tmp_path / "s")


def test_uneven_steps_are_refused_with_positions(tmp_path):
    where = positions(5)
    where[3:, 2] += 0.9
    save(tmp_path / "s", series_of(ramp(), where=where))
    expected = r"not evenly spaced.*3\.4 mm between 35\.00 mm and 38\.40 mm"
    with pytest.raises(GeometryError, match=expected):
        read(tmp_path / "s")


def test_a_tilted_gantry_is_refused_with_its_angle(tmp_path):
    where = positions(5)
    where[:, 1] += np.tan(np.deg2rad(12)) * (where[:, 2] - where[0, 2])
    save(tmp_path / "s", series_of(ramp(), where=where))
    with pytest.raises(GeometryError, match=r"tilted.*12\.00 degrees.*dcm2niix"):
        read(tmp_path / "s")


def test_slices_shifted_sideways_are_refused(tmp_path):
    where = positions(5)
    where[2, 0] += 3
    save(tmp_path / "s", series_of(ramp(), where=where))
    with pytest.raises(GeometryError, match=r"35\.00 mm \(I002\) by 3 mm"):
        read(tmp_path / "s")


def test_several_series_are_listed_and_one_is_chosen(tmp_path):
    def second(dataset, index):
        dataset.SeriesNumber, dataset.SeriesDescription = 4, "venous"

    save(tmp_path / "s" / "a", series_of(ramp()))
    save(tmp_path / "s" / "b", series_of(-ramp(4), uid=STUDY + ".2", edit=second))
    found = find_series(tmp_path / "s")
    assert [(s.description, s.modality, s.slices) for s in found] == [
        ("made", "CT", 5),
        ("venous", "CT", 4),
    ]
    with pytest.raises(DataError, match=r"(?s)holds 2 series.*1\. CT 'made', 5.*2\. CT 'venous'"):
        read(tmp_path / "s")
    assert read(tmp_path / "s", 1).spatial_shape == (7, 6, 5)
    by_number, by_uid = read(tmp_path / "s", "2"), read(tmp_path / "s", STUDY + ".2")
    np.testing.assert_array_equal(by_number.array, by_uid.array)
    assert by_uid.spatial_shape == (7, 6, 4)
    for wrong in (0, 3, "1.2.3"):
        with pytest.raises(ConfigError, match="has no series"):
            choose_series(found, wrong)


def test_orientations_and_sizes_within_a_series_are_told_apart(tmp_path):
    uid = STUDY + ".1"
    for number, (part, directions) in enumerate(
        [(ramp(), AXIAL), (ramp(), OBLIQUE), (ramp(5, 8, 8), AXIAL)]
    ):

        def other(dataset, index, number=number):
            dataset.SOPInstanceUID += f".{number}"

        save(tmp_path / "s", series_of(part, directions=directions, uid=uid, edit=other))
    found = find_series(tmp_path / "s")
    assert len(found) == 3
    assert {s.slices for s in found} == {5}
    assert "axial" in listing(found)
    assert "coronal" in listing(found)
    with pytest.raises(DataError, match="Choose one"):
        read(tmp_path / "s", uid)


def test_echoes_at_the_same_places_are_told_apart(tmp_path):
    for number, echo in enumerate((2.3, 4.6)):

        def edit(dataset, index, number=number, echo=echo):
            dataset.Modality, dataset.EchoTime = "MR", echo
            dataset.AcquisitionNumber = index  # differs from slice to slice: makes no stack
            dataset.SOPInstanceUID += f".{number}"

        save(tmp_path / "s", series_of(ramp() + number, edit=edit))
    found = find_series(tmp_path / "s")
    assert [s.part for s in found] == ["EchoTime 2.3", "EchoTime 4.6"]
    np.testing.assert_array_equal(
        read(tmp_path / "s", 2).array, ramp().transpose(2, 1, 0)[None] + 1
    )


def test_what_is_no_slice_is_skipped(tmp_path):
    folder = save(tmp_path / "s", series_of(ramp()))

    def scout(dataset, index):
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    save(folder, series_of(ramp(1), uid=STUDY + ".3", edit=scout))
    save(folder, [header(STUDY + ".4.1", STUDY + ".4", "SR", "1.2.840.10008.5.1.4.1.1.88.22")])
    save(
        folder, [header(STUDY + ".5.1", STUDY + ".5", "RTSTRUCT", "1.2.840.10008.5.1.4.1.1.481.3")]
    )
    (folder / "notes.txt").write_text("not DICOM")
    (folder / ".hidden.dcm").write_bytes(b"left by a Mac")
    assert read(folder).spatial_shape == (7, 6, 5)


def test_a_folder_without_a_series_says_what_it_holds(tmp_path):
    save(tmp_path, [header(STUDY + ".4.1", STUDY + ".4", "SR", "1.2.840.10008.5.1.4.1.1.88.22")])
    (tmp_path / "notes.txt").write_text("not DICOM")
    with pytest.raises(DataError, match="no DICOM image series; found: 1 SR, 1 other files"):
        find_series(tmp_path)


def test_files_can_be_given_one_by_one(tmp_path):
    save(tmp_path / "s", series_of(ramp()))
    assert read(sorted((tmp_path / "s").iterdir())[1:4]).spatial_shape == (7, 6, 3)


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="There is no file"):
        find_series(tmp_path / "nowhere")


def test_dicom_is_recognised_by_its_first_bytes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("not DICOM")
    assert not is_dicom(tmp_path / "a")
    assert not is_dicom(tmp_path / "a" / "notes.txt")
    assert not is_dicom(tmp_path / "nowhere")
    save(tmp_path / "b" / "deep", series_of(ramp(1)))
    assert is_dicom(tmp_path / "b")
    assert is_dicom(tmp_path / "b" / "deep" / "I000")


def test_a_slice_is_a_file(tmp_path):
    save(tmp_path / "a", series_of(ramp(1)))
    assert is_slice(tmp_path / "a" / "I000")
    assert not is_slice(tmp_path / "a")
    assert not is_slice(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("not DICOM")
    assert not is_slice(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("PixelSpacing", [0, 0.5], "PixelSpacing is 0.0, 0.5"),
        ("PixelSpacing", [0.5], "expected 2 finite numbers"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "right angle"),
        ("ImagePositionPatient", None, "no ImagePositionPatient"),
        ("Rows", 0, "0 rows"),
        ("RescaleSlope", 0, "RescaleSlope is 0"),
        ("SeriesInstanceUID", "", "no SeriesInstanceUID"),
        ("NumberOfFrames", 7, "7 frames and describes 0"),
    ],
)
def test_a_header_that_cannot_be_is_refused_by_file(tmp_path, keyword, value, expected):
    def edit(dataset, index):
        if index == 2:
            setattr(dataset, keyword, value)

    save(tmp_path / "s", series_of(ramp(), edit=edit))
    with pytest.raises(DataError, match=f"I002.*{expected}"):
        read(tmp_path / "s")


def test_a_dcm_file_that_is_none_is_refused_not_skipped(tmp_path):
    folder = save(tmp_path / "s", series_of(ramp()))
    (folder / "last.dcm").write_bytes(b"\0" * 500)
    with pytest.raises(DataError, match=r"last\.dcm.*does not begin"):
        read(folder)


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ConfigError, match=r"transunet-torch\[dicom\]"):
        find_series(tmp_path)


def test_the_error_of_a_missing_choice_lists_the_choices(tmp_path):
    save(tmp_path / "s", series_of(ramp()))
    save(tmp_path / "s", series_of(ramp(4), uid=STUDY + ".2"))
    with pytest.raises(SeveralSeriesError, match=r"series=1 in Python.*--series 1") as several:
        read(tmp_path / "s")
    expected = [
        SeriesChoice(1, STUDY + ".1", "CT", "made", 5, ""),
        SeriesChoice(2, STUDY + ".2", "CT", "made", 4, ""),
    ]
    with pytest.raises(NoSuchSeriesError) as none:
        read(tmp_path / "s", 3)
    for error in (several.value, none.value):
        assert list(error.choices) == expected
        sent = pickle.loads(pickle.dumps(error))
        assert (str(sent), sent.choices) == (str(error), error.choices)


def test_a_volume_knows_its_modality(tmp_path):
    assert modality(read(save(tmp_path / "s", series_of(ramp())))) == "CT"
    assert modality(Volume(np.zeros((1, 2, 2, 2)), np.eye(4))) is None

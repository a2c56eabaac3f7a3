"""Which files make a series, and when its slices make a grid."""

import pickle
import sys

import numpy as np
import pytest

from dicom_made import AXIAL, OBLIQUE, STUDY, enhanced, header, positions, ramp, save, series_of
from transunet.data.formats.dicom import read, read_grid
from transunet.data.formats.dicom.headers import is_dicom, is_slice, why_no_slice
from transunet.data.formats.dicom.series import (
    ListedSeries,
    NoSuchSeriesError,
    SeveralSeriesError,
    choose_series,
    find_series,
    listing,
)
from transunet.errors import ConfigError, DataError, GeometryError

pydicom = pytest.importorskip("pydicom", reason="needs the extra [dicom]")

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
    save(tmp_path / "s", series_of(ramp()))
    save(tmp_path / "s", series_of(ramp() + 1), [1])
    with pytest.raises(GeometryError, match=r"32\.50 mm \(I001, I005\)"):
        read(tmp_path / "s")


@pytest.mark.parametrize("renamed", [False, True])
def test_identical_copies_of_slices_count_once(tmp_path, renamed):
    def rename(dataset, index):
        dataset.SOPInstanceUID += ".7" * renamed

    save(tmp_path / "s", series_of(ramp()))
    save(tmp_path / "s" / "again", series_of(ramp(), edit=rename), [1, 3, 4])
    volume = read(tmp_path / "s")
    np.testing.assert_array_equal(volume.array, ramp().transpose(2, 1, 0)[None])
    assert volume.header.passed_over == {"identical copies of slices": 3}


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


MARKS = [
    ("EchoTime", (2.3, 4.6)),
    ("DiffusionBValue", (0.0, 800.0)),
    ("TemporalPositionIdentifier", (1, 2)),
    ("AcquisitionNumber", (1, 2)),
    ("AcquisitionTime", ("101500", "101700")),
]


def two_stacks(folder, keyword, values, thickness=2.5, offset=1.25, sizes=(5, 5)):
    """Two stacks with steps of 2.5 mm, `offset` mm apart, in one series."""
    for number, value in enumerate(values):

        def edit(dataset, index, number=number, value=value):
            setattr(dataset, keyword, value)
            dataset.SOPInstanceUID += f".{number}"
            dataset.SliceThickness = thickness

        where = positions(sizes[number], origin=(-10.0, -20.0, 30.0 + number * offset))
        save(folder, series_of(ramp(sizes[number]) + number, where=where, edit=edit))
    return folder


@pytest.mark.parametrize(("keyword", "values"), MARKS)
@pytest.mark.parametrize("sizes", [(5, 5), (5, 4)])
@pytest.mark.parametrize("offset", [1.25, 0.8])
def test_two_stacks_between_each_other_are_two_images(tmp_path, keyword, values, sizes, offset):
    folder = two_stacks(tmp_path, keyword, values, sizes=sizes, offset=offset)
    with pytest.raises(SeveralSeriesError, match=f"{keyword} {values[0]}"):
        read(folder)
    for number, size in enumerate(sizes):
        volume = read(folder, number + 1)
        assert volume.spacing_mm == pytest.approx((0.75, 0.5, 2.5))
        np.testing.assert_array_equal(
            volume.array, ramp(size).transpose(2, 1, 0)[None] + np.int16(number)
        )


def test_three_stacks_between_each_other_are_three_images(tmp_path):
    folder = two_stacks(tmp_path, "EchoTime", (1, 2, 3), offset=2.5 / 3, sizes=(5, 5, 5))
    assert [series.part for series in find_series(folder)] == [f"EchoTime {n}.0" for n in (1, 2, 3)]


@pytest.mark.parametrize("lost", [(2,), (0, 3, 4)])
def test_a_stack_above_another_may_lack_slices(tmp_path, lost):
    for number in (1, 2):

        def edit(dataset, index, number=number):
            dataset.AcquisitionNumber = number
            dataset.SOPInstanceUID += f".{number}"

        order = [index for index in range(5) if number == 1 or index not in lost]
        save(tmp_path, series_of(ramp() + number, edit=edit), order)
    whole = read(tmp_path, 1)
    np.testing.assert_array_equal(whole.array, ramp().transpose(2, 1, 0)[None] + np.int16(1))
    assert [series.slices for series in find_series(tmp_path)] == [5, 5 - len(lost)]


def test_frames_of_a_multi_frame_file_between_each_other_are_two_images(tmp_path):
    where = positions(10, OBLIQUE, step=1.25)

    def edit(groups, index):
        item, place = pydicom.Dataset(), pydicom.Dataset()
        item.EffectiveEchoTime = 10.0 + index % 2
        place.ImagePositionPatient = [float(x) for x in where[index]]
        groups.MREchoSequence, groups.PlanePositionSequence = [item], [place]

    save(tmp_path, [enhanced(ramp(10), range(10), edit)])
    assert [series.part for series in find_series(tmp_path)] == [
        "EffectiveEchoTime 10.0",
        "EffectiveEchoTime 11.0",
    ]
    second = read(tmp_path, 2)
    assert second.spacing_mm == pytest.approx((0.75, 0.5, 2.5))
    np.testing.assert_array_equal(second.array, ramp(10)[1::2].transpose(2, 1, 0)[None] * 2.0 - 3)


def test_odd_and_even_slices_acquired_one_after_the_other_are_one_volume(tmp_path):
    folder = two_stacks(tmp_path, "AcquisitionNumber", (1, 2), thickness=1.25)
    assert read(folder).spacing_mm == pytest.approx((0.75, 0.5, 1.25))


def test_blocks_of_slices_acquired_one_after_the_other_are_one_volume(tmp_path):
    folder = two_stacks(tmp_path, "AcquisitionNumber", (1, 2), offset=12.5)
    assert read(folder).spatial_shape == (7, 6, 10)


def test_what_is_no_slice_is_skipped(tmp_path):
    folder = save(tmp_path / "s", series_of(ramp()))

    def scout(dataset, index):
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    def mosaic(dataset, index):
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]

    save(folder, series_of(ramp(1), uid=STUDY + ".3", edit=scout))
    save(folder, series_of(ramp(1), uid=STUDY + ".6", edit=mosaic))
    save(folder, [header(STUDY + ".4.1", STUDY + ".4", "SR", "1.2.840.10008.5.1.4.1.1.88.22")])
    save(
        folder, [header(STUDY + ".5.1", STUDY + ".5", "RTSTRUCT", "1.2.840.10008.5.1.4.1.1.481.3")]
    )
    (folder / "notes.txt").write_text("not DICOM")
    (folder / ".hidden.dcm").write_bytes(b"left by a Mac")
    (folder / "empty.dcm").touch()
    volume = read(folder)
    assert volume.spatial_shape == (7, 6, 5)
    kinds = ("localizer", "mosaic of many slices in one picture", "SR", "RTSTRUCT")
    expected = dict.fromkeys((*kinds, "other files", "empty files"), 1)
    assert volume.header.passed_over == expected


def screen_save(dataset, index):
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
    dataset.SOPInstanceUID += ".7"
    dataset.ImageType = ["DERIVED", "SECONDARY", "SCREEN SAVE"]


@pytest.mark.parametrize("uid", [STUDY + ".1", STUDY + ".5"])
def test_an_image_without_a_position_is_passed_over(tmp_path, uid):
    folder = save(tmp_path / "s", series_of(ramp()))
    save(folder, series_of(ramp(1), uid=uid, edit=screen_save))
    for series in (None, STUDY + ".1"):
        volume = read(folder, series)
        assert volume.spatial_shape == (7, 6, 5)
        assert volume.header.passed_over == {"CT image without a position": 1}


def test_what_is_wrong_with_another_series_does_not_matter_by_uid(tmp_path):
    def damage(dataset, index):
        dataset.PixelSpacing = [0, 0]

    folder = save(tmp_path / "s", series_of(ramp()))
    save(folder, series_of(ramp(), uid=STUDY + ".5", edit=damage))
    assert read(folder, STUDY + ".1").spatial_shape == (7, 6, 5)
    for series in (None, 1, STUDY + ".5", "1.2.3"):
        with pytest.raises(DataError, match="PixelSpacing"):
            read(folder, series)


def test_parts_of_the_wanted_series_are_numbered_among_all(tmp_path):
    def first(dataset, index):
        dataset.SeriesNumber = 1

    save(tmp_path / "s", series_of(ramp(3), uid=STUDY + ".5", edit=first))
    two_stacks(tmp_path / "s", "EchoTime", (1, 2))
    with pytest.raises(SeveralSeriesError) as error:
        read(tmp_path / "s", STUDY + ".1")
    assert [choice.part for choice in error.value.choices] == ["", "EchoTime 1.0", "EchoTime 2.0"]


@pytest.mark.parametrize("kept", ["meta", "explicit", "implicit", "big", "magic"])
def test_files_without_a_preamble_or_meta_information(tmp_path, kept):
    for index, dataset in enumerate(series_of(ramp())):
        if kept == "big":
            dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.2"
            dataset.PixelData = ramp()[index].astype(">i2").tobytes()
        if kept == "implicit":
            dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
        dataset.save_as(path := tmp_path / f"I{index:03}", enforce_file_format=True)
        content = path.read_bytes()
        meta = 144 + pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength
        starts = {"meta": content[132:], "magic": content[:132] + content[meta:]}
        path.write_bytes(starts.get(kept, content[meta:]))
    assert is_slice(tmp_path / "I000")
    np.testing.assert_array_equal(read(tmp_path).array, ramp().transpose(2, 1, 0)[None])


def test_images_that_do_not_say_of_which_class_they_are_are_read(tmp_path):
    for index, dataset in enumerate(series_of(ramp())):
        del dataset.SOPClassUID
        dataset.save_as(tmp_path / f"{index}.dcm", implicit_vr=False, little_endian=True)
    assert (
        "MediaStorageSOPClassUID" not in pydicom.dcmread(tmp_path / "0.dcm", force=True).file_meta
    )
    assert read(tmp_path).spatial_shape == (7, 6, 5)


def test_what_is_no_slice_is_named(tmp_path):
    report, document = "1.2.840.10008.5.1.4.1.1.88.22", "1.2.840.10008.5.1.4.1.1.104.1"
    save(tmp_path, [header(STUDY + ".4.1", STUDY + ".4", "SR", report)])
    save(tmp_path, [header(STUDY + ".6.1", STUDY + ".6", "CT", document)])
    save(tmp_path, series_of(ramp(1), uid=STUDY + ".5", edit=screen_save))
    save(tmp_path, series_of(ramp(1)))
    (tmp_path / "I004").touch()
    (tmp_path / "I005").write_text("a text")
    (tmp_path / "I006").write_bytes((tmp_path / "I003").read_bytes()[:300])
    assert [why_no_slice(path) for path in sorted(tmp_path.iterdir())] == [
        "SR",
        "CT object without pixels",
        "CT image without a position",
        None,
        "empty files",
        "other files",
        None,  # damaged: reading it tells
    ]


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
        ListedSeries(1, STUDY + ".1", "CT", "made", 5, ""),
        ListedSeries(2, STUDY + ".2", "CT", "made", 4, ""),
    ]
    with pytest.raises(NoSuchSeriesError) as none:
        read(tmp_path / "s", 3)
    for error in (several.value, none.value):
        assert list(error.choices) == expected
        sent = pickle.loads(pickle.dumps(error))
        assert (str(sent), sent.choices) == (str(error), error.choices)

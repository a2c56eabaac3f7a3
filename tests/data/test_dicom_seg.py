"""DICOM segmentations: written from label maps, read back equal, by us and by highdicom."""

import sys
from itertools import permutations, product

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dicom_made import OBLIQUE, STUDY, enhanced, positions, ramp, save, series_of, two_echoes
from transunet.colours import colour_of
from transunet.data.formats import dicom, read_label_pair, read_labels, write_volume
from transunet.data.formats.dicom.codes import LOCAL, SYNONYMS, structure
from transunet.data.formats.dicom.segmentation import (
    check_source,
    read_seg,
    segment_names,
    write_seg,
)
from transunet.data.regions import Region
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError, GeometryError
from transunet.optional import own_version

pydicom = pytest.importorskip("pydicom", reason="needs the extra [dicom]")
highdicom = pytest.importorskip("highdicom", reason="needs the extra [dicom]")

pytestmark = pytest.mark.slow

NAMES = {0: "background", 1: "liver", 2: "left kidney", 3: "Leberläsion 肝"}


@pytest.fixture
def image(tmp_path):
    save(tmp_path / "s", series_of(ramp(), directions=OBLIQUE), [3, 0, 4, 1, 2])
    return dicom.read(tmp_path / "s")


@pytest.fixture
def labels(image, rng):
    array = rng.integers(0, 4, image.array.shape).astype(np.uint8)
    array[..., 1] = 0  # an empty slice, which the file leaves out
    return image.with_array(array)


def test_a_label_map_comes_back_equal(tmp_path, image, labels):
    write_seg(labels, image, NAMES, tmp_path / "l.dcm")
    back = read_seg(tmp_path / "l.dcm", image)
    assert back.array.dtype == np.uint8
    np.testing.assert_array_equal(back.array, labels.array)
    np.testing.assert_array_equal(back.affine, image.affine)
    assert segment_names(tmp_path / "l.dcm") == {n: NAMES[n] for n in (1, 2, 3)}


@pytest.mark.parametrize("count", [3, pytest.param(300, marks=pytest.mark.exhaustive)])
def test_a_label_map_of_numbers_comes_back_equal_and_compressed(tmp_path, image, labels, count):
    names = {number: f"structure {number}" for number in range(1, count + 1)}
    wide = labels.with_array(np.where(labels.array == 3, count, labels.array).astype(np.uint16))
    write_seg(wide, image, names, tmp_path / "l.dcm", labelmap=True)
    np.testing.assert_array_equal(read_seg(tmp_path / "l.dcm", image).array, wide.array)
    assert segment_names(tmp_path / "l.dcm") == names
    seg = pydicom.dcmread(tmp_path / "l.dcm")
    assert seg.file_meta.TransferSyntaxUID.name == "RLE Lossless"
    assert (seg.SegmentationType, seg.NumberOfFrames) == ("LABELMAP", 4)  # without the empty slice


def test_overlapping_regions_are_no_label_map(image):
    regions = [Region(name="whole", members=(1, 2), label=1)]
    with pytest.raises(ConfigError, match=r"regions overlap.*dicom-seg"):
        check_source(image, NAMES, regions, labelmap=True)


def test_segments_have_the_colours_of_sheets_and_page(tmp_path, image, labels):
    """Also of regions: as their labels are drawn, not as their segments are numbered."""
    write_seg(labels, image, NAMES, tmp_path / "l.dcm")
    regions = [
        Region(name="whole", members=(1, 2), label=2),
        Region(name="core", members=(1,), label=1),
    ]
    write_seg(labels, image, NAMES, tmp_path / "r.dcm", regions)
    for path, indices in ((tmp_path / "l.dcm", [0, 1, 2]), (tmp_path / "r.dcm", [1, 0])):
        told = [
            highdicom.color.CIELabColor.from_dicom_value(item.RecommendedDisplayCIELabValue)
            for item in pydicom.dcmread(path).SegmentSequence
        ]
        drawn = [tuple(bytes.fromhex(colour_of(index)[1:])) for index in indices]
        np.testing.assert_allclose([colour.to_rgb() for colour in told], drawn, atol=1)


def test_highdicom_reads_the_same_labels_by_source_instance(tmp_path, image, labels):
    write_seg(labels, image, NAMES, tmp_path / "l.dcm")
    seg = highdicom.seg.segread(tmp_path / "l.dcm")
    instances = [f"{STUDY}.1.{index + 1}" for index in range(5)]  # as the slices were made
    theirs = seg.get_pixels_by_source_instance(
        instances, combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(theirs.transpose(2, 1, 0), labels.array[0])
    assert [uid for _, _, uid in seg.get_source_image_uids()] == instances


def test_regions_are_segments_that_overlap_and_come_back(tmp_path, image, labels):
    """By whole regions, so that any viewer shows a tumour and not the ring around its core."""
    regions = [
        Region(name="whole", members=(1, 2, 4), label=2),
        Region(name="core", members=(1, 4), label=1),
        Region(name="enhancing", members=(4,), label=4),
    ]
    labels = labels.with_array(np.array([0, 1, 2, 4], np.uint8)[labels.array])
    check_source(image, NAMES, regions)
    write_seg(labels, image, NAMES, tmp_path / "l.dcm", regions)
    assert segment_names(tmp_path / "l.dcm") == {1: "whole", 2: "core", 3: "enhancing"}
    seg = highdicom.seg.segread(tmp_path / "l.dcm")
    instances = [f"{STUDY}.1.{index + 1}" for index in range(5)]
    theirs = seg.get_pixels_by_source_instance(instances, assert_missing_frames_are_empty=True)
    for index, region in enumerate(regions):
        expected = np.isin(labels.array[0], region.members).transpose(2, 1, 0)
        np.testing.assert_array_equal(theirs[..., index], expected)
    back = read_seg(tmp_path / "l.dcm", image).array
    np.testing.assert_array_equal(back, np.array([0, 2, 1, 0, 3])[labels.array])
    write_seg(labels.with_array(labels.array * 0), image, NAMES, tmp_path / "e.dcm", regions)
    assert not read_seg(tmp_path / "e.dcm", image).array.any()


def test_what_the_file_says_of_itself(tmp_path, image, labels):
    write_seg(labels, image, NAMES, tmp_path / "l.dcm", fingerprint="0b" * 32)
    seg = pydicom.dcmread(tmp_path / "l.dcm")
    assert (seg.PatientName, seg.StudyInstanceUID) == ("Test^Case", STUDY)
    assert seg.SeriesInstanceUID != image.header.uid
    liver, kidney, lesion = seg.SegmentSequence
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    kind = kidney.SegmentedPropertyTypeCodeSequence[0]
    assert kind.CodeValue == "64033007"
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    local = lesion.SegmentedPropertyTypeCodeSequence[0]
    assert (local.CodingSchemeDesignator, local.CodeMeaning) == (LOCAL, NAMES[3])
    method = liver.SegmentationAlgorithmIdentificationSequence[0]
    assert (method.AlgorithmName, method.AlgorithmVersion) == ("TransUNet", own_version())
    assert method.AlgorithmParameters == "bundle_sha256=" + "0b" * 32
    assert (liver.TrackingID, kidney.TrackingID) == ("liver", "left kidney")
    assert len({item.TrackingUID for item in seg.SegmentSequence}) == 3


def test_labels_with_turned_axes_are_turned_back(tmp_path, image, labels):
    write_seg(labels.reoriented("RAS"), image.header, NAMES, tmp_path / "l.dcm")
    np.testing.assert_array_equal(read_seg(tmp_path / "l.dcm", image).array, labels.array)
    turned = read_seg(tmp_path / "l.dcm", image.reoriented("SPL"))
    np.testing.assert_array_equal(turned.reoriented(image.orientation).array, labels.array)


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("StudyInstanceUID", None, "StudyInstanceUID, which 1 of its 5 files lack"),
        ("FrameOfReferenceUID", None, "FrameOfReferenceUID, which 1 of its 5 files lack"),
        ("SOPInstanceUID", "", "SOPInstanceUID, which 1 of its 5 files lack"),
        ("StudyInstanceUID", "1.2.3", "2 values of StudyInstanceUID"),
        ("FrameOfReferenceUID", "1.2.3", "2 values of FrameOfReferenceUID"),
    ],
)
def test_a_source_that_cannot_be_referred_to_is_told_beforehand(tmp_path, keyword, value, expected):
    def edit(dataset, index):
        if index == 3:
            dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
            setattr(dataset, keyword, value)

    save(tmp_path / "s", series_of(ramp(), edit=edit))
    image = dicom.read(tmp_path / "s")
    with pytest.raises(DataError, match=expected):
        check_source(image, NAMES)
    with pytest.raises(DataError, match=expected):
        write_seg(image.with_array(image.array.astype(np.uint8) * 0), image, NAMES, tmp_path / "l")


def test_a_source_that_can_be_referred_to_passes(image):
    check_source(image, NAMES)
    check_source(image.header, NAMES)
    with pytest.raises(ConfigError, match="without gaps"):
        check_source(image, {2: "liver"})
    with pytest.raises(ConfigError, match=r"not read from a DICOM series.*NIfTI"):
        check_source(Volume(image.array, image.affine), NAMES)


def test_the_file_tells_how_far_slices_are_apart(tmp_path, image, labels):
    labels.array[..., [0, 2, 4]] = 0
    write_seg(labels, image, NAMES, tmp_path / "l.dcm")
    measures = pydicom.dcmread(tmp_path / "l.dcm").SharedFunctionalGroupsSequence[0]
    assert measures.PixelMeasuresSequence[0].SpacingBetweenSlices == 2.5


def test_an_empty_label_map(tmp_path, image):
    empty = image.with_array(np.zeros(image.array.shape, np.uint8))
    write_seg(empty, image, NAMES, tmp_path / "l.dcm")
    assert not read_seg(tmp_path / "l.dcm", image).array.any()


def test_a_multi_frame_source(tmp_path, rng):
    save(tmp_path / "s", [enhanced(ramp(), [3, 0, 4, 1, 2])])
    image = dicom.read(tmp_path / "s")
    labels = image.with_array(rng.integers(0, 3, image.array.shape).astype(np.uint8))
    write_seg(labels, image, NAMES, tmp_path / "l.dcm")
    np.testing.assert_array_equal(read_seg(tmp_path / "l.dcm", image).array, labels.array)
    seg = highdicom.seg.segread(tmp_path / "l.dcm")
    theirs = seg.get_pixels_by_source_frame(
        STUDY + ".7.1", [1, 2, 3, 4, 5], combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(theirs[[1, 3, 4, 0, 2]].transpose(2, 1, 0), labels.array[0])


def test_one_of_two_echoes_in_a_multi_frame_source(tmp_path, rng):
    save(tmp_path / "s", [two_echoes()])
    image = dicom.read(tmp_path / "s", 2)
    labels = image.with_array(rng.integers(0, 3, image.array.shape).astype(np.uint8))
    write_seg(labels, image, NAMES, tmp_path / "l.dcm")
    np.testing.assert_array_equal(read_seg(tmp_path / "l.dcm", image).array, labels.array)
    seg = highdicom.seg.segread(tmp_path / "l.dcm")
    theirs = seg.get_pixels_by_source_frame(
        STUDY + ".7.1",
        [6, 7, 8, 9, 10],  # the second echo's
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    np.testing.assert_array_equal(theirs.transpose(2, 1, 0), labels.array[0])


def test_headers_that_were_emptied_still_make_a_file(tmp_path, rng):
    def anonymise(dataset, index):
        for keyword in ("PatientName", "PatientID", "SeriesNumber", "SeriesDescription"):
            delattr(dataset, keyword)
        del dataset.SliceThickness

    save(tmp_path / "s", series_of(ramp(), edit=anonymise))
    image = dicom.read(tmp_path / "s")
    labels = image.with_array(rng.integers(0, 2, image.array.shape).astype(np.uint8))
    write_seg(labels, image, {1: "a\\b\n" + "x" * 99}, tmp_path / "l.dcm")
    np.testing.assert_array_equal(read_seg(tmp_path / "l.dcm", image).array, labels.array)
    assert segment_names(tmp_path / "l.dcm")[1].startswith("a b xxx")


def test_a_name_in_another_character_set_is_kept(tmp_path):
    def latin(dataset, index):
        dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 100", "Müller^Jörg"

    save(tmp_path / "s", series_of(ramp(), edit=latin))
    image = dicom.read(tmp_path / "s")
    labels = image.with_array(np.ones(image.array.shape, np.uint8))
    write_seg(labels, image, NAMES, tmp_path / "l.dcm")
    assert pydicom.dcmread(tmp_path / "l.dcm").PatientName == "Müller^Jörg"


def test_the_format_writes_a_seg_with_numbered_segments(tmp_path, image, labels):
    dicom.write(labels, tmp_path / "l.dcm")
    assert segment_names(tmp_path / "l.dcm") == {1: "label 1", 2: "label 2", 3: "label 3"}
    back = read_labels(tmp_path / "l.dcm", image.grid)
    np.testing.assert_array_equal(back.array, labels.array)


@pytest.mark.parametrize("kept", [(0, 4), (2,), (1, 2, 3), (0, 2, 4)])
def test_without_an_image_it_reaches_from_the_first_slice_to_the_last(tmp_path, image, kept):
    array = np.zeros(image.array.shape, np.uint8)
    array[..., list(kept)] = 2
    write_seg(image.with_array(array), image, NAMES, tmp_path / "l.dcm")
    alone = read_labels(tmp_path / "l.dcm")
    reach = slice(kept[0], kept[-1] + 1)
    there = alone.reoriented(image.orientation)
    np.testing.assert_array_equal(there.array, array[..., reach])
    start = image.affine @ [0, 0, kept[0], 1]
    np.testing.assert_allclose(there.affine[:3, :3], image.affine[:3, :3], atol=1e-6)
    np.testing.assert_allclose(there.affine[:, 3], start, atol=1e-6)


def test_two_files_are_read_on_a_grid_that_both_have(tmp_path, image, labels):
    first, second = tmp_path / "first.dcm", tmp_path / "second.dcm"
    for path, inside in ((first, [0, 2]), (second, [3])):
        array = np.zeros_like(labels.array)
        array[..., inside] = labels.array[..., inside]
        write_seg(image.with_array(array), image, NAMES, path)
        write_volume(image.with_array(array), path.with_suffix(".nii.gz"))
    a, b = read_label_pair(first, second)
    assert a.spatial_shape == b.spatial_shape == (7, 6, 4)
    np.testing.assert_array_equal(a.affine, b.affine)
    for others in (
        (first, second, tmp_path / "s"),
        (first.with_suffix(".nii.gz"), second),
        (first, second.with_suffix(".nii.gz")),
    ):
        a, b = (one.reoriented(image.orientation) for one in read_label_pair(*others))
        np.testing.assert_array_equal(a.array[..., 3:], 0)
        np.testing.assert_array_equal(b.array[..., 3], labels.array[..., 3])
        np.testing.assert_array_equal(a.array[..., [0, 2]], labels.array[..., [0, 2]])


def test_frames_without_a_grid_of_their_own_need_the_image(tmp_path, image, labels):
    labels.array[..., 1] = 1
    write_seg(labels, image, NAMES, tmp_path / "l.dcm")
    seg = pydicom.dcmread(tmp_path / "l.dcm")
    for group in seg.PerFrameFunctionalGroupsSequence[:1]:
        place = group.PlanePositionSequence[0].ImagePositionPatient
        group.PlanePositionSequence[0].ImagePositionPatient = [place[0], place[1] + 0.6, place[2]]
    seg.save_as(tmp_path / "l.dcm")
    with pytest.raises(GeometryError, match="Give the image"):
        read_labels(tmp_path / "l.dcm")


@pytest.mark.parametrize("names", [{}, {0: "background"}, {1: "a", 3: "c"}, {1: "a"}])
def test_names_that_do_not_fit_the_labels(tmp_path, image, labels, names):
    with pytest.raises(ConfigError, match="without gaps"):
        write_seg(labels, image, names, tmp_path / "l.dcm")


def test_labels_on_another_grid_are_refused(tmp_path, image, labels):
    shifted = labels.affine.copy()
    shifted[0, 3] += 1
    moved = Volume(labels.array, shifted, "moved")
    with pytest.raises(GeometryError, match=r"moved.*grid"):
        write_seg(moved, image, NAMES, tmp_path / "l.dcm")
    write_seg(labels, image, NAMES, tmp_path / "l.dcm")
    with pytest.raises(GeometryError, match=r"l\.dcm.*moved"):
        read_seg(tmp_path / "l.dcm", Volume(image.array, shifted, "moved"))


def test_an_image_that_is_no_series_is_refused(tmp_path, labels):
    with pytest.raises(ConfigError, match=r"not read from a DICOM series.*NIfTI"):
        write_seg(labels, Volume(labels.array, labels.affine), NAMES, tmp_path / "l.dcm")


def test_overlapping_segments_are_refused(tmp_path, image, labels):
    write_seg(labels, image, NAMES, tmp_path / "l.dcm")
    seg = pydicom.dcmread(tmp_path / "l.dcm")
    seg.PixelData = b"\xff" * len(seg.PixelData)
    seg.save_as(tmp_path / "l.dcm")
    with pytest.raises(DataError, match="overlap"):
        read_seg(tmp_path / "l.dcm", image)


@pytest.mark.parametrize("kind", ["FRACTIONAL", "LABELMAP"])
def test_segmentations_of_other_kinds_are_read(tmp_path, image, labels, kind):
    liver = highdicom.seg.SegmentDescription(
        1,
        "liver",
        pydicom.sr.codedict.codes.SCT.Organ,
        pydicom.sr.codedict.codes.SCT.Liver,
        "MANUAL",
    )
    mask = (labels.array[0].transpose(2, 1, 0) == 1).astype(np.uint8)
    stored = mask * 0.6 + 0.2 if kind == "FRACTIONAL" else mask
    sources = image.header.datasets
    for dataset in sources:
        for keyword in ("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
            dataset.setdefault(keyword, "")
        dataset.StudyDate = dataset.StudyTime = ""
    told = ("1.2.3", 1, "1.2.4", 1, "maker", "model", "version", "serial")
    seg = highdicom.seg.Segmentation(sources, stored, kind, [liver], *told)
    seg.save_as(tmp_path / "o.dcm")
    back = read_seg(tmp_path / "o.dcm", image)
    np.testing.assert_array_equal(back.array[0].transpose(2, 1, 0), mask)


def test_what_is_no_segmentation_is_refused(tmp_path, image):
    with pytest.raises(DataError, match="no DICOM segmentation"):
        read_seg(tmp_path / "s" / "I000", image)
    (tmp_path / "t.dcm").write_text("text")
    with pytest.raises(DataError, match="no DICOM file"):
        read_seg(tmp_path / "t.dcm", image)
    with pytest.raises(ConfigError, match="no file"):
        read_seg(tmp_path / "nowhere.dcm", image)


def test_a_segmentation_beside_its_series_is_not_read_as_slices(tmp_path, image, labels):
    write_seg(labels, image, NAMES, tmp_path / "s" / "l.dcm")
    assert dicom.read(tmp_path / "s").spatial_shape == image.spatial_shape


def test_without_highdicom_the_extra_is_named(tmp_path, image, labels, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ConfigError, match=r"transunet-torch\[dicom\]"):
        write_seg(labels, image, NAMES, tmp_path / "l.dcm")


@pytest.mark.parametrize("word", SYNONYMS)
def test_other_words_mean_a_structure_of_the_standard(word):
    assert structure(word).kind.scheme_designator == "SCT"


@pytest.mark.parametrize(
    ("name", "code", "side"),
    [
        ("Liver", "10200004", None),
        ("kidney_right", "64033007", "Right"),
        ("Left ventricle", "87878005", None),
        ("tumour", "108369006", None),
        ("Bone", "272673000", None),
        ("myocardium", "74281007", None),
        ("brainstem", "119238007", None),
        ("CSF", "65216001", None),
        ("left adrenal gland", "23451007", "Left"),
        ("oesophagus", "32849002", None),
        ("lung-L", "39607008", "Left"),
        ("left and right lung", None, None),
        ("Anterior", None, None),
    ],
)
def test_names_find_their_codes(name, code, side):
    found = structure(name)
    assert found.kind.scheme_designator == ("SCT" if code else LOCAL)
    if code:
        assert found.kind.value == code
    assert (found.side.meaning if found.side else None) == side
    abnormal = found.category.meaning == "Morphologically Abnormal Structure"
    assert abnormal == (name == "tumour")
    assert structure(name) == found
    assert len(found.kind.value) <= 16


def test_positions_helper_agrees_with_the_reader(image):
    lps = np.diag([-1, -1, 1, 1]) @ image.affine
    np.testing.assert_allclose(lps[:3, 3], positions(5, OBLIQUE)[0])


ORIENTATIONS = [
    "".join(codes) for axes in permutations(("LR", "PA", "IS")) for codes in product(*axes)
]


@pytest.mark.parametrize(
    "axes", [pytest.param("straight", marks=pytest.mark.exhaustive), "oblique"]
)
def test_all_48_orientations_end_with_every_label_on_its_own_voxel(tmp_path, rng, axes):
    """Sliced along each axis, in both directions, rows and columns swapped and turned."""
    affine = np.diag([0.5, 0.75, 2.5, 1.0])
    if axes == "oblique":
        turn = Rotation.from_euler("xyz", [11, -7, 19], degrees=True).as_matrix()
        affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = 7, -11, 13
    numbers = rng.integers(0, 3, (1, 3, 4, 5)).astype(np.uint8)  # alike from no other side
    reference = Volume(numbers, affine, "reference")
    for orientation in ORIENTATIONS:
        turned = reference.reoriented(orientation)
        towards = np.diag([-1, -1, 1]) @ turned.affine[:3]  # DICOM's convention, LPS
        mm = np.linalg.norm(towards[:, :3], axis=0)
        directions = (towards[:, :3] / mm).T
        where = towards[:, 3] + np.arange(turned.spatial_shape[2])[:, None] * towards[:, 2]
        planes = turned.array[0].transpose(2, 1, 0).astype(np.int16)
        made = series_of(
            planes,
            where=where,
            directions=tuple(directions[:2].ravel().tolist()),
            spacing=(mm[1], mm[0]),
        )
        image = dicom.read(save(tmp_path / orientation, made))
        labels = image.with_array(image.array.astype(np.uint8))
        for labelmap in (False, True):
            write_seg(labels, image, NAMES, tmp_path / "l.dcm", labelmap=labelmap)
            back = read_seg(tmp_path / "l.dcm", reference)
            np.testing.assert_array_equal(back.array, numbers, err_msg=orientation)

"""Which prediction belongs to which reference."""

import json

import numpy as np
import pytest

from dicom_made import ramp, save, series_of
from transunet.data.formats import case_of_mask
from transunet.errors import ConfigError, DataError
from transunet.evaluation.pairs import files_in, match, references_in


def names(pairs):
    return [(pair.name, pair.prediction.name, pair.reference.name) for pair in pairs]


@pytest.fixture
def touch():
    def make(folder, *files):
        folder.mkdir(parents=True, exist_ok=True)
        for name in files:
            (folder / name).touch()
        return folder

    return make


@pytest.fixture
def dataset(tmp_path, touch):
    """An nnU-Net data set of two cases, with a label value that is not consecutive."""
    folder = tmp_path / "dataset"
    touch(folder / "imagesTr", "one_0000.nii.gz", "two_0000.nii.gz")
    touch(folder / "labelsTr", "one.nii.gz", "two.nii.gz")
    labels = {"background": 0, "liver": 1, "spleen": 3}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_folders_are_matched_by_name_whatever_the_suffix(tmp_path, touch):
    predictions = touch(tmp_path / "p", "b.nii.gz", "a.nii", ".hidden.nii", "notes.txt")
    references = touch(tmp_path / "r", "a.nii.gz", "b.nii.gz")
    pairs, without = match(predictions, references_in(references))
    assert names(pairs) == [("a", "a.nii", "a.nii.gz"), ("b", "b.nii.gz", "b.nii.gz")]
    assert without == ()


def test_two_single_files_belong_together(tmp_path, touch):
    touch(tmp_path, "prediction.nii.gz", "truth.nii.gz")
    pairs, _ = match(tmp_path / "prediction.nii.gz", references_in(tmp_path / "truth.nii.gz"))
    assert names(pairs) == [("prediction", "prediction.nii.gz", "truth.nii.gz")]


def test_a_single_prediction_finds_its_reference_in_a_folder(tmp_path, touch):
    touch(tmp_path / "p", "b.nii.gz")
    references = references_in(touch(tmp_path / "r", "a.nii.gz", "b.nii.gz"))
    pairs, without = match(tmp_path / "p" / "b.nii.gz", references)
    assert names(pairs) == [("b", "b.nii.gz", "b.nii.gz")]
    assert without == ("a",)


def test_channel_numbers_of_nnunet_are_understood(tmp_path, touch):
    predictions = touch(tmp_path / "p", "liver_001_0000.nii.gz")
    references = references_in(touch(tmp_path / "r", "liver_001.nii.gz"))
    images = touch(tmp_path / "i", "liver_001_0000.nii.gz")
    ((pair,), _) = match(predictions, references, images)
    assert pair.name == "liver_001"
    assert [path.name for path in pair.images] == ["liver_001_0000.nii.gz"]


def test_a_number_that_is_part_of_the_name_is_kept(tmp_path, touch):
    predictions = touch(tmp_path / "p", "scan_0001.nii.gz", "scan_0002.nii.gz")
    references = references_in(touch(tmp_path / "r", "scan_0001.nii.gz", "scan_0002.nii.gz"))
    pairs, _ = match(predictions, references)
    assert [pair.name for pair in pairs] == ["scan_0001", "scan_0002"]


def test_a_missing_reference_is_named(tmp_path, touch):
    predictions = touch(tmp_path / "p", "a.nii.gz", "odd.nii.gz")
    references = references_in(touch(tmp_path / "r", "a.nii.gz", "b.nii.gz"))
    with pytest.raises(DataError, match=r"1 of 2 predictions .* no reference .*: odd\..* a, b"):
        match(predictions, references, subset=True)


def test_a_missing_prediction_is_named_unless_a_subset_is_asked_for(tmp_path, touch):
    predictions = touch(tmp_path / "p", "a.nii.gz")
    references = references_in(touch(tmp_path / "r", "a.nii.gz", "b.nii.gz", "c.nii.gz"))
    with pytest.raises(DataError, match=r"2 of 3 references .* no prediction .*: b, c\..*--subset"):
        match(predictions, references)
    pairs, without = match(predictions, references, subset=True)
    assert [pair.name for pair in pairs] == ["a"]
    assert without == ("b", "c")


def test_many_missing_cases_are_counted(tmp_path, touch):
    predictions = touch(tmp_path / "p", "case00.nii.gz")
    files = [f"case{index:02d}.nii.gz" for index in range(30)]
    references = references_in(touch(tmp_path / "r", *files))
    with pytest.raises(DataError, match="case08 and 21 more"):
        match(predictions, references)


def test_previews_and_probabilities_beside_volumes_are_passed_over(tmp_path, touch):
    folder = touch(tmp_path / "p", "a.nii.gz", "a.npz", "overlay.png")
    assert list(files_in(folder, "prediction")) == ["a"]
    assert list(files_in(touch(tmp_path / "q", "b.png", "b.npz"), "prediction")) == ["b"]


def test_folders_of_folders_are_matched_by_both_names(tmp_path, touch):
    for patient in ("p", "q"):
        touch(tmp_path / "out" / patient, "scan.nii.gz")
        touch(tmp_path / "references" / patient, "scan.nii.gz")
        touch(tmp_path / "out/probabilities" / patient, "scan.nii")
    touch(tmp_path / "out/.hidden", "x.nii.gz")
    pairs, _ = match(tmp_path / "out", references_in(tmp_path / "references"))
    assert [pair.name for pair in pairs] == ["p/scan", "q/scan"]
    assert pairs[1].reference == tmp_path / "references/q/scan.nii.gz"
    touch(tmp_path / "out", "top.nii.gz")
    assert set(files_in(tmp_path / "out", "prediction")) == {"top"}


def test_two_files_of_one_name_are_refused(tmp_path, touch):
    with pytest.raises(DataError, match=r"a\.nii and a\.nii\.gz are both case 'a'"):
        files_in(touch(tmp_path / "p", "a.nii", "a.nii.gz"), "prediction")


def test_an_empty_folder_is_refused(tmp_path, touch):
    with pytest.raises(DataError, match=r"no prediction here.*\.nii\.gz"):
        files_in(touch(tmp_path / "p", "readme.txt"), "prediction")


def test_paths_that_do_not_exist_are_wrong_use(tmp_path):
    with pytest.raises(ConfigError, match="no reference at"):
        references_in(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no prediction at"):
        files_in(tmp_path / "nowhere", "prediction")


def test_an_unknown_suffix_is_wrong_use(tmp_path, touch):
    touch(tmp_path, "labels.docx")
    with pytest.raises(ConfigError, match=r"no known suffix.*\.nii"):
        files_in(tmp_path / "labels.docx", "prediction")


def test_a_data_set_gives_labels_images_and_names(dataset, tmp_path, touch):
    references = references_in(dataset)
    assert [(one.key, one.name) for one in references.structures] == [
        ("1", "liver"),
        ("2", "spleen"),
    ]
    predictions = touch(tmp_path / "p", "one.nii.gz", "two_0000.nii.gz")
    pairs, _ = match(predictions, references)
    assert [pair.name for pair in pairs] == ["one", "two"]
    assert pairs[0].images == (dataset / "imagesTr" / "one_0000.nii.gz",)
    assert pairs[0].reference == dataset / "labelsTr" / "one.nii.gz"


def test_regions_of_a_data_set_are_what_is_measured(dataset):
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    (dataset / "dataset.json").write_text(json.dumps(content))
    structures = references_in(dataset).structures
    assert {one.name: one.values for one in structures} == {"whole": (1, 2), "core": (2,)}


def test_predictions_called_like_the_image_find_their_case(tmp_path, save, blocks):
    data = tmp_path / "btcv"
    save(data / "img" / "img0001.nii.gz", blocks().astype(np.int16))
    save(data / "label" / "label0001.nii.gz", blocks())
    save(tmp_path / "p" / "img0001.nii.gz", blocks())
    ((pair,), _) = match(tmp_path / "p", references_in(data))
    assert pair.name == "case0001"
    assert pair.reference.name == "label0001.nii.gz"


def test_a_split_of_a_data_set(tmp_path, touch):
    data = tmp_path / "data"
    for split, case in (("train", "a"), ("test", "b")):
        touch(data / split / "images", f"{case}.nii.gz")
        touch(data / split / "masks", f"{case}.nii.gz")
    (data / "labels.json").write_text(json.dumps({"background": 0, "cell": 1}))
    assert list(references_in(data, split="test").labels) == ["b"]
    with pytest.raises(ConfigError, match="'validation'; it has test, train"):
        references_in(data, split="validation")


def test_a_folder_of_label_maps_has_no_splits(tmp_path, touch):
    with pytest.raises(ConfigError, match="no splits"):
        references_in(touch(tmp_path / "r", "a.nii.gz"), split="test")


def test_images_that_belong_to_no_case_are_refused(tmp_path, touch):
    references = references_in(touch(tmp_path / "r", "a.nii.gz"))
    images = touch(tmp_path / "i", "x.nii.gz")
    with pytest.raises(DataError, match=r"no image is called like a case \(a\); found x"):
        match(touch(tmp_path / "p", "a.nii.gz"), references, images)


def test_a_case_without_an_image_is_shown_without(tmp_path, touch):
    references = references_in(touch(tmp_path / "r", "a.nii.gz", "b.nii.gz"))
    predictions = touch(tmp_path / "p", "a.nii.gz", "b.nii.gz")
    pairs, _ = match(predictions, references, touch(tmp_path / "i", "b.nii.gz"))
    assert [len(pair.images) for pair in pairs] == [0, 1]


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("c0.seg", "c0"),  # 3D Slicer's segmentation and label map
        ("c0-label", "c0"),
        ("C0_Mask", "C0"),
        ("isic_0001_segmentation", "isic_0001"),
        ("p1/scan_gt", "p1/scan"),
        ("c0", None),
        ("mask", None),
        ("mask_0001", None),
        ("unlabel", None),
    ],
)
def test_a_masks_name_tells_its_case(name, case):
    assert case_of_mask(name) == case


def test_links_to_folders_are_followed_and_end(tmp_path, touch, caplog):
    touch(tmp_path / "disk", "a.nii")
    (touch(tmp_path / "p" / "deep", "b.nii") / "up").symlink_to(tmp_path / "p")
    (tmp_path / "p" / "linked").symlink_to(tmp_path / "disk")
    assert list(files_in(tmp_path / "p", "prediction")) == ["deep/b", "linked/a"]
    assert "up is a link to" in caplog.text


def test_a_folder_of_slices_is_one_image(tmp_path, touch):
    pytest.importorskip("pydicom", reason="needs the extra [dicom]")
    predictions = touch(tmp_path / "p", "anna.nii", "ben.nii")
    for name in ("anna", "ben"):
        save(tmp_path / "images" / name, series_of(ramp(2)))
    references = references_in(predictions)
    pairs, _ = match(predictions, references, tmp_path / "images")
    assert [pair.images for pair in pairs] == [
        (tmp_path / "images" / "anna",),
        (tmp_path / "images" / "ben",),
    ]
    one = references_in(predictions / "ben.nii")
    (pair,), _ = match(predictions / "ben.nii", one, tmp_path / "images" / "anna")
    assert pair.images == (tmp_path / "images" / "anna",)


@pytest.mark.parametrize(
    "files",
    [
        ("scan_0000.nii.gz", "scan_0001.nii.gz"),
        ("scan.nii.gz", "scan_0000.nii.gz"),
        ("scan-label.nii.gz", "scan_seg.nii.gz"),
        ("scan.nii.gz", "SCAN.nii.gz"),
    ],
)
def test_two_predictions_of_one_case_are_refused_by_name(tmp_path, touch, files):
    references = references_in(touch(tmp_path / "r", "scan.nii.gz"))
    with pytest.raises(DataError) as refused:
        match(touch(tmp_path / "p", *files), references)
    assert "both predictions of case 'scan'. Keep one" in str(refused.value)
    assert all(name in str(refused.value) for name in files)


def test_two_references_of_one_case_are_refused_by_name(tmp_path, touch):
    references = references_in(touch(tmp_path / "r", "a-label.nrrd", "A_seg.nii.gz"))
    with pytest.raises(DataError, match=r"A_seg\.nii\.gz and a-label\.nrrd are both references"):
        match(touch(tmp_path / "p", "a.nii.gz"), references)
    pairs, _ = match(touch(tmp_path / "q", "a-label.nii.gz"), references, subset=True)
    assert names(pairs) == [("a-label", "a-label.nii.gz", "a-label.nrrd")]


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("c0.seg.nrrd", "c0-label.nrrd"),
        ("c0.nii.gz", "C0_mask.nii.gz"),
        ("C0_0000.nii.gz", "c0.nii.gz"),
        ("mu\u0308ller.nii.gz", "m\u00fcller.nii.gz"),
        ("C0.NII.GZ", "c0.nii.gz"),
    ],
)
def test_names_that_differ_in_spelling_alone_are_matched(tmp_path, touch, prediction, reference):
    references = references_in(touch(tmp_path / "r", reference))
    pairs, _ = match(touch(tmp_path / "p", prediction), references)
    assert [(pair.prediction.name, pair.reference.name) for pair in pairs] == [
        (prediction, reference)
    ]


def test_predictions_of_images_in_folders_belong_to_the_cases_of_a_data_set(tmp_path):
    image_module = pytest.importorskip("PIL.Image", reason="needs the extra [images]")
    mask = image_module.fromarray(np.eye(4, dtype=np.uint8))
    for patient in ("p1", "p2"):
        for folder in ("set/images", "set/masks", "predicted"):
            path = tmp_path / folder / patient / "0.png"
            path.parent.mkdir(parents=True)
            mask.save(path)
    pairs, without = match(tmp_path / "predicted", references_in(tmp_path / "set"))
    assert [(p.name, p.prediction.parent.name, p.reference.parent.name) for p in pairs] == [
        ("p1_0", "p1", "p1"),
        ("p2_0", "p2", "p2"),
    ]
    assert without == ()

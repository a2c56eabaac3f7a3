"""What a `dataset.json` lists, in the forms and spellings that people bring."""

import json
import unicodedata

import numpy as np
import pytest

from small_data import edit
from transunet.data.checks.check import check
from transunet.data.checks.corrections import fix
from transunet.data.inputs import find_inputs
from transunet.data.layouts import open_dataset
from transunet.errors import DataError


def entry(number, part="Tr", **more):
    name = f"toy_{number:02d}.nii.gz"
    return {"image": f"./images{part}/{name}", "label": f"./labels{part}/{name}", **more}


def move(folder, number, part):
    for kind in ("images", "labels"):
        (folder / f"{kind}{part}").mkdir(exist_ok=True)
        name = f"toy_{number:02d}.nii.gz"
        (folder / f"{kind}Tr/{name}").rename(folder / f"{kind}{part}/{name}")


def splits(folder):
    return {case.name: case.split for case in open_dataset(folder).cases}


@pytest.mark.parametrize("key", ["validation", "val"])
@pytest.mark.parametrize("part", ["Tr", "Va"])
def test_a_validation_list_marks_its_cases(decathlon, key, part):
    folder = decathlon()
    if part == "Va":
        move(folder, 3, part)
    edit(folder, training=[entry(i) for i in range(3)], numTraining=3, **{key: [entry(3, part)]})
    data = open_dataset(folder)
    assert splits(folder) == dict.fromkeys(("toy_00", "toy_01", "toy_02"), "train") | {
        "toy_03": "validation"
    }
    assert data.cases[3].label.is_file()
    assert not data.notes
    assert not check(folder).errors


@pytest.mark.parametrize("key", ["test", "testing"])
def test_a_test_list_may_hold_labels(decathlon, key):
    folder = decathlon()
    move(folder, 3, "Ts")
    for item in (entry(3, "Ts"), "./imagesTs/toy_03.nii.gz"):
        edit(folder, training=[entry(i) for i in range(3)], **{key: [item]})
        *_, last = open_dataset(folder).cases
        assert (last.split, last.label.parent.name) == ("test", "labelsTs")
    (folder / "labelsTs/toy_03.nii.gz").unlink()
    edit(folder, **{key: [entry(3, "Ts")]})
    assert open_dataset(folder).cases[3].label is None


def test_folds_are_read_from_a_data_list(decathlon):
    folder = decathlon()
    edit(folder, training=[entry(i, fold=i % 2) for i in range(4)])
    assert [case.fold for case in open_dataset(folder).cases] == [0, 1, 0, 1]
    edit(folder, training=[entry(0, fold="first")])
    with pytest.raises(DataError, match="'fold' must be a number"):
        open_dataset(folder)


def test_a_data_list_may_name_a_file_per_channel(decathlon, save):
    folder = decathlon()
    files = ["imagesTr/toy_00.nii.gz", "imagesTr/toy_01.nii.gz"]
    edit(folder, modality={"0": "T1", "1": "T2"}, training=[entry(0, image=files)])
    data = open_dataset(folder)
    assert data.read_case(data.cases[0])[0].channels == 2


def test_files_of_one_name_in_several_folders_are_told_apart(decathlon, save):
    folder = decathlon(cases=1)
    training = []
    for patient in ("p1", "p2"):
        for name in ("t1.nii.gz", "seg.nii.gz"):
            save(folder / patient / name, np.zeros((8, 9, 5), np.uint8))
        training.append({"image": f"{patient}/t1.nii.gz", "label": f"{patient}/seg.nii.gz"})
    edit(folder, training=training)
    assert [case.name for case in open_dataset(folder).cases] == ["p1_t1", "p2_t1"]


def test_the_first_nnunets_test_cases_are_segmented_not_the_training_cases(decathlon, save):
    folder = decathlon()
    for number in (7, 8):
        save(folder / f"imagesTs/toy_{number:02d}_0000.nii.gz", np.zeros((8, 9, 5), np.int16))
    edit(folder, test=["./imagesTs/toy_07.nii.gz", "./imagesTs/toy_08.nii.gz"])
    assert [case.name for case in find_inputs([folder], 1)] == ["toy_07", "toy_08"]
    assert not open_dataset(folder).notes


def test_test_cases_that_are_missing_are_said(decathlon, save, caplog):
    folder = decathlon()
    edit(folder, test=["./imagesTs/toy_07.nii.gz", "./imagesTs/toy_08.nii.gz"])
    with pytest.raises(DataError, match=r"2 of the 2 test cases.*imagesTs/toy_07.*--split train"):
        find_inputs([folder], 1)
    assert len(find_inputs([folder], 1, split="train")) == 4
    save(folder / "imagesTs/toy_08.nii.gz", np.zeros((8, 9, 5), np.int16))
    assert [case.name for case in find_inputs([folder], 1)] == ["toy_08"]
    assert "1 of the 2 test cases" in caplog.text
    (note,) = open_dataset(folder).notes
    assert (note.kind, note.severity) == ("missing-test", "warning")


@pytest.mark.parametrize(
    "spelling",
    [
        lambda path: path.replace("/", "\\"),
        lambda path: path.removeprefix("./").replace("/", "\\"),
        lambda path: path.removeprefix("./"),
        lambda path: path.upper(),
        lambda path: path.replace("imagesTr", "ImagesTR").replace("labelsTr", "LabelsTR"),
        lambda path: path.removesuffix(".gz"),
    ],
)
def test_other_spellings_of_a_path_lead_to_the_file(decathlon, spelling):
    folder = decathlon()
    training = [{key: spelling(path) for key, path in entry(i).items()} for i in range(4)]
    edit(folder, training=training)
    data = open_dataset(folder)
    assert all(path.is_file() for case in data.cases for path in (*case.images, case.label))
    assert [case.name for case in data.cases] == ["toy_00", "toy_01", "toy_02", "toy_03"]
    assert not data.notes


def test_absolute_paths_are_taken_where_they_lead_into_the_folder(decathlon):
    folder = decathlon()
    inside = {key: str(folder / path) for key, path in entry(0).items()}
    edit(folder, training=[inside])
    assert open_dataset(folder).cases[0].images[0].is_file()
    windows = dict.fromkeys(inside, "D:\\data\\Toy\\imagesTr\\toy_00.nii.gz")
    edit(folder, training=[windows])
    with pytest.raises(DataError, match=r"D:.*leads out of.*imagesTr/case_01"):
        open_dataset(folder)


def test_accents_may_be_composed_or_not(decathlon):
    folder = decathlon(cases=1)
    decomposed, composed = (unicodedata.normalize(form, "ä.nii.gz") for form in ("NFD", "NFC"))
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub / "toy_00.nii.gz").rename(folder / sub / decomposed)
    edit(folder, training=[{"image": f"imagesTr/{composed}", "label": f"labelsTr/{composed}"}])
    assert open_dataset(folder).cases[0].label.is_file()


def test_of_two_files_that_fit_none_is_guessed(decathlon, save):
    folder = decathlon(cases=1)
    for name in ("A.nii", "a.nii"):
        save(folder / f"imagesTr/{name}", np.zeros((8, 9, 5), np.int16))
    edit(folder, training=[entry(0, image="imagesTr/A.nii"), entry(0, image="imagesTr/a.nii.gz")])
    first, second = (case.images[0] for case in open_dataset(folder).cases)
    assert (first.name, second.name) == ("A.nii", "a.nii.gz")
    assert not second.exists()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_description_may_be_written_by_a_windows_program(decathlon, encoding):
    folder = decathlon()
    path = folder / "dataset.json"
    path.write_bytes(path.read_text().encode(encoding))
    assert len(open_dataset(folder).cases) == 4


def test_a_description_that_is_no_json_is_told_as_such_without_naming_the_layout(decathlon):
    folder = decathlon()
    (folder / "dataset.json").write_text('{"training": [')
    with pytest.raises(DataError, match="not valid JSON"):
        open_dataset(folder)


def test_another_number_of_cases_than_announced_is_a_warning(decathlon):
    folder = decathlon()
    edit(folder, numTraining=20)
    (note,) = open_dataset(folder).notes
    assert note.severity == "warning"
    assert "'numTraining' is 20, but there are 4" in note.text


def test_labels_may_be_written_as_nnunet_does(decathlon):
    folder = decathlon()
    edit(folder, labels={"background": 0, "left": 1, "right": 2})
    assert open_dataset(folder).labels == {0: "background", 1: "left", 2: "right"}


def test_a_corrected_copy_keeps_its_lists(decathlon, save, tmp_path):
    folder = decathlon()
    edit(folder, training=[entry(0), entry(1)], validation=[entry(2), entry(3)], numTraining=2)
    save(folder / "labelsTr/toy_03.nii.gz", np.full((8, 9, 5), 9, np.uint8))
    fix(check(folder), tmp_path / "out")
    assert splits(tmp_path / "out") == {
        "toy_00": "train",
        "toy_01": "train",
        "toy_02": "validation",
    }
    assert not check(tmp_path / "out").problems


def test_channel_files_may_have_lost_their_compression(decathlon):
    folder = decathlon()
    for path in sorted((folder / "imagesTr").iterdir()):
        path.rename(path.with_name(path.name.replace(".nii.gz", "_0000.nii")))
    data = open_dataset(folder)
    assert [case.images[0].name for case in data.cases][:2] == [
        "toy_00_0000.nii",
        "toy_01_0000.nii",
    ]
    assert not data.notes


def test_a_validation_list_of_images_alone_finds_their_labels(decathlon):
    folder = decathlon()
    image = entry(3)["image"]
    edit(folder, training=[entry(i) for i in range(3)], numTraining=3, validation=[image])
    *_, last = open_dataset(folder).cases
    assert (last.split, last.label.name) == ("validation", "toy_03.nii.gz")
    assert not check(folder).errors


@pytest.mark.parametrize(("key", "words"), [("validation", "'validation'"), ("test", "'test'")])
def test_a_case_in_two_lists_is_told_as_such(decathlon, key, words):
    folder = decathlon()
    edit(folder, **{key: [entry(3)]})
    with pytest.raises(DataError, match=f"imagesTr/toy_03.nii.gz in 'training' and {words}"):
        open_dataset(folder)


def test_images_for_testing_that_no_list_names_are_test_cases(decathlon):
    folder = decathlon()
    move(folder, 3, "Ts")
    (folder / "imagesTs/toy_03.nii.gz").rename(folder / "imagesTs/toy_03_0000.nii.gz")
    edit(folder, training=[entry(i) for i in range(3)], test=[])
    *_, last = open_dataset(folder).cases
    assert (last.name, last.split, last.label.name) == ("toy_03", "test", "toy_03.nii.gz")
    assert [item.name for item in find_inputs([folder], 1)] == ["toy_03"]


def test_a_data_list_without_names_of_labels_and_modality_is_read_from_its_files(decathlon):
    folder = decathlon()
    path = folder / "dataset.json"
    path.write_text(json.dumps({"training": [entry(i, fold=i % 2) for i in range(4)]}))
    data = open_dataset(folder)
    assert data.channels == ("image",)
    assert list(data.labels.values())[:2] == ["background", "class 1"]
    assert [case.fold for case in data.cases] == [0, 1, 0, 1]
    assert not check(folder).errors
    path.write_text(json.dumps({"cases": []}))
    with pytest.raises(DataError, match=r"its dataset\.json has the keys cases"):
        open_dataset(folder)

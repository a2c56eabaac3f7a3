import json

import numpy as np
import pytest

from small_data import edit
from transunet.data.layouts import open_dataset
from transunet.errors import ConfigError, DataError, GeometryError


def test_it_is_recognised_and_read(decathlon):
    data = open_dataset(decathlon())
    assert (data.layout, data.name, data.channels) == ("decathlon", "Toy", ("MRI",))
    assert data.labels == {0: "background", 1: "left", 2: "right"}
    assert [case.name for case in data.cases] == ["toy_00", "toy_01", "toy_02", "toy_03"]
    image, label = data.read_case(data.cases[1])
    assert image.array.shape == label.array.shape == (1, 8, 9, 5)
    assert image.array.dtype == np.float32
    assert label.array.dtype == np.uint8
    assert not data.notes
    assert open_dataset(decathlon(), layout="decathlon").cases == data.cases


def test_four_dimensional_files_hold_the_modalities(decathlon, save):
    folder = decathlon()
    edit(folder, modality={"0": "FLAIR", "1": "T1w"})
    for path in (folder / "imagesTr").iterdir():
        save(path, np.zeros((8, 9, 5, 2), np.int16))
    data = open_dataset(folder)
    assert data.channels == ("FLAIR", "T1w")
    assert data.read_case(data.cases[0])[0].channels == 2


def test_more_channels_than_listed_are_refused(decathlon, save):
    folder = decathlon()
    save(folder / "imagesTr/toy_00.nii.gz", np.zeros((8, 9, 5, 2), np.int16))
    data = open_dataset(folder)
    with pytest.raises(DataError, match=r"toy_00\.nii\.gz.*2 channels.*MRI"):
        data.read_case(data.cases[0])


def test_hidden_files_of_a_mac_are_ignored(decathlon):
    folder = decathlon()
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub / "._toy_00.nii.gz").write_bytes(b"junk")
    training = json.loads((folder / "dataset.json").read_text())["training"]
    hidden = {"image": "./imagesTr/._toy_00.nii.gz", "label": "./labelsTr/._toy_00.nii.gz"}
    edit(folder, training=[hidden, *training])
    data = open_dataset(folder)
    assert len(data.cases) == 4
    assert not data.notes


@pytest.mark.parametrize("entry", ["./imagesTs/t.nii.gz", {"image": "./imagesTs/t.nii.gz"}])
def test_test_cases_may_be_strings_or_objects_or_absent(decathlon, save, entry):
    folder = decathlon()
    edit(folder, test=[entry, "./imagesTs/not_copied.nii.gz"])
    save(folder / "imagesTs/t.nii.gz", np.zeros((8, 9, 5), np.int16))
    *_, last = open_dataset(folder).cases
    assert (last.name, last.label, last.split) == ("t", None, "test")
    assert open_dataset(folder).read_case(last)[1] is None


def test_the_first_nnunets_channel_files_are_found(decathlon, save):
    folder = decathlon()
    edit(folder, modality={"0": "FLAIR", "1": "T1w"})
    for path in sorted((folder / "imagesTr").iterdir()):
        for channel in range(2):
            array = np.full((8, 9, 5), channel, np.int16)
            save(path.with_name(path.name.replace(".nii", f"_000{channel}.nii")), array)
        path.unlink()
    data = open_dataset(folder)
    assert not data.notes
    image, _ = data.read_case(data.cases[3])
    assert image.array[:, 0, 0, 0].tolist() == [0, 1]


def test_labels_that_are_not_consecutive_become_so(decathlon, save):
    folder = decathlon()
    edit(folder, labels={"0": "background", "2": "right", "7": "top"})
    array = np.zeros((8, 9, 5), np.uint8)
    array[0], array[1] = 2, 7
    save(folder / "labelsTr/toy_00.nii.gz", array)
    data = open_dataset(folder)
    assert data.labels == {0: "background", 1: "right", 2: "top"}
    _, label = data.read_case(data.cases[0])
    assert label.array[0, :3, 0, 0].tolist() == [1, 2, 0]


def test_a_file_that_is_not_listed_is_noted(decathlon, save):
    folder = decathlon()
    save(folder / "imagesTr/extra.nii.gz", np.zeros((8, 9, 5), np.int16))
    (note,) = open_dataset(folder).notes
    assert note.severity == "warning"
    assert "extra.nii.gz" in note.text


@pytest.mark.parametrize(
    "entry", ["../other.nii.gz", "/etc/passwd", "..\\other.nii.gz", "C:\\x.nii"]
)
@pytest.mark.parametrize("key", ["image", "label"])
def test_paths_that_leave_the_folder_are_refused(decathlon, entry, key):
    folder = decathlon()
    good = {"image": "./imagesTr/toy_00.nii.gz", "label": "./labelsTr/toy_00.nii.gz"}
    edit(folder, training=[{**good, key: entry}])
    with pytest.raises(DataError, match="leads out"):
        open_dataset(folder)


def test_two_values_may_have_one_name(decathlon):
    folder = decathlon()
    edit(folder, labels={"0": "background", "1": "tumour", "2": "tumour"})
    assert open_dataset(folder).labels == {0: "background", 1: "tumour", 2: "tumour"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": {"0": "background"}}, "at least one more"),
        ({"labels": {"1": "left"}}, "background"),
        ({"labels": {"left": 1}}, "background"),
        ({"labels": {"left": "one"}}, "must be a number"),
        ({"labels": []}, "object"),
        ({"modality": {"1": "CT"}}, "count 0"),
        ({"modality": None}, "modality"),
        ({"training": {}}, "list"),
        ({"training": ["a.nii.gz"]}, "'image' and 'label'"),
        ({"training": []}, "no cases"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(decathlon, changes, says):
    folder = decathlon()
    edit(folder, **changes)
    with pytest.raises(DataError, match=says):
        open_dataset(folder, layout="decathlon")


def test_two_cases_of_one_name_are_refused(decathlon):
    folder = decathlon()
    training = json.loads((folder / "dataset.json").read_text())["training"]
    edit(folder, training=[*training, training[0]])
    with pytest.raises(DataError, match="toy_00"):
        open_dataset(folder)


def test_broken_json_is_refused(decathlon):
    folder = decathlon()
    (folder / "dataset.json").write_text('{"training": [')
    with pytest.raises(DataError, match=r"dataset\.json.*JSON"):
        open_dataset(folder, layout="decathlon")


def test_no_data_set_and_an_empty_one(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match="it is empty"):
        open_dataset(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"(?s)notes\.txt.*\n  decathlon: .*imagesTr"):
        open_dataset(tmp_path)
    with pytest.raises(ConfigError, match="not a folder"):
        open_dataset(tmp_path / "notes.txt")
    with pytest.raises(ConfigError, match="nnunet, decathlon"):
        open_dataset(tmp_path, layout="nn-unet")
    with pytest.raises(DataError, match=r"dataset\.json.*missing"):
        open_dataset(tmp_path, layout="decathlon")


def read_first(folder):
    data = open_dataset(folder)
    return data.read_case(data.cases[0])


def test_a_missing_label_names_the_file(decathlon):
    folder = decathlon()
    (folder / "labelsTr/toy_00.nii.gz").unlink()
    with pytest.raises(DataError, match=r"labelsTr/toy_00\.nii\.gz.*no label map.*Put"):
        read_first(folder)
    (folder / "imagesTr/toy_00.nii.gz").unlink()
    with pytest.raises(DataError, match=r"imagesTr/toy_00\.nii\.gz.*no image"):
        read_first(folder)


def test_a_label_value_that_is_not_listed_names_file_and_value(decathlon, save):
    folder = decathlon()
    save(folder / "labelsTr/toy_00.nii.gz", np.full((8, 9, 5), 5, np.uint8))
    with pytest.raises(DataError, match=r"labelsTr/toy_00\.nii\.gz.*: 5; listed: 0 .*1 \(left\)"):
        read_first(folder)


def test_a_mask_of_255_says_what_it_is(decathlon, save):
    folder = decathlon()
    save(folder / "labelsTr/toy_00.nii.gz", np.full((8, 9, 5), 255, np.uint8))
    with pytest.raises(DataError, match=r"255; listed.*--ignore 255"):
        read_first(folder)


def test_image_and_label_on_different_grids_are_refused(decathlon, save):
    folder = decathlon()
    save(folder / "labelsTr/toy_00.nii.gz", np.zeros((8, 9, 6), np.uint8))
    with pytest.raises(GeometryError, match=r"labelsTr.*8 x 9 x 5 and 8 x 9 x 6.*Resample"):
        read_first(folder)
    save(folder / "labelsTr/toy_00.nii.gz", np.zeros((8, 9, 5), np.uint8), np.diag([2, 1, 1, 1]))
    with pytest.raises(GeometryError, match="affines differ"):
        read_first(folder)


def test_a_truncated_label_is_refused(decathlon):
    path = decathlon() / "labelsTr/toy_00.nii.gz"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"labelsTr/toy_00\.nii\.gz.*cut short"):
        read_first(path.parents[1])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_voxels_that_are_not_finite_are_refused(decathlon, save, value):
    folder = decathlon()
    array = np.zeros((8, 9, 5))
    array[1, 2, 3] = value
    save(folder / "imagesTr/toy_00.nii.gz", array)
    with pytest.raises(DataError, match=r"imagesTr/toy_00\.nii\.gz.*1 of 360 voxels"):
        read_first(folder)


def test_the_real_hippocampus(shared):
    data = open_dataset(shared("Task04_Hippocampus"))
    assert (data.layout, len(data.cases), data.channels) == ("decathlon", 200, ("MRI",))
    assert data.labels == {0: "background", 1: "Anterior", 2: "Posterior"}
    for case in data.cases[:5]:
        image, label = data.read_case(case)
        assert image.spatial_shape == label.spatial_shape
        assert set(np.unique(label.array)) == {0, 1, 2}

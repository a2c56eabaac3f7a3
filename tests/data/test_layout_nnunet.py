import json

import numpy as np
import pytest

from transunet.data.layouts import open_dataset
from transunet.errors import DataError

LABELS = {"background": 0, "organ": 1, "tumour": 2}


@pytest.fixture
def nnunet(tmp_path, save):
    """Make a small nnU-Net v2 data set."""

    def make(channels=("CT",), labels=None, cases=3, **more):
        root = tmp_path / "Dataset042_Toy"
        for number in range(cases):
            for channel in range(len(channels)):
                array = np.full((4, 5, 6), number * 10 + channel, np.int16)
                save(root / f"imagesTr/toy_{number:03d}_{channel:04d}.nii.gz", array)
            label = np.arange(120, dtype=np.uint8).reshape(4, 5, 6) % 3
            save(root / f"labelsTr/toy_{number:03d}.nii.gz", label)
        description = {
            "channel_names": {str(i): name for i, name in enumerate(channels)},
            "labels": labels or LABELS,
            "numTraining": cases,
            "file_ending": ".nii.gz",
            **more,
        }
        root.mkdir(exist_ok=True)
        (root / "dataset.json").write_text(json.dumps(description))
        return root

    return make


def test_it_is_recognised_and_read(nnunet):
    data = open_dataset(nnunet())
    assert (data.layout, data.name, data.channels) == ("nnunet", "Dataset042_Toy", ("CT",))
    assert data.labels == {0: "background", 1: "organ", 2: "tumour"}
    assert [case.name for case in data.cases] == ["toy_000", "toy_001", "toy_002"]
    _, label = data.read_case(data.cases[0])
    assert np.unique(label.array).tolist() == [0, 1, 2]


def test_channels_come_from_files_in_order(nnunet):
    data = open_dataset(nnunet(channels=("T1", "T2")))
    image, _ = data.read_case(data.cases[2])
    assert image.array[:, 0, 0, 0].tolist() == [20, 21]


def test_a_missing_channel_is_reported_by_its_name(nnunet):
    folder = nnunet(channels=("T1", "T2"))
    (folder / "imagesTr/toy_001_0001.nii.gz").unlink()
    data = open_dataset(folder)
    with pytest.raises(DataError, match=r"toy_001_0001\.nii\.gz"):
        data.read_case(data.cases[1])


def test_a_missing_first_channel_is_reported_too(nnunet):
    folder = nnunet(channels=("T1", "T2"))
    (folder / "imagesTr/toy_001_0000.nii.gz").unlink()
    data = open_dataset(folder)
    with pytest.raises(DataError, match=r"toy_001_0000\.nii\.gz"):
        data.read_case(data.cases[1])


def test_a_missing_label_is_reported_and_an_orphan_noted(nnunet, save):
    folder = nnunet()
    (folder / "labelsTr/toy_001.nii.gz").unlink()
    save(folder / "labelsTr/other.nii.gz", np.zeros((4, 5, 6), np.uint8))
    data = open_dataset(folder)
    with pytest.raises(DataError, match=r"labelsTr/toy_001\.nii\.gz"):
        data.read_case(data.cases[1])
    (note,) = data.notes
    assert "other.nii.gz" in note.text


def test_test_cases_may_have_labels(nnunet, save):
    folder = nnunet()
    for name in ("x", "y"):
        save(folder / f"imagesTs/{name}_0000.nii.gz", np.zeros((4, 5, 6), np.int16))
    save(folder / "labelsTs/y.nii.gz", np.zeros((4, 5, 6), np.uint8))
    x, y = open_dataset(folder).cases[3:]
    assert (x.split, x.label) == ("test", None)
    assert (y.split, y.label.name) == ("test", "y.nii.gz")


def test_regions_become_classes_and_stay_regions(nnunet):
    labels = {"background": 0, "whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    data = open_dataset(nnunet(labels=labels, regions_class_order=[1, 2, 3]))
    assert data.labels == {0: "background", 1: "whole tumour", 2: "core", 3: "enhancing"}
    assert data.regions == {"whole tumour": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}


def test_regions_of_values_with_gaps_are_class_indices(nnunet):
    labels = {"background": 0, "whole": [1, 2, 4], "core": [1, 4], "edge": [1, 4]}
    data = open_dataset(nnunet(labels=labels))
    assert data.label_values == {0: 0, 1: 1, 2: 2, 4: 3}
    assert data.regions["core"] == (1, 3)
    assert len(set(data.labels.values())) == 4


def test_cases_may_be_listed(nnunet):
    listed = {"a": {"images": ["imagesTr/toy_001_0000.nii.gz"], "label": "labelsTr/toy_001.nii.gz"}}
    (case,) = open_dataset(nnunet(dataset=listed)).cases
    assert (case.name, case.images[0].name) == ("a", "toy_001_0000.nii.gz")
    listed["a"]["label"] = "../secret.nii.gz"
    with pytest.raises(DataError, match="leads out"):
        open_dataset(nnunet(dataset=listed))


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({"background": 0, "organ": "1"}, "organ"),
        ({"background": 0, "organ": []}, "organ"),
        ({"background": 0, "a": 1, "b": 1}, "same value"),
        ({"organ": 1}, "background"),
        ({"background": 0, "organ": 1, "ignore": [2, 3]}, "ignore"),
    ],
)
def test_labels_that_cannot_be_are_refused(nnunet, labels, says):
    with pytest.raises(DataError, match=says):
        open_dataset(nnunet(labels=labels))


def test_no_images_at_all(nnunet):
    with pytest.raises(DataError, match="no cases"):
        open_dataset(nnunet(cases=0))


def test_coloured_images_hold_all_channels_in_one_file(tmp_path, rng):
    from PIL import Image

    for number in range(2):
        for sub, name in (("imagesTr", f"c{number}_0000.png"), ("labelsTr", f"c{number}.png")):
            (tmp_path / sub).mkdir(exist_ok=True)
            shape = (6, 9, 3) if sub == "imagesTr" else (6, 9)
            array = rng.integers(0, 2, shape).astype(np.uint8)
            Image.fromarray(array).save(tmp_path / sub / name)
    description = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "cell": 1},
        "file_ending": ".png",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    data = open_dataset(tmp_path)
    image, label = data.read_case(data.cases[1])
    assert (image.channels, label.channels) == (3, 1)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_other_formats_by_their_ending(tmp_path, rng, ending):
    pytest.importorskip("SimpleITK", reason="needs the extra [images]")
    from transunet.data.formats import write_volume
    from transunet.data.volume import Volume

    image = Volume(rng.normal(size=(1, 4, 5, 6)).astype(np.float32), np.diag([1, 1, 3, 1]))
    for sub, name in (("imagesTr", "c_0000"), ("labelsTr", "c")):
        (tmp_path / sub).mkdir()
        array = image.array if sub == "imagesTr" else np.ones((1, 4, 5, 6), np.uint8)
        write_volume(image.with_array(array), tmp_path / sub / f"{name}{ending}")
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "organ": 1},
        "file_ending": ending,
    }
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    data = open_dataset(tmp_path)
    assert data.read_case(data.cases[0])[0].spacing_mm == (1, 1, 3)


def test_upper_case_endings(nnunet):
    folder = nnunet(file_ending=".NII.GZ")
    for path in [*folder.glob("*Tr/*")]:
        path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.GZ")))
    data = open_dataset(folder)
    assert all(path.is_file() for case in data.cases for path in (*case.images, case.label))
    assert not data.notes
    assert data.read_case(data.cases[0])[0].channels == 1


def test_a_label_may_be_of_another_format(nnunet, save):
    folder = nnunet()
    (folder / "labelsTr/toy_001.nii.gz").unlink()
    save(folder / "labelsTr/toy_001.nii", np.zeros((4, 5, 6), np.uint8))
    data = open_dataset(folder)
    assert data.cases[1].label.name == "toy_001.nii"
    assert not data.notes


@pytest.mark.parametrize("listed", [False, True])
def test_one_file_may_hold_all_channels(nnunet, save, listed):
    folder = nnunet(channels=("T1", "T2"))
    entries = []
    for number in range(3):
        for path in folder.glob(f"imagesTr/toy_{number:03d}_*"):
            path.unlink()
        name = f"toy_{number:03d}.nii.gz"
        save(folder / "imagesTr" / name, np.zeros((4, 5, 6, 2), np.int16))
        entries.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    save(folder / "imagesTs/new.nii.gz", np.zeros((4, 5, 6, 2), np.int16))
    if listed:
        content = json.loads((folder / "dataset.json").read_text())
        content |= {"training": entries, "test": ["./imagesTs/new.nii.gz"]}
        (folder / "dataset.json").write_text(json.dumps(content))
    data = open_dataset(folder)
    assert (data.layout, len(data.cases), data.notes) == ("nnunet", 4, ())
    assert data.read_case(data.cases[0])[0].channels == 2
    assert data.cases[3].split == "test"


def test_a_case_may_end_in_four_digits(nnunet, save):
    folder = nnunet(cases=0)
    for number in range(2):
        save(folder / f"imagesTr/scan_{number:04d}.nii.gz", np.zeros((4, 5, 6), np.int16))
        save(folder / f"labelsTr/scan_{number:04d}.nii.gz", np.zeros((4, 5, 6), np.uint8))
    assert [case.name for case in open_dataset(folder).cases] == ["scan_0000", "scan_0001"]


def test_lists_say_which_cases_validate(nnunet):
    training = [
        {"image": f"imagesTr/toy_{i:03d}.nii.gz", "label": f"labelsTr/toy_{i:03d}.nii.gz"}
        for i in range(3)
    ]
    data = open_dataset(nnunet(training=training[:2], validation=training[2:]))
    assert [(case.name, case.split) for case in data.cases] == [
        ("toy_000", "train"),
        ("toy_001", "train"),
        ("toy_002", "validation"),
    ]
    assert data.cases[2].images[0].name == "toy_002_0000.nii.gz"


def test_labels_may_be_written_as_decathlon_does(nnunet):
    data = open_dataset(nnunet(labels={"0": "background", "1": "organ", "2": "tumour"}))
    assert data.labels == {0: "background", 1: "organ", 2: "tumour"}


def test_another_ending_than_described_is_named(nnunet):
    with pytest.raises(DataError, match=r"'file_ending' is '\.nrrd'.*end in \.nii\.gz"):
        open_dataset(nnunet(file_ending=".nrrd"))
    folder = nnunet()
    content = json.loads((folder / "dataset.json").read_text())
    del content["file_ending"]
    (folder / "dataset.json").write_text(json.dumps(content))
    assert len(open_dataset(folder).cases) == 3


@pytest.mark.parametrize("listed", [False, True])
def test_folders_say_which_cases_validate_and_test(nnunet, save, listed):
    case = {"images": ["imagesTr/toy_000_0000.nii.gz"], "label": "labelsTr/toy_000.nii.gz"}
    folder = nnunet(**({"dataset": {"toy_000": case}} if listed else {"cases": 1}))
    for part in ("Va", "Ts"):
        save(folder / f"images{part}/{part}_0000.nii.gz", np.zeros((4, 5, 6), np.int16))
        save(folder / f"labels{part}/{part}.nii.gz", np.zeros((4, 5, 6), np.uint8))
    cases = open_dataset(folder).cases
    assert [(c.name, c.split) for c in cases] == [
        ("toy_000", "train"),
        ("Va", "validation"),
        ("Ts", "test"),
    ]
    assert all(c.label.is_file() for c in cases)


def test_folders_in_other_letters(nnunet):
    folder = nnunet()
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).rename(folder / sub.upper())
    data = open_dataset(folder)
    assert len(data.cases) == 3
    assert all(c.label.is_file() for c in data.cases)
    assert not data.notes

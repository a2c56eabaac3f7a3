import numpy as np
import pytest

from transunet.data.layouts import open_dataset, recognises
from transunet.data.prepare import prepare
from transunet.errors import DataError

IMAGE = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
LABEL = (IMAGE > 60).astype(np.uint8)


@pytest.fixture
def patients(tmp_path, save):
    """Folders p1 to p3 with the files of the names that are given."""

    def make(images, label, folders=("p1", "p2", "p3")):
        for folder in folders:
            patient = tmp_path / "set" / folder
            for number, name in enumerate(images):
                save(patient / f"{name.format(patient.name)}.nii.gz", IMAGE + number)
            if label:
                save(patient / f"{label.format(patient.name)}.nii.gz", LABEL)
        return tmp_path / "set"

    return make


@pytest.mark.parametrize(
    ("image", "label"), [("image", "label"), ("scan", "mask"), ("{}", "{}_seg"), ("a", "gt")]
)
def test_one_image_and_its_mask(patients, tmp_path, image, label):
    data = open_dataset(patients([image], label))
    assert (data.layout, data.channels) == ("patients", ("image",))
    assert [case.name for case in data.cases] == ["p1", "p2", "p3"]
    store = prepare(data, tmp_path / "store")
    assert set(store.cases) == {"p1", "p2", "p3"}
    assert store.label("p1").max() == 1


@pytest.mark.parametrize("prefix", ["", "{}_"])
def test_several_images_are_channels(patients, prefix):
    folder = patients([f"{prefix}t2", f"{prefix}flair", f"{prefix}t1"], f"{prefix}seg")
    data = open_dataset(folder)
    assert data.channels == ("flair", "t1", "t2")
    image, label = data.read_case(data.cases[0])
    assert image.array[:, 0, 0, 0].tolist() == [1, 2, 0]
    assert label.array.max() == 1


def test_a_channel_that_is_missing_is_told_and_one_too_many_is_left_out(patients, save):
    folder = patients(["t1", "t2"], "seg")
    (folder / "p2/t2.nii.gz").unlink()
    save(folder / "p3/t1c.nii.gz", IMAGE)
    data = open_dataset(folder)
    assert data.channels == ("t1", "t2")
    with pytest.raises(DataError, match=r"p2/t2\.nii\.gz: case p2 has no image"):
        data.read_case(data.cases[1])
    assert [note.where for note in data.notes] == [str(folder / "p3/t1c.nii.gz")]


def test_splits_around_the_patients(patients):
    patients(["image"], "label", ["train/p1", "train/p2"])
    data = open_dataset(patients(["image"], None, ["test/p9"]))
    assert [(c.name, c.split, c.label is None) for c in data.cases] == [
        ("p9", "test", True),
        ("p1", "train", False),
        ("p2", "train", False),
    ]


def test_folders_of_images_alone_are_no_data_set(patients):
    folder = patients(["t1", "t2"], None)
    assert not recognises(folder)
    with pytest.raises(DataError, match="it holds the folders p1, p2, p3"):
        open_dataset(folder)


def test_what_a_folder_holds_and_the_data_set_near_it_are_told(tmp_path, save):
    for sub in ("images", "masks"):
        save(tmp_path / f"set/{sub}/a.nii.gz", LABEL)
    with pytest.raises(DataError) as error:
        open_dataset(tmp_path / "set/images")
    first, *known = str(error.value).splitlines()
    assert first == (
        f"{tmp_path}/set/images: no data set is recognised here: it holds a.nii.gz; "
        f"its parent {tmp_path}/set is a data set of the layout pairs. Give {tmp_path}/set. "
        "Known layouts:"
    )
    assert any(line.startswith("  patients: PATIENT/image.nii.gz") for line in known)
    with pytest.raises(DataError, match=f"Give {tmp_path}/set"):
        open_dataset(tmp_path)


def test_descriptions_that_were_not_copied_along(tmp_path):
    for sub in ("imagesTr", "labelsTr"):
        (tmp_path / sub).mkdir()
    with pytest.raises(DataError, match=r"imagesTr, labelsTr, but no dataset\.json"):
        open_dataset(tmp_path)


def test_an_image_may_be_a_dicom_series(patients, tmp_path):
    dicom_made = pytest.importorskip("dicom_made", reason="needs the extra [dicom]")
    from transunet.data.formats import read_volume, write_volume

    for patient in ("p1", "p2"):
        folder = tmp_path / "set" / patient
        volume = read_volume(
            dicom_made.save(folder / "CT", dicom_made.series_of(dicom_made.ramp()))
        )
        label = volume.with_array(np.ones((1, *volume.spatial_shape), np.uint8))
        write_volume(label, folder / "liver_seg.nii.gz")
    data = open_dataset(tmp_path / "set")
    assert [case.images[0].name for case in data.cases] == ["CT", "CT"]
    assert data.read_case(data.cases[1])[1].array.min() == 1


@pytest.mark.parametrize(
    ("image", "label"), [("images/{}.nii.gz", "masks/{}.nii.gz"), ("{}.nii.gz", "{}_mask.nii.gz")]
)
def test_folders_of_several_pairs(tmp_path, save, image, label):
    for patient in ("p1", "p2"):
        for number in (1, 2):
            save(tmp_path / "set" / patient / image.format(number), IMAGE)
            save(tmp_path / "set" / patient / label.format(number), LABEL)
    data = open_dataset(tmp_path / "set")
    assert [case.name for case in data.cases] == ["p1_1", "p1_2", "p2_1", "p2_2"]
    assert all(case.label.is_file() for case in data.cases)
    (note,) = data.notes
    assert "2 folders are taken as one data set: p1, p2" in note.found
    (tmp_path / "set/other").mkdir()
    with pytest.raises(DataError, match="no data set is recognised"):
        open_dataset(tmp_path / "set")

"""The authors' Synapse folder, raw BTCV, ACDC raw and prepared."""

import numpy as np
import pytest

from transunet.data.layouts import LAYOUTS, open_dataset
from transunet.data.layouts.btcv import BTCV, BTCV_TO_PAPER
from transunet.data.layouts.synapse import ORGANS
from transunet.data.prepare import prepare
from transunet.data.split_rules import splits_of
from transunet.data.splits import split
from transunet.errors import DataError

h5py = pytest.importorskip("h5py", reason="needs the extra [images]")

SHAPE = (6, 7, 4)


def npz(path, label=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, image=np.full((6, 7), 0.5, np.float32), label=np.full((6, 7), label, np.float32))


def hdf5(path, shape=(4, 6, 7), label=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["image"], file["label"] = np.full(shape, 0.25), np.full(shape, label, np.uint8)


@pytest.fixture
def synapse(tmp_path):
    root = tmp_path / "Synapse"
    for case in ("case0005", "case0006", "case0007"):
        for number in range(2):
            npz(root / f"train_npz/{case}_slice{number:03d}.npz")
    for case in ("case0001", "case0002"):
        hdf5(root / f"test_vol_h5/{case}.npy.h5")
    return root


@pytest.fixture
def btcv(tmp_path, save):
    def make(images=".", labels="."):
        root = tmp_path / "btcv"
        for number in (1, 2):
            save(root / images / f"img{number:04d}.nii.gz", np.zeros(SHAPE, np.int16))
            label = np.arange(np.prod(SHAPE), dtype=np.uint8).reshape(SHAPE) % 14
            save(root / labels / f"label{number:04d}.nii.gz", label)
        return root

    return make


@pytest.fixture
def acdc(tmp_path, save):
    def make(*roots):
        for index, root in enumerate(roots or (".",)):
            for patient in range(1 + 10 * index, 6 + 10 * index):
                for frame in (1, 12):
                    stem = f"patient{patient:03d}/patient{patient:03d}_frame{frame:02d}"
                    save(tmp_path / "acdc" / root / f"{stem}.nii.gz", np.zeros(SHAPE, np.int16))
                    label = np.full(SHAPE, 2, np.uint8)
                    save(tmp_path / "acdc" / root / f"{stem}_gt.nii.gz", label)
                four = (
                    tmp_path
                    / "acdc"
                    / root
                    / f"patient{patient:03d}/patient{patient:03d}_4d.nii.gz"
                )
                save(four, np.zeros((*SHAPE, 3), np.int16))
        return tmp_path / "acdc"

    return make


def test_synapse_trains_on_slices_and_tests_on_volumes(synapse, tmp_path):
    data = open_dataset(synapse)
    assert (data.layout, data.labels, data.channels) == ("synapse", ORGANS, ("CT",))
    assert [c.name for c in data.cases if c.split == "test"] == ["case0001", "case0002"]
    (part,) = split(data.cases)
    assert part.test == ("case0001", "case0002")
    assert len(part.validation) == 2  # both slices of one patient
    assert len({name[:8] for name in part.validation}) == 1
    store = prepare(data, tmp_path / "store")
    # The authors' values are in [0, 1] already and stay as they are.
    assert store.image("case0005_slice001")[0, 0, 0, 0] == 0.5
    assert store.image("case0001").shape == (1, 4, 6, 7)
    assert store.image("case0001").max() == 0.25
    assert store.label("case0005_slice001").max() == 3


@pytest.mark.parametrize("where", [".", "lists", "lists/lists_Synapse"])
def test_synapse_lists_choose_the_cases(synapse, where):
    (synapse / where).mkdir(parents=True, exist_ok=True)
    (synapse / where / "train.txt").write_text("case0006_slice001\ncase0005_slice000\n")
    (synapse / where / "test_vol.txt").write_text("case0002\n\n")
    names = [case.name for case in open_dataset(synapse).cases]
    assert names == ["case0005_slice000", "case0006_slice001", "case0002"]


def test_a_synapse_list_that_names_a_missing_or_foreign_file(synapse):
    (synapse / "train.txt").write_text("case0099_slice000\n")
    data = open_dataset(synapse)
    with pytest.raises(DataError, match=r"case0099_slice000\.npz"):
        data.read_case(data.cases[0])
    (synapse / "train.txt").write_text("../../secret\n")
    with pytest.raises(DataError, match=r"train\.txt.*leads out"):
        open_dataset(synapse)


@pytest.mark.parametrize(
    ("images", "labels"),
    [(".", "."), ("img", "label"), ("RawData/Training/img", "RawData/Training/label")],
)
def test_btcv_has_the_papers_eight_organs(btcv, images, labels):
    data = open_dataset(btcv(images, labels))
    assert (data.layout, data.labels, data.channels) == ("btcv", ORGANS, ("CT",))
    assert data.label_map == "btcv-13-to-paper-8"
    assert [case.name for case in data.cases] == ["case0001", "case0002"]
    _, label = data.read_case(data.cases[0])
    by_hand = [0, 7, 4, 3, 2, 0, 5, 8, 1, 0, 0, 6, 0, 0]
    expected = np.array(by_hand)[np.arange(np.prod(SHAPE)) % 14].reshape(SHAPE)
    np.testing.assert_array_equal(label.array[0], expected)


def test_the_btcv_map_keeps_every_organ_of_the_paper():
    for value, index in BTCV_TO_PAPER.items():
        if index:
            assert BTCV[value] == ORGANS[index]
    assert sorted(v for v in BTCV_TO_PAPER.values() if v) == list(range(1, 9))


def test_btcv_test_scans_need_no_label_and_training_scans_do(btcv, save):
    root = btcv("RawData/Training/img", "RawData/Training/label")
    save(root / "RawData/Testing/img/img0061.nii.gz", np.zeros(SHAPE, np.int16))
    save(root / "RawData/Training/img/img0003.nii.gz", np.zeros(SHAPE, np.int16))
    save(root / "RawData/Training/label/label0009.nii.gz", np.zeros(SHAPE, np.uint8))
    data = open_dataset(root)
    assert (data.cases[-1].label, data.cases[-1].split) == (None, "test")
    with pytest.raises(DataError, match=r"label/label0003\.nii\.gz"):
        data.read_case(data.cases[2])
    assert "label0009" in data.notes[0].text


@pytest.mark.parametrize("root", [".", "training", "database/training"])
def test_acdc_keeps_patients_together(acdc, root):
    data = open_dataset(acdc(root))
    assert data.layout == "acdc"
    assert data.labels[3] == "left ventricle"
    assert len(data.cases) == 10  # the 4-D files are no cases
    assert data.cases[0].group == data.cases[1].group == "patient001"
    for part in (*split(data.cases), *split(data.cases, folds=5)):
        patients = [{name[:10] for name in names} for names in (part.train, part.validation)]
        assert not patients[0] & patients[1]


def test_acdc_testing_is_for_testing(acdc):
    root = acdc("training", "testing")
    (part,) = split(open_dataset(root).cases)
    assert {name[:10] for name in part.test} == {f"patient{n:03d}" for n in range(11, 16)}
    for path in root.glob("testing/*/*_gt.nii.gz"):
        path.unlink()
    assert sum(case.label is None for case in open_dataset(root).cases) == 10


def test_acdc_problems_name_their_files(acdc, save):
    root = acdc()
    (root / "patient001/patient001_frame01_gt.nii.gz").unlink()
    (root / "patient002/patient002_frame12.nii.gz").unlink()
    data = open_dataset(root)
    assert [n.where for n in data.notes] == [str(root / "patient002/patient002_frame12_gt.nii.gz")]
    with pytest.raises(DataError, match=r"patient001_frame01_gt\.nii\.gz"):
        data.read_case(data.cases[0])


@pytest.mark.parametrize("sub", [".", "data", "ACDC_training_volumes"])
def test_acdc_as_hdf5(tmp_path, sub):
    for patient in range(1, 6):
        for frame in ("01", "12"):
            hdf5(tmp_path / "a" / sub / f"patient{patient:03d}_frame{frame}.h5")
    hdf5(tmp_path / "a/data/slices/patient001_frame01_slice_1.h5", (6, 7))
    (tmp_path / "a/val.list").write_text("patient002_frame01\n")
    (tmp_path / "a/test.list").write_text("patient003_frame01\n")
    data = open_dataset(tmp_path / "a")
    assert (data.layout, len(data.cases)) == ("acdc-h5", 10)
    (part,) = splits_of(data, data.cases).parts
    assert part.validation == ("patient002_frame01", "patient002_frame12")
    assert part.test == ("patient003_frame01", "patient003_frame12")
    image, _ = data.read_case(data.cases[0])
    assert image.spatial_shape == (6, 7, 4)


def test_acdc_as_hdf5_slices_alone(tmp_path):
    for patient in (1, 2):
        for number in (1, 2):
            name = f"ACDC_training_slices/patient{patient:03d}_frame01_slice_{number}.h5"
            hdf5(tmp_path / name, (6, 7))
    data = open_dataset(tmp_path)
    assert len(data.cases) == 4
    assert {case.group for case in data.cases} == {"patient001", "patient002"}


def test_every_layout_says_what_it_looks_like_and_can_be_named(synapse):
    assert open_dataset(synapse, layout="synapse").cases == open_dataset(synapse).cases
    for name, module in LAYOUTS.items():
        assert module.SHAPE
        if name != "synapse":
            assert not module.recognises(synapse)
            with pytest.raises(DataError):
                open_dataset(synapse, layout=name)

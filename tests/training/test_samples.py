import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from transunet.data.layouts import open_dataset
from transunet.data.prepare import prepare
from transunet.data.resize import nearest, resize
from transunet.errors import ConfigError
from transunet.training.augmentation import paper
from transunet.training.samples import SliceDataset


@pytest.fixture
def store(decathlon, tmp_path):
    return prepare(open_dataset(decathlon()), tmp_path / "store")


def test_a_sample_is_a_resized_slice(store):
    slices = SliceDataset(store, ["toy_02", "toy_00"], (16, 32))
    assert len(slices) == 10
    sample = slices[0, 7]
    assert (sample["case"], sample["slice"]) == ("toy_00", 2)
    assert sample["image"].dtype == torch.float32
    assert sample["label"].dtype == torch.int64
    expected = resize(store.image("toy_00")[:, 2], (16, 32), edge="kept")
    np.testing.assert_array_equal(sample["image"].numpy(), expected)
    expected = nearest(store.label("toy_00")[2], (16, 32), edge="kept")
    np.testing.assert_array_equal(sample["label"].numpy(), expected)


def test_every_slice_comes_once(store):
    slices = SliceDataset(store, store.splits[0].train, None)
    seen = [(s["case"], s["slice"]) for s in (slices[0, i] for i in range(len(slices)))]
    assert sorted(seen) == [(name, k) for name in store.splits[0].train for k in range(5)]
    for index in (-1, len(slices)):
        with pytest.raises(IndexError):
            slices[0, index]


def test_a_sample_depends_on_seed_epoch_and_index_only(store):
    def sample(epoch, index, seed=1):
        slices = SliceDataset(store, ["toy_00", "toy_01"], (24, 24), paper, seed)
        for earlier in range(index):  # what was asked for before does not matter
            slices[0, earlier]
        return slices[epoch, index]["image"]

    alone = SliceDataset(store, ["toy_00", "toy_01"], (24, 24), paper, 1)[3, 4]["image"]
    assert torch.equal(sample(3, 4), alone)
    assert any(not torch.equal(sample(epoch, 4), alone) for epoch in range(4, 9))
    assert any(not torch.equal(sample(3, 4, seed), alone) for seed in range(2, 7))


@pytest.mark.process
def test_workers_change_nothing(store):
    slices = SliceDataset(store, ["toy_00", "toy_01"], (24, 24), paper)
    keys = [(1, index) for index in range(10)]
    batches = [
        torch.cat([b["image"] for b in DataLoader(slices, 4, sampler=keys, num_workers=n)])
        for n in (0, 2)
    ]
    assert torch.equal(*batches)


def test_slices_with_a_class_are_found(store):
    slices = SliceDataset(store, ["toy_01", "toy_03"], None)
    for wanted in (1, 2):
        expected = [i for i in range(len(slices)) if (slices[0, i]["label"] == wanted).any()]
        assert slices.with_class(wanted).tolist() == expected
    assert slices.with_class(9).tolist() == []


def test_labels_above_255_survive(decathlon, tmp_path, save):
    import json

    folder = decathlon()
    content = json.loads((folder / "dataset.json").read_text())
    content["labels"] = {str(i): f"class {i}" for i in range(301)}
    (folder / "dataset.json").write_text(json.dumps(content))
    save(folder / "labelsTr/toy_00.nii.gz", np.full((8, 9, 5), 300, np.int16))
    store = prepare(open_dataset(folder), tmp_path / "big")
    assert store.label("toy_00").dtype == np.uint16
    assert SliceDataset(store, ["toy_00"], (4, 4))[0, 0]["label"].unique().tolist() == [300]


def test_no_cases_and_unknown_cases_are_refused(store):
    with pytest.raises(ConfigError, match="at least one"):
        SliceDataset(store, [], (8, 8))
    with pytest.raises(ConfigError, match="nobody"):
        SliceDataset(store, ["nobody"], (8, 8))

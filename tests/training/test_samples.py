from itertools import product

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch.utils.data import DataLoader

from transunet.data.layouts import open_dataset
from transunet.data.prepare import prepare
from transunet.data.resize import nearest, resize
from transunet.data.sampling.patches import Patches
from transunet.data.sampling.slices import Slices
from transunet.errors import ConfigError
from transunet.training.augmentation import paper
from transunet.training.sampler import Batches
from transunet.training.samples import Samples


@pytest.fixture
def store(decathlon, tmp_path):
    return prepare(open_dataset(decathlon()), tmp_path / "store")


def slices_of(store, cases, size=(8, 8), augment=None, seed=1234):
    return Samples(store, cases, Slices(size=size), augment, seed)


def test_a_sample_is_a_resized_slice(store):
    slices = slices_of(store, ["toy_02", "toy_00"], (16, 32))
    assert len(slices) == 10
    sample = slices[0, 7]
    assert (sample["case"], sample["number"]) == ("toy_00", 2)
    assert sample["image"].dtype == torch.float32
    assert sample["label"].dtype == torch.int64
    expected = resize(store.image("toy_00")[:, 2], (16, 32), edge="kept")
    np.testing.assert_array_equal(sample["image"].numpy(), expected)
    expected = nearest(store.label("toy_00")[2], (16, 32), edge="kept")
    np.testing.assert_array_equal(sample["label"].numpy(), expected)


def test_every_slice_comes_once(store):
    slices = slices_of(store, store.splits[0].train)
    seen = [(s["case"], s["number"]) for s in (slices[0, i] for i in range(len(slices)))]
    assert sorted(seen) == [(name, k) for name in store.splits[0].train for k in range(5)]
    for index in (-1, len(slices)):
        with pytest.raises(IndexError):
            slices[0, index]


def test_a_sample_depends_on_seed_epoch_and_index_only(store):
    def sample(epoch, index, seed=1):
        slices = slices_of(store, ["toy_00", "toy_01"], (24, 24), paper, seed)
        for earlier in range(index):  # what was asked for before does not matter
            slices[0, earlier]
        return slices[epoch, index]["image"]

    alone = slices_of(store, ["toy_00", "toy_01"], (24, 24), paper, 1)[3, 4]["image"]
    assert torch.equal(sample(3, 4), alone)
    assert any(not torch.equal(sample(epoch, 4), alone) for epoch in range(4, 9))
    assert any(not torch.equal(sample(3, 4, seed), alone) for seed in range(2, 7))


@pytest.mark.process
def test_workers_change_nothing(store):
    slices = slices_of(store, ["toy_00", "toy_01"], (24, 24), paper)
    keys = [(1, index) for index in range(10)]
    batches = [
        torch.cat([b["image"] for b in DataLoader(slices, 4, sampler=keys, num_workers=n)])
        for n in (0, 2)
    ]
    assert torch.equal(*batches)


def test_slices_with_a_class_are_found(store):
    slices = slices_of(store, ["toy_01", "toy_03"], (8, 9))
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
    assert slices_of(store, ["toy_00"], (4, 4))[0, 0]["label"].unique().tolist() == [300]


def test_no_cases_and_unknown_cases_are_refused(store):
    with pytest.raises(ConfigError, match="at least one"):
        slices_of(store, [], (8, 8))
    with pytest.raises(ConfigError, match="nobody"):
        slices_of(store, ["nobody"], (8, 8))


@pytest.fixture
def patches(store):
    return Samples(store, ["toy_02", "toy_00"], Patches(size=(3, 4, 4)))


def test_a_patch_lies_anywhere_in_its_case_and_is_drawn_by_its_key(store, patches):
    assert len(patches) == 24  # 2 x 2 x 3 patches cover each case, side by side
    seen = set()
    for draw, index in product(range(20), range(24)):
        sample = patches[draw, index]
        assert sample["case"] == ("toy_02" if index < 12 else "toy_00")
        assert (sample["image"].dtype, sample["label"].dtype) == (torch.float32, torch.int64)
        image, label = store.image(sample["case"]), store.label(sample["case"])
        boxes = sliding_window_view(image, (3, 4, 4), axis=(1, 2, 3))
        places = np.argwhere(
            (boxes == sample["image"][:, None, None, None].numpy()).all((0, 4, 5, 6))
        )
        assert len(places) == 1
        box = tuple(slice(p, p + n) for p, n in zip(places[0], (3, 4, 4), strict=True))
        np.testing.assert_array_equal(sample["label"], label[box])
        seen.add((sample["case"], *places[0]))
    assert len(seen) > 0.8 * 2 * 3 * 5 * 6
    assert torch.equal(patches[3, 7]["image"], patches[3, 7]["image"])


def test_patches_for_a_class_hold_it(store, patches):
    for wanted in (1, 2):
        holding = patches.with_class(wanted)
        cases = {patches.locate(index)[0] for index in holding}
        assert cases == {name for name in patches.cases if (store.label(name) == wanted).any()}
        for draw, index in product(range(30), holding[::5]):
            assert (patches[draw, index, wanted]["label"] == wanted).any()
    assert patches.with_class(9).tolist() == []


@pytest.mark.process
def test_batches_of_patches_take_their_share_of_each_class_in_any_process(patches):
    by_class = {index: patches.with_class(index) for index in (1, 2)}
    batches = Batches(len(patches), 8, 1, foreground=0.5, indices_by_class=by_class)
    keys = [key for step in range(20) for key in batches.batch(step)]
    drawn = [key.wanted_class for key in keys if key.wanted_class]
    assert 0.4 < len(drawn) / len(keys) < 0.6
    assert set(drawn) == {1, 2}
    loaded = [
        torch.cat([b["image"] for b in DataLoader(patches, 4, sampler=keys[:16], num_workers=n)])
        for n in (0, 2)
    ]
    assert torch.equal(*loaded)

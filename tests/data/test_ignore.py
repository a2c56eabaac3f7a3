"""Voxels that nobody labelled: from a data set's files to the slices that train."""

import json

import numpy as np
import pytest
import torch

from transunet.data.cases import IGNORED
from transunet.data.checks.check import check
from transunet.data.checks.corrections import fix
from transunet.data.layouts import open_dataset
from transunet.data.prepare import prepare
from transunet.data.resize import nearest
from transunet.data.sampling.slices import Slices
from transunet.data.store import Store
from transunet.errors import ConfigError, DataError
from transunet.training.augmentation import BatchAugmentation, rotate
from transunet.training.recipe import Augmentation
from transunet.training.samples import Samples


@pytest.fixture
def label():
    """Classes 1 and 2; one slice that nobody labelled, and half of another."""
    array = np.zeros((8, 9, 5), np.uint8)
    array[1:4, 2:6, 1:4] = 1
    array[5:7, 2:6, 1:4] = 2
    array[..., 4] = 255
    array[:4, :, 3] = 255
    return array


@pytest.fixture
def nnunet(tmp_path, save, label):
    """Make an nnU-Net data set whose label files hold `ignored` where nobody labelled."""

    def make(labels, ignored=3, cases=3, **more):
        root = tmp_path / "set"
        for number in range(cases):
            image = np.arange(360, dtype=np.int16).reshape(8, 9, 5) + number
            save(root / f"imagesTr/c{number}_0000.nii.gz", image)
            array = np.where(label == 255, ignored, label).astype(np.uint8)
            save(root / f"labelsTr/c{number}.nii.gz", array)
        content = {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz"}
        (root / "dataset.json").write_text(json.dumps({**content, **more}))
        return root

    return make


LABELS = {"background": 0, "a": 1, "b": 2}


def test_the_ignore_label_of_nnunet_is_no_class(nnunet, label):
    data = open_dataset(nnunet({**LABELS, "ignore": 3}))
    assert data.labels == {0: "background", 1: "a", 2: "b"}
    assert data.ignore == 3
    _, found = data.read_case(data.cases[0])
    np.testing.assert_array_equal(found.array[0], np.where(label == 255, IGNORED, label))


def test_regions_do_without_it(nnunet):
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    data = open_dataset(nnunet(labels, regions_class_order=[1, 2]))
    assert data.labels == {0: "background", 1: "whole", 2: "core"}
    assert data.regions == {"whole": (1, 2), "core": (2,)}
    assert data.ignore == 3


def test_a_value_is_ignored_that_is_asked_for(nnunet):
    folder = nnunet(LABELS, ignored=255)
    report = check(folder)
    assert {problem.kind for problem in report.errors} == {"255-label"}
    assert "--ignore 255" in report.errors[0].remedy
    with pytest.raises(DataError, match="--ignore 255"):
        open_dataset(folder).read_case(open_dataset(folder).cases[0])
    assert not check(folder, ignore=255).errors
    assert open_dataset(folder, ignore=255).ignore == 255


def test_one_that_the_masks_hold_is_a_class_no_longer(tmp_path, save, label):
    label[label == 1] = 7
    for part, array in (("images", label.astype(np.int16) + 1), ("masks", label)):
        save(tmp_path / "pairs" / part / "c0.nii.gz", array)
    seen = open_dataset(tmp_path / "pairs")
    assert list(seen.labels.values()) == ["background", "class 2", "class 7", "class 255"]
    assert "--ignore 255" in next(n for n in seen.notes if n.kind == "255-label").remedy
    data = open_dataset(tmp_path / "pairs", ignore=255)
    assert data.label_values == {0: 0, 2: 1, 7: 2}
    assert data.labels == {0: "background", 1: "class 2", 2: "class 7"}
    assert not data.notes
    first = open_dataset(tmp_path / "pairs", ignore=2)
    assert first.labels == {0: "background", 1: "class 7", 2: "class 255"}
    _, found = first.read_case(first.cases[0])
    assert set(np.unique(found.array)) == {0, 1, 2, IGNORED}


def test_labels_json_may_name_it(tmp_path, save, label):
    for part, array in (("images", label.astype(np.int16) + 1), ("masks", label)):
        save(tmp_path / "pairs" / part / "c0.nii.gz", array)
    named = {"background": 0, "a": 1, "b": 2, "ignore": 255}
    (tmp_path / "pairs" / "labels.json").write_text(json.dumps(named))
    data = open_dataset(tmp_path / "pairs")
    assert (data.ignore, list(data.labels.values())) == (255, ["background", "a", "b"])


def test_what_cannot_be_left_out_is_refused(nnunet):
    with pytest.raises(ConfigError, match="cannot ignore 0"):
        open_dataset(nnunet(LABELS), ignore=0)
    folder = nnunet({**LABELS, "ignore": 3})
    with pytest.raises(ConfigError, match="3 as its ignored value"):
        open_dataset(folder, ignore=255)
    assert open_dataset(folder, ignore=3).ignore == 3


def test_a_mask_of_one_class_beside_255_is_not_mended(tmp_path, nnunet):
    folder = nnunet({"background": 0, "a": 1, "b": 2}, ignored=255)
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(
        json.dumps({**content, "labels": {"background": 0, "a": 1}})
    )
    assert not fix(check(folder), tmp_path / "out").corrected


@pytest.fixture
def store(nnunet, tmp_path):
    return prepare(open_dataset(nnunet({**LABELS, "ignore": 3})), tmp_path / "store")


def test_the_store_keeps_them_and_counts_them_nowhere(store, label):
    assert Store.open(store.path).manifest.ignore == 3
    assert store.ignored == IGNORED
    assert set(np.unique(store.label("c0"))) == {0, 1, 2, IGNORED}
    case = store.cases["c0"]
    assert set(case.slices_with) == {1, 2}
    assert case.unlabelled == (4,)
    assert case.fingerprint.voxels == {n: int((label == n).sum()) for n in (0, 1, 2)}
    foreground = int(np.isin(label, (1, 2)).sum())
    assert case.fingerprint.foreground[0].voxels == foreground
    assert store.fingerprint.frequencies.keys() == {0, 1, 2}


def test_other_values_make_the_slices_anew(nnunet, tmp_path):
    folder = nnunet(LABELS, ignored=2)
    first = prepare(open_dataset(folder), tmp_path / "store")
    assert first.ignored is None
    again = prepare(open_dataset(folder, ignore=2), tmp_path / "store")
    assert again.label("c0").max() == IGNORED
    assert again.labels == {0: "background", 1: "a"}


def test_slices_that_nobody_labelled_do_not_train(store):
    slices = Samples(store, ["c0", "c1"], Slices(size=(16, 16)))
    seen = [(s["case"], s["number"]) for s in (slices[0, i] for i in range(len(slices)))]
    assert seen == [(case, number) for case in ("c0", "c1") for number in range(4)]
    assert slices.with_class(1).tolist() == [1, 2, 5, 6]
    assert slices.with_class(2).tolist() == [1, 2, 3, 5, 6, 7]
    assert set(slices[0, 3]["label"].unique().tolist()) <= {0, 1, 2, IGNORED}


def test_cases_that_nobody_labelled_cannot_train(nnunet, save, tmp_path):
    folder = nnunet({**LABELS, "ignore": 3})
    save(folder / "labelsTr/c0.nii.gz", np.full((8, 9, 5), 3, np.uint8))
    store = prepare(open_dataset(folder), tmp_path / "store")
    with pytest.raises(ConfigError, match="ignored value 3"):
        Samples(store, ["c0"], Slices(size=(16, 16)))
    assert len(Samples(store, ["c0", "c1"], Slices(size=(16, 16)))) == 4


def test_resizing_and_augmenting_make_no_other_classes(store):
    labels = np.asarray(store.label("c0")[3])
    for changed in (
        nearest(labels, (31, 17), edge="kept"),
        rotate(labels[None] * 1.0, labels, 17)[1],
    ):
        assert set(np.unique(changed)) <= {0, 1, 2, IGNORED}
    settings = Augmentation(p_affine=1, p_elastic=1, p_mirror=1)
    batch = torch.from_numpy(labels.astype(np.int64))[None]
    _, turned = BatchAugmentation(settings, 1)(batch[:, None].float(), batch, [(0, 0)])
    assert set(turned.unique().tolist()) <= {0, 1, 2, IGNORED}
    assert (turned == IGNORED).any()

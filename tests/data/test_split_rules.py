"""Whose split is taken: a user's file, the data set's own lists or folds, or a drawn one."""

import json

import pytest

from small_data import edit
from transunet.data.checks.check import check
from transunet.data.layouts import open_dataset
from transunet.data.prepare import labelled, prepare
from transunet.data.split_rules import split_warnings, splits_in, splits_of, stored_splits
from transunet.data.splits import split
from transunet.errors import ConfigError, DataError

NAMES = [f"toy_{i:02d}" for i in range(6)]
FOLDS = [{"train": NAMES[:3], "val": NAMES[3:]}, {"train": NAMES[3:], "val": NAMES[:3]}]


def mark(folder, **lists):
    """Put the cases of the description into several lists: `validation=2` takes the last two."""
    cases = json.loads((folder / "dataset.json").read_text())["training"]
    for key, number in lists.items():
        edit(folder, **{key: cases[-number:]})
        cases = cases[:-number]
    edit(folder, training=cases)


def folds_file(path, content=FOLDS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def of(folder, **how):
    data = open_dataset(folder)
    return splits_of(data, labelled(data), **how)


def held_out(splits):
    return [list(part.validation) for part in splits.parts]


def test_a_validation_list_is_the_split(decathlon):
    folder = decathlon(cases=6)
    mark(folder, test=1, validation=2)
    splits = of(folder)
    assert held_out(splits) == [["toy_03", "toy_04"]]
    assert splits.parts[0].test == ("toy_05",)
    assert splits.rule == "split of dataset.json"
    assert of(folder, how="own") == splits
    assert check(folder).splits == splits
    drawn = of(folder, how="holdout", fraction=0.2)
    assert drawn.rule == "drawn with seed 1234, not the split of dataset.json"


def test_own_asks_for_a_split_that_the_data_set_has(decathlon):
    with pytest.raises(ConfigError, match="no split of its own"):
        of(decathlon(cases=3), how="own")


def test_an_unlabelled_validation_list_is_no_split(decathlon):
    folder = decathlon(cases=6)
    mark(folder, validation=2)
    content = json.loads((folder / "dataset.json").read_text())
    edit(folder, validation=[entry["image"] for entry in content["validation"]])
    assert of(folder).rule == "split of dataset.json", "labelsTr has their label maps"
    for entry in content["validation"]:
        (folder / entry["label"]).unlink()
    assert of(folder).rule == "drawn with seed 1234"
    assert {case.split for case in open_dataset(folder).cases} == {"train", "validation"}


def test_data_lists_with_folds_are_cross_validated_as_they_say(decathlon):
    folder = decathlon(cases=6)
    content = json.loads((folder / "dataset.json").read_text())
    edit(folder, training=[{**e, "fold": i % 3} for i, e in enumerate(content["training"])])
    expected = [["toy_00", "toy_03"], ["toy_01", "toy_04"], ["toy_02", "toy_05"]]
    for how in ({}, {"folds": 3}, {"how": "kfold"}, {"how": "own"}):
        assert held_out(of(folder, **how)) == expected
    assert of(folder).rule_of(1) == "folds of dataset.json, fold-1 of 3"
    two = of(folder, folds=2)
    assert two.rule == "drawn with seed 1234, not the folds of dataset.json"
    assert two.parts == split(open_dataset(folder).cases, folds=2)


@pytest.mark.parametrize("place", ["inside", "beside", "variable"])
def test_nnunets_folds_are_taken_where_nnunet_puts_them(decathlon, monkeypatch, tmp_path, place):
    folder = decathlon(cases=6, folder="nnUNet_raw/Dataset099_Toy")
    if place == "variable":
        monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "elsewhere"))
    root = {
        "inside": folder,
        "beside": tmp_path / "nnUNet_preprocessed/Dataset099_Toy",
        "variable": tmp_path / "elsewhere/Dataset099_Toy",
    }[place]
    folds_file(root / "splits_final.json")
    for how in ({}, {"folds": 2}):
        splits = of(folder, **how)
        assert held_out(splits) == [NAMES[3:], NAMES[:3]]
        assert splits.rule_of(0) == "splits_final.json, fold-0 of 2"
    assert of(folder, folds=3).rule == "drawn with seed 1234, not the splits_final.json"
    store = prepare(open_dataset(folder), tmp_path / "store")
    assert held_out(stored_splits(store, folds=2)) == [NAMES[3:], NAMES[:3]]


def test_folds_that_do_not_fit_are_told_by_check_and_prepare_alike(decathlon, tmp_path):
    folder = decathlon(cases=3)
    folds_file(folder / "splits_final.json")
    (problem,) = check(folder).errors
    with pytest.raises(DataError, match=r"split 0 names 3 that are no labelled cases") as refused:
        prepare(open_dataset(folder), tmp_path / "store")
    assert str(refused.value) == problem.text
    assert "splits_final.json" in problem.where
    assert not (tmp_path / "store").exists()


def test_folds_in_a_pickle_are_not_opened_but_said(decathlon):
    folder = decathlon(cases=6)
    (folder / "splits_final.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    (note,) = open_dataset(folder).notes
    assert note.severity == "warning"
    assert "--splits splits.json" in note.text
    assert of(folder).rule == "drawn with seed 1234"


@pytest.mark.parametrize("content", [FOLDS, FOLDS[:1], FOLDS[0]])
def test_a_users_file_is_taken(decathlon, tmp_path, content):
    cases = labelled(open_dataset(decathlon(cases=6)))
    file = folds_file(tmp_path / "mine.json", content)
    splits = splits_in(file, cases)
    assert held_out(splits)[0] == NAMES[3:]
    assert splits.parts[0].train == tuple(NAMES[:3])
    assert splits.rule == f"--splits {file}"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([{"train": ["toy_00", "nobody"], "val": ["toy_01"]}], r"no labelled cases.*: nobody\."),
        ([{"train": ["toy_00", "toy_01"], "val": ["toy_01"]}], r"both in 'train' and in 'val'"),
        ([{"train": ["toy_00"], "val": ["toy_05"]}], r"test cases of the data set: toy_05"),
        ([{"train": [], "val": ["toy_01"]}], r"split 0 has no cases in 'train'"),
        ([*FOLDS[:0], {"train": ["toy_00"], "val": []}], r"no cases in 'val'"),
        ([{"train": ["toy_00"], "validation": ["toy_01"]}], r"expected nnU-Net's form"),
        ([{"train": "toy_00", "val": ["toy_01"]}], r"expected nnU-Net's form"),
        (["toy_00"], r"expected nnU-Net's form"),
        ([], r"expected nnU-Net's form"),
        ("{", r"expected nnU-Net's form"),
    ],
)
def test_a_users_file_that_cannot_be_is_refused(decathlon, tmp_path, content, says):
    folder = decathlon(cases=6)
    mark(folder, test=1)
    edit(folder, test=[dict(e) for e in json.loads((folder / "dataset.json").read_text())["test"]])
    file = folds_file(tmp_path / "mine.json", content)
    if isinstance(content, str):
        file.write_text(content)
    with pytest.raises(ConfigError, match=rf"mine\.json: .*{says}"):
        splits_in(file, labelled(open_dataset(folder)))


def test_a_users_file_that_is_missing_or_holds_another_number(decathlon, tmp_path):
    cases = labelled(open_dataset(decathlon(cases=6)))
    with pytest.raises(ConfigError, match=r"none\.json: it cannot be read"):
        splits_in(tmp_path / "none.json", cases)
    with pytest.raises(ConfigError, match="holds 2 splits, and --folds 5"):
        splits_in(folds_file(tmp_path / "mine.json"), cases, folds=5)


def test_groups_are_kept_together_or_the_split_is_refused(decathlon, tmp_path):
    folder = decathlon(cases=6)
    data = open_dataset(folder).grouped("toy_0[02]|toy_0(?=[1345])")  # three groups
    for part in splits_of(data, labelled(data), folds=3).parts:
        assert set(part.validation) in ({"toy_00"}, {"toy_02"}, {*NAMES} - {"toy_00", "toy_02"})
    rule = splits_of(data, labelled(data)).rule
    assert rule == "drawn with seed 1234 by group: --group-by toy_0[02]|toy_0(?=[1345])"
    with pytest.raises(ConfigError, match=r"4 of 6 names of cases: toy_02, toy_03, toy_04"):
        open_dataset(folder).grouped("toy_0([01])|toy_0")
    file = folds_file(tmp_path / "mine.json", [{"train": NAMES[:5], "val": NAMES[5:]}])
    one = open_dataset(folder).grouped("toy")
    with pytest.raises(ConfigError, match=r"one group in training and in validation: toy"):
        splits_in(file, labelled(one), group_by=one.group_by)


def test_a_store_remembers_its_rule_and_its_folds(decathlon, tmp_path):
    folder = decathlon(cases=6)
    store = prepare(open_dataset(folder), tmp_path / "store", folds=3, seed=7)
    assert store.prepared.rule == "drawn with seed 7"
    assert stored_splits(store, 1234, folds=3) == stored_splits(store, 1234) == store.prepared
    with pytest.raises(ConfigError, match=r"prepared with 3 folds .*and 5 are asked for"):
        stored_splits(store, folds=5)
    assert stored_splits(store, 5, fraction=0.5).rule == "drawn with seed 5"
    everything = prepare(open_dataset(folder), tmp_path / "store", how="holdout", fraction=0)
    assert stored_splits(everything).parts[0].validation == ()


def test_a_store_is_drawn_anew_in_groups(decathlon, tmp_path):
    folder = decathlon(cases=6)
    pattern = r"toy_0[024]|toy_0(?=[135])"  # odd numbers are one group
    for how in ({}, {"folds": 3}):
        store = prepare(open_dataset(folder), tmp_path / "store", **how)
        for part in stored_splits(store, group_by=pattern, **how).parts:
            assert len({"toy_01", "toy_03", "toy_05"} & {*part.validation}) in (0, 3)
    mark(folder, validation=1)
    store = prepare(open_dataset(folder), tmp_path / "store")
    with pytest.raises(ConfigError, match=r"split of dataset\.json: .*one group"):
        stored_splits(store, group_by=pattern)


def test_what_a_split_leaves_out_is_said(decathlon, save, tmp_path):
    import nibabel as nib
    import numpy as np

    folder = decathlon(cases=6)
    for number in range(6):  # class 2 in toy_05 only, nothing in toy_04
        path = folder / f"labelsTr/toy_{number:02d}.nii.gz"
        label = np.asarray(nib.load(path).dataobj).copy()
        label[(label == 2) & (number != 5)] = 1
        label[number == 4] = 0
        save(path, label)
    content = [
        {"train": NAMES[:3], "val": ["toy_05"]},
        {"train": [*NAMES[:3], "toy_05"], "val": ["toy_04"]},
        {"train": [*NAMES[:3], "toy_05"], "val": ["toy_03"]},
    ]
    data = open_dataset(folder)
    splits = splits_in(folds_file(tmp_path / "mine.json", content), labelled(data))
    store = prepare(data, tmp_path / "store", splits=splits)
    first, second, third = (split_warnings(store, part) for part in store.splits)
    assert first[0].startswith("No training case holds right:")
    assert "toy_03, toy_04" in first[1]
    assert second[-1].startswith("No held-out case holds a structure")
    assert third[-1].startswith("No held-out case holds right:")


def test_real_patients_stay_whole_in_a_layout_that_does_not_know_them(shared):
    data = open_dataset(shared("acdc")).grouped("patient[0-9]+")
    parts = splits_of(data, labelled(data), folds=5).parts
    for part in parts:
        train, held = ({name[:10] for name in names} for names in (part.train, part.validation))
        assert not train & held
        assert (len(train), len(held), len(part.validation)) == (48, 12, 24)
    assert sorted(name for part in parts for name in part.validation) == sorted(
        case.name for case in data.cases
    )


def test_cases_may_be_called_as_their_files(decathlon, tmp_path):
    cases = labelled(open_dataset(decathlon(cases=6)))
    names = {"train": ["toy_00.nii.gz", "toy_01_0000"], "val": ["toy_02_0000.nii.gz"]}
    (part,) = splits_in(folds_file(tmp_path / "mine.json", names), cases).parts
    assert (part.train, part.validation) == (("toy_00", "toy_01"), ("toy_02",))

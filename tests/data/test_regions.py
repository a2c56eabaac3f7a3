"""Regions of a data set: what its description says, and orders that contradict themselves."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from transunet.cli.main import app
from transunet.data.layouts import open_dataset
from transunet.data.prepare import prepare
from transunet.data.regions import Region
from transunet.errors import ConfigError, DataError

BRATS = {"background": 0, "whole": [1, 2, 4], "core": [1, 4], "enhancing": 4}


@pytest.fixture
def brats(tmp_path, save):
    """Three cases, whose labels are those of old BraTS: 2 around 1 around 4."""

    def make(order=(2, 1, 4), labels=BRATS, unknown=None, layout="nnunet", **more):
        label = np.zeros((6, 8, 5), np.uint8)
        label[1:5, 1:7, 1:4], label[2:4, 2:5, 1:3], label[2, 3, 2] = 2, 1, 4
        if unknown:
            label[0, 0, 0] = unknown
        names = {"channel_names": {"0": "T1"}, "file_ending": ".nii.gz"}
        image = "imagesTr/{}_0000.nii.gz"
        if layout == "decathlon":
            image, listed = "imagesTr/{}.nii.gz", []
            for case in "abc":
                files = {"image": image.format(case), "label": f"labelsTr/{case}.nii.gz"}
                listed.append(files)
            names = {"modality": {"0": "T1"}, "training": listed}
        for case in "abc":
            save(tmp_path / image.format(case), np.arange(240, dtype=np.int16).reshape(6, 8, 5))
            save(tmp_path / f"labelsTr/{case}.nii.gz", label)
        description = {**names, "labels": labels, **more}
        if order is not None:
            description["regions_class_order"] = order
        (tmp_path / "dataset.json").write_text(json.dumps(description))
        return tmp_path

    return make


@pytest.mark.parametrize("layout", ["nnunet", "decathlon"])
def test_labels_stay_the_files_own_and_regions_their_order(brats, tmp_path, layout):
    data = open_dataset(brats([2, 1, 4], layout=layout))
    assert data.layout == layout
    assert data.learned_regions == (
        Region(name="whole", members=(1, 2, 4), label=2),
        Region(name="core", members=(1, 4), label=1),
        Region(name="enhancing", members=(4,), label=4),
    )
    assert sorted(data.labels) == [0, 1, 2, 4]
    store = prepare(data, tmp_path / "store")
    assert store.regions == data.learned_regions
    assert np.unique(store.label("a")).tolist() == [0, 1, 2, 4]


def test_prepare_tells_a_regions_own_share_of_the_voxels(brats, tmp_path):
    result = CliRunner().invoke(app, ["prepare", str(brats()), "-o", str(tmp_path / "store")])
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines()]
    # 240 voxels: 72 of the whole tumour, 12 of its core, 1 enhancing.
    for row in (
        ["0", "background", "70.000%", "3", "of", "3"],
        ["2", "whole", "30.000%", "3", "of", "3"],
        ["1", "core", "5.000%", "3", "of", "3"],
        ["4", "enhancing", "0.417%", "3", "of", "3"],
    ):
        assert row in rows


def test_without_an_order_labels_are_learned_as_before(brats):
    data = open_dataset(brats(None))
    assert data.learned_regions == ()
    assert data.label_values == {0: 0, 1: 1, 2: 2, 4: 3}
    plain = {"background": 0, "a": 1, "b": 2, "c": 4}
    assert open_dataset(brats([1, 2, 4], plain)).learned_regions == ()  # there is no region


@pytest.mark.parametrize(
    ("order", "labels", "says"),
    [
        ([2, 1], BRATS, "2 labels for the 3 regions whole, core, enhancing"),
        ("2 1 4", BRATS, "must list numbers"),
        ([2, 1, "4"], BRATS, "must list numbers"),
        ([2, 1, 7], BRATS, "label 7, which no region holds; they hold 1, 2, 4"),
        ([2, 0, 4], BRATS, "label 0, which no region holds"),
        ([2, 2, 4], BRATS, "'core' is written as 2 and holds 1, 4"),
        ([4, 1, 2], BRATS, "'whole' is written as 4, which 'core' holds too"),
        ([1, 4, 4], BRATS, "'whole' is written as 1, which 'core' holds too and overwrites"),
        ([2, 4, 4], BRATS, "'core' is written as 4, which 'enhancing' holds too"),
        ([4, 2], {"background": 0, "edge": 4, "whole": [2, 4]}, "larger region first"),
        ([300, 1], {"background": 0, "whole": [1, 300], "core": 1}, "below 255, found 300"),
    ],
)
def test_an_order_that_contradicts_itself_is_refused(brats, order, labels, says):
    with pytest.raises(DataError, match=says) as refused:
        open_dataset(brats(order, labels))
    assert "dataset.json" in str(refused.value)


def test_a_label_that_no_region_names_is_refused(brats, tmp_path):
    data = open_dataset(brats(unknown=3))
    with pytest.raises(DataError, match=r"does not list: 3; listed: 0 .*4 \(enhancing\)"):
        prepare(data, tmp_path / "store")
    assert not (tmp_path / "store/manifest.json").exists()


def test_what_is_ignored_belongs_to_no_region(brats):
    labels = {"background": 0, "whole": [1, 2, 3, 4], "core": [1, 4], "ignore": 7}
    data = open_dataset(brats([2, 1], labels))
    assert (data.ignore, sorted(data.labels)) == (7, [0, 1, 2, 3, 4])
    labels.pop("ignore")
    data = open_dataset(brats([2, 1], labels), ignore=3)
    assert [region.members for region in data.learned_regions] == [(1, 2, 4), (1, 4)]
    assert data.class_indices(np.array([0, 2, 3, 4])).tolist() == [0, 2, 255, 4]
    with pytest.raises(ConfigError, match="cannot ignore 2: it is written for a region"):
        open_dataset(brats([2, 1], labels), ignore=2)


def test_a_folder_for_each_patient_has_them_by_labels_json(tmp_path, save):
    """As BraTS is downloaded."""
    label = np.zeros((6, 8, 5), np.uint8)
    label[1:5, 1:7, 1:4], label[2:4, 2:5, 1:3], label[2, 3, 2] = 2, 1, 3
    for number in range(3):
        patient = f"BraTS-GLI-{number:05d}-000"
        for channel in ("t1c", "t1n", "t2f", "t2w"):
            path = tmp_path / patient / f"{patient}-{channel}.nii.gz"
            save(path, np.arange(240, dtype=np.int16).reshape(6, 8, 5))
        save(tmp_path / patient / f"{patient}-seg.nii.gz", label)
    meaning = {"background": 0, "whole": [1, 2, 3], "core": [1, 3], "enhancing": 3}
    file = tmp_path / "labels.json"
    file.write_text(json.dumps({**meaning, "regions_class_order": [2, 1, 3]}))
    data = open_dataset(tmp_path)
    assert (data.layout, data.channels) == ("patients", ("t1c", "t1n", "t2f", "t2w"))
    assert [region.label for region in data.learned_regions] == [2, 1, 3]
    assert data.regions == {"whole": (1, 2, 3), "core": (1, 3), "enhancing": (3,)}
    file.write_text(json.dumps({**meaning, "regions_class_order": [1, 2, 3]}))
    with pytest.raises(DataError, match=r"labels\.json: 'regions_class_order' contradicts"):
        open_dataset(tmp_path)

import json
import os
from pathlib import Path

import numpy as np
import pytest

from small_data import times
from transunet.data import prepare as module
from transunet.data.checks.suitability import TrainingData, check_suitability, modality_of_name
from transunet.data.layouts import open_dataset
from transunet.data.prepare import prepare
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.store import Store
from transunet.errors import ConfigError, DataError, GeometryError


@pytest.fixture
def data(decathlon):
    return open_dataset(decathlon())


def test_slices_are_those_of_the_preprocessing(data, tmp_path):
    store = prepare(data, tmp_path / "store")
    assert list(store.cases) == [case.name for case in data.cases]
    image, label = data.read_case(data.cases[2])
    np.testing.assert_array_equal(store.image("toy_02"), store.preprocessing.to_working(image))
    np.testing.assert_array_equal(
        store.label("toy_02"), store.preprocessing.labels_to_working(label)
    )
    assert isinstance(store.image("toy_02"), np.memmap)
    assert store.image("toy_02").dtype == np.float32
    assert store.label("toy_02").dtype == np.uint8
    case = store.cases["toy_02"]
    assert (case.slices, case.size, case.spacing_mm) == (5, (8, 9), (1, 1, 1))
    folder = Path(store.manifest.folder)
    assert (folder / case.images[0]).samefile(data.cases[2].images[0])
    assert (folder / case.label).samefile(data.cases[2].label)


def test_a_store_tells_what_training_will_see(data, tmp_path):
    store = prepare(data, tmp_path / "store")
    seen = TrainingData.of(store.cases.values(), store.preprocessing)
    assert (seen.cases, seen.space) == (len(data.cases), "known")
    assert seen.channels[0].modality == modality_of_name(data.channels[0])
    assert seen.spacing_mm == ((1, 1, 1), (1, 1, 1))
    assert seen.view_mm == ((8, 9), (8, 9))
    for case in data.cases:  # what it saw is what it knows
        image = data.read_case(case)[0]
        assert check_suitability(store.preprocessing, seen, image, force=False) == []
    assert TrainingData(**json.loads(seen.model_dump_json())) == seen


def test_a_store_opens_as_it_was_made(data, tmp_path):
    store = prepare(data, tmp_path / "store")
    opened = Store.open(tmp_path / "store")
    assert opened.manifest == store.manifest
    assert opened.labels == {0: "background", 1: "left", 2: "right"}


@pytest.mark.process
def test_several_processes_make_the_same_store(data, tmp_path):
    one = prepare(data, tmp_path / "one")
    two = prepare(data, tmp_path / "two", workers=2)
    assert one.manifest == two.manifest
    for name in one.cases:
        np.testing.assert_array_equal(one.image(name), two.image(name))


def test_a_second_run_does_nothing(data, tmp_path):
    prepare(data, tmp_path / "store")
    before = times(tmp_path / "store")
    calls = []
    prepare(data, tmp_path / "store", progress=lambda *call: calls.append(call))
    assert times(tmp_path / "store") == before
    assert calls[-1] == (4, 4, "toy_03")


def test_touching_a_file_changes_nothing(data, tmp_path):
    prepare(data, tmp_path / "store")
    before = times(tmp_path / "store")
    os.utime(data.cases[0].images[0])
    prepare(data, tmp_path / "store")
    assert times(tmp_path / "store") == before


def test_a_changed_file_redoes_only_its_case(data, tmp_path, save):
    prepare(data, tmp_path / "store")
    before = times(tmp_path / "store")
    save(data.cases[1].label, np.ones((8, 9, 5), np.uint8))
    store = prepare(data, tmp_path / "store")
    changed = {
        path.parent.name for path, time in times(tmp_path / "store").items() if time != before[path]
    }
    assert changed == {"toy_01", "store"}
    assert store.label("toy_01").min() == 1
    assert store.fingerprint.voxels[1] > 360


def test_another_setting_redoes_every_case(data, tmp_path):
    prepare(data, tmp_path / "store")
    before = times(tmp_path / "store")
    store = prepare(data, tmp_path / "store", preprocessing=Preprocessing(orientation="RAS"))
    assert store.image("toy_00").shape == (1, 8, 9, 5)
    assert all(before[path] != time for path, time in times(tmp_path / "store").items())


def test_another_split_redoes_none(data, tmp_path):
    prepare(data, tmp_path / "store")
    before = times(tmp_path / "store")
    store = prepare(data, tmp_path / "store", how="kfold", folds=2)
    assert len(store.splits) == 2
    changed = {
        path.name for path, time in times(tmp_path / "store").items() if time != before[path]
    }
    assert changed == {"manifest.json"}


def test_an_interrupted_run_goes_on(data, tmp_path, monkeypatch):
    saved = []

    def interrupted(path, array, save=np.save):
        if len(saved) == 5:  # in the middle of the third case
            raise KeyboardInterrupt
        saved.append(path)
        save(path, array)

    with monkeypatch.context() as patched:
        patched.setattr(np, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(data, tmp_path / "store")
    assert not (tmp_path / "store/manifest.json").exists()
    before = times(tmp_path / "store")
    assert {path.parent.name for path in before} == {"toy_00", "toy_01"}
    assert len(prepare(data, tmp_path / "store").cases) == 4
    after = times(tmp_path / "store")
    assert {path: after[path] for path in before} == before


def test_damaged_slices_are_made_again(data, tmp_path):
    store = prepare(data, tmp_path / "store")
    path = tmp_path / "store/cases/toy_01/image.npy"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="transunet prepare"):
        store.image("toy_01")
    assert prepare(data, tmp_path / "store").image("toy_01").shape == (1, 5, 8, 9)


def test_a_case_that_left_the_data_set_leaves_the_store(decathlon, tmp_path):
    folder = decathlon()
    prepare(open_dataset(folder), tmp_path / "store")
    content = json.loads((folder / "dataset.json").read_text())
    content["training"] = content["training"][:3]
    (folder / "dataset.json").write_text(json.dumps(content))
    prepare(open_dataset(folder), tmp_path / "store")
    assert sorted(p.name for p in (tmp_path / "store/cases").iterdir()) == [
        "toy_00",
        "toy_01",
        "toy_02",
    ]


def test_the_fingerprint_counts_and_measures(data, tmp_path):
    store = prepare(data, tmp_path / "store")
    f = store.fingerprint
    arrays = [data.read_case(case) for case in data.cases]
    images = np.concatenate([image.array.ravel() for image, _ in arrays])
    labels = np.concatenate([label.array.ravel() for _, label in arrays])
    assert (f.cases, f.slices) == (4, 20)
    assert f.size["median"] == (5, 8, 9)
    assert f.spacing_mm["maximum"] == (1, 1, 1)
    assert f.orientations == {"RAS": 4}
    assert f.voxels == {i: int((labels == i).sum()) for i in range(3)}
    assert f.cases_with == {0: 4, 1: 4, 2: 4}
    assert sum(f.frequencies.values()) == pytest.approx(1)
    (intensity,) = f.intensities
    assert intensity.mean == pytest.approx(images.mean(dtype=np.float64))
    assert intensity.deviation == pytest.approx(images.std(dtype=np.float64))
    assert (intensity.minimum, intensity.maximum) == (images.min(), images.max())
    (foreground,) = f.foreground
    assert foreground.voxels == int((labels > 0).sum())
    assert foreground.mean == pytest.approx(images[labels > 0].mean(dtype=np.float64))


def test_a_case_without_foreground_is_measured_too(decathlon, tmp_path, save):
    folder = decathlon()
    save(folder / "labelsTr/toy_00.nii.gz", np.zeros((8, 9, 5), np.uint8))
    store = prepare(open_dataset(folder), tmp_path / "store")
    assert store.cases["toy_00"].slices_with == {}
    assert store.cases["toy_00"].fingerprint.foreground == ()
    assert store.fingerprint.cases_with == {0: 4, 1: 3, 2: 3}


def test_the_split_is_stored(data, tmp_path):
    (part,) = prepare(data, tmp_path / "store").splits
    assert len(part.train) == 3
    assert len(part.validation) == 1


@pytest.mark.process
@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_case_names_its_file_and_leaves_no_manifest(decathlon, tmp_path, save, workers):
    folder = decathlon()
    save(folder / "labelsTr/toy_02.nii.gz", np.full((8, 9, 5), 9, np.uint8))
    with pytest.raises(DataError, match=r"labelsTr/toy_02\.nii\.gz.*: 9; listed"):
        prepare(open_dataset(folder), tmp_path / "store", workers=workers)
    assert not (tmp_path / "store/manifest.json").exists()
    assert not list((tmp_path / "store").rglob(".partial*"))


@pytest.mark.process
def test_grids_that_differ_are_a_geometry_error_from_a_process_too(decathlon, tmp_path, save):
    folder = decathlon()
    save(folder / "labelsTr/toy_02.nii.gz", np.zeros((8, 9, 4), np.uint8))
    with pytest.raises(GeometryError, match="toy_02"):
        prepare(open_dataset(folder), tmp_path / "store", workers=2)


def test_a_missing_label_is_refused_before_anything_is_made(decathlon, tmp_path):
    folder = decathlon()
    (folder / "labelsTr/toy_03.nii.gz").unlink()
    with pytest.raises(DataError, match=r"labelsTr/toy_03\.nii\.gz"):
        prepare(open_dataset(folder), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_another_folder_is_not_taken_for_a_store(data, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").touch()
    with pytest.raises(ConfigError, match=r"no prepared store.*chapter\.txt"):
        prepare(data, tmp_path / "thesis")
    with pytest.raises(ConfigError, match="Cannot write"):
        prepare(data, tmp_path / "thesis/chapter.txt")
    with pytest.raises(ConfigError, match="transunet prepare"):
        Store.open(tmp_path / "thesis")


def test_a_store_of_another_version_is_refused(data, tmp_path):
    store = prepare(data, tmp_path / "store")
    path = store.path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    for use in (Store.open, lambda path: prepare(data, path)):
        with pytest.raises(DataError, match="format 99"):
            use(store.path)
    path.write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json"):
        Store.open(store.path)
    path.write_text('{"format": 2}')
    with pytest.raises(DataError, match="damaged"):
        Store.open(store.path)


def test_a_store_of_format_1_is_made_anew(data, tmp_path, caplog):
    """It held slices (S, C, H, W), and named the axis that they were cut along."""
    store = prepare(data, tmp_path / "store")
    whole = np.array(store.image("toy_01"))
    manifest = json.loads((store.path / "manifest.json").read_text())
    manifest["format"] = 1
    preprocessing = manifest["preprocessing"]
    preprocessing |= {"orientation": "RAS", "slice_axis": 2}
    (store.path / "manifest.json").write_text(json.dumps(manifest))
    for case in store.cases:
        folder = store.path / "cases" / case
        np.save(folder / "image.npy", np.load(folder / "image.npy").swapaxes(0, 1))
    with pytest.raises(DataError, match="format 1, this version reads and writes 2"):
        Store.open(store.path)
    anew = prepare(data, store.path)
    assert "an earlier version: it is made anew" in caplog.text
    np.testing.assert_array_equal(anew.image("toy_01"), whole)
    assert Store.open(store.path).preprocessing == store.preprocessing


def test_a_full_disk_is_one_clear_error(data, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.np, "save", full)
    with pytest.raises(ConfigError, match="No space left"):
        prepare(data, tmp_path / "store")
    assert not list((tmp_path / "store/cases").iterdir())


def test_an_unknown_case_is_refused(data, tmp_path):
    with pytest.raises(ConfigError, match="nobody"):
        prepare(data, tmp_path / "store").image("nobody")


def test_ct_is_windowed(decathlon, tmp_path):
    store = prepare(open_dataset(decathlon(modality="CT")), tmp_path / "store")
    assert store.preprocessing.channels == (
        Channel(name="CT", normalisation="clip", low=-125, high=275),
    )
    assert 0 <= store.image("toy_00").min() < store.image("toy_00").max() <= 1


@pytest.mark.slow
def test_the_real_hippocampus_is_prepared(shared, tmp_path):
    data = open_dataset(shared("Task04_Hippocampus"))
    store = prepare(data, tmp_path / "store")
    assert store.fingerprint.slices == 7158
    assert len(store.splits[0].validation) == 40

"""`prepare` for networks of three axes, `--dimensions 3`."""

import json
import os

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from small_data import times
from transunet.cli import prepare as prepare_command
from transunet.data import prepare as prepare_module
from transunet.data.checks.suitability import TrainingData, check_suitability
from transunet.data.layouts import open_dataset
from transunet.data.prepare import measure, prepare
from transunet.data.preprocessing import Preprocessing
from transunet.data.sampling.patches import Patches
from transunet.data.store import Store
from transunet.errors import ConfigError, DataError

pytestmark = pytest.mark.slow


@pytest.fixture
def scans(decathlon, save):
    """Make volumes of a spacing of their own each, with a bright block in the middle."""

    def make(modality="MRI", margin=0, **properties):
        folder = decathlon(modality=modality, **properties)
        rng = np.random.default_rng(3)
        for number, label in enumerate(sorted((folder / "labelsTr").iterdir())):
            shape = (24 + number, 26, 12)
            classes = np.zeros(shape, np.uint8)
            classes[8:16, 8:16, 4:8] = 1 + number % 2
            image = (classes * 100 + rng.normal(50, 5, shape)).astype(np.int16) + 1
            if margin:
                inside = np.zeros(shape, np.bool_)
                inside[margin:-margin, margin:-margin] = True
                image[~inside] = 0
            affine = np.diag([1, 1, 2 + 0.5 * (number % 2), 1])
            save(label, classes, affine)
            save(folder / "imagesTr" / label.name, image, affine)
        return folder

    return make


def test_all_volumes_get_one_spacing(scans, tmp_path):
    data = open_dataset(scans())
    store = prepare(data, tmp_path / "store", dimensions=3)
    assert store.preprocessing.spacing_mm == (2.25, 1, 1)
    for case in data.cases:
        image, label = data.read_case(case)
        np.testing.assert_array_equal(store.image(case.name), store.preprocessing.to_working(image))
        np.testing.assert_array_equal(
            store.label(case.name), store.preprocessing.labels_to_working(label)
        )
        back = store.preprocessing.from_working(store.label(case.name), image)
        assert (back.array == label.array).mean() > 0.98
    assert [case.slices for case in store.cases.values()] == [11, 13, 11, 13]
    assert Store.open(tmp_path / "store").manifest == store.manifest


def test_a_second_run_reads_no_volume(scans, tmp_path, monkeypatch):
    data = open_dataset(scans("CT"))
    store = prepare(data, tmp_path / "store", dimensions=3)
    assert store.preprocessing.channels[0].normalisation == "foreground"
    before = times(tmp_path / "store")
    with monkeypatch.context() as patched:
        patched.setattr(type(data), "read_case", lambda *_: pytest.fail("read again"))
        again = prepare(data, tmp_path / "store", dimensions=3)
    assert again.manifest == store.manifest
    assert times(tmp_path / "store") == before


def test_a_second_run_hashes_nothing_but_what_was_touched(scans, tmp_path, monkeypatch):
    data, hashed = open_dataset(scans()), []
    monkeypatch.setattr(prepare_module, "sha256_of", lambda path: hashed.append(path) or "0" * 64)
    prepare(data, tmp_path / "store", dimensions=3)
    assert len(hashed) == 2 * len(data.cases)
    image = data.cases[0].images[0]
    hashed.clear()
    before = times(tmp_path / "store")
    prepare(data, tmp_path / "store", dimensions=3)
    assert hashed == []
    os.utime(image, (1, 1))
    prepare(data, tmp_path / "store", dimensions=3)
    assert set(hashed) == {image}
    assert times(tmp_path / "store") == before


def test_voxels_of_each_class_are_kept_to_draw_patches_around(scans, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "_FOREGROUND", 100)
    store = prepare(open_dataset(scans()), tmp_path / "store", dimensions=3)
    for name in store.cases:
        label = store.label(name)
        (index,) = np.unique(label[label > 0])
        kept = store.foreground(name, index)
        assert len(np.unique(kept, axis=0)) == len(kept) == 100 < (label == index).sum()
        assert (label[tuple(kept.T)] == index).all()
        middle = np.argwhere(label == index).mean(axis=0)
        np.testing.assert_allclose(kept.mean(axis=0), middle, atol=1)  # from everywhere
        assert len(store.foreground(name, 3 - index)) == 0
        patches = Patches(size=(3, 3, 3))
        for seed in range(20):
            drawn = patches.cut(store, name, 0, int(index), np.random.default_rng(seed))[1]
            assert drawn[1, 1, 1] == index
    again = prepare(open_dataset(scans(folder="Task99_Again")), tmp_path / "again", dimensions=3)
    for name in store.cases:
        np.testing.assert_array_equal(store.foreground(name, 1), again.foreground(name, 1))


def test_a_changed_case_changes_what_all_are_normalised_by(scans, tmp_path, save):
    folder = scans("CT")
    store = prepare(open_dataset(folder), tmp_path / "store", dimensions=3)
    label = np.zeros((24, 26, 12), np.uint8)
    label[2:5] = 1
    save(folder / "labelsTr/toy_00.nii.gz", label, np.diag([1, 1, 2, 1]))
    again = prepare(open_dataset(folder), tmp_path / "store", dimensions=3)
    (one,), (other,) = store.preprocessing.channels, again.preprocessing.channels
    assert one.mean != other.mean


@pytest.mark.process
def test_several_processes_make_the_same_store(scans, tmp_path):
    data = open_dataset(scans("CT"))
    one = prepare(data, tmp_path / "one", dimensions=3)
    two = prepare(data, tmp_path / "two", dimensions=3, workers=2)
    assert one.manifest == two.manifest
    for name in one.cases:
        np.testing.assert_array_equal(one.image(name), two.image(name))
        np.testing.assert_array_equal(one.label(name), two.label(name))


def test_what_is_zero_around_a_volume_is_cut_off(scans, tmp_path):
    data = open_dataset(scans(margin=5))
    store = prepare(data, tmp_path / "store", dimensions=3)
    assert store.preprocessing.is_cropped
    for case in data.cases:
        image, label = data.read_case(case)
        whole = store.preprocessing.to_working(image)[0]
        kept = store.image(case.name)[0]
        assert kept.shape < whole.shape
        # The rest is 0, as what a patch sees outside the volume.
        places = [np.flatnonzero(np.any(whole, axis=tuple({0, 1, 2} - {a}))) for a in range(3)]
        first = [max(int(place[0]) - 1, 0) for place in places]
        box = tuple(slice(a, a + n) for a, n in zip(first, kept.shape, strict=True))
        assert np.abs(whole).sum() == pytest.approx(np.abs(kept).sum(), rel=1e-6)
        np.testing.assert_array_equal(whole[box], kept)
        whole_label = store.preprocessing.labels_to_working(label)
        assert (whole_label[box] == store.label(case.name)).all()
        assert (whole_label > 0).sum() == (store.label(case.name) > 0).sum()
    seen = TrainingData.of(store.cases.values(), store.preprocessing)
    assert seen.view_mm == ((24, 26), (27, 26))  # of the whole volumes
    image, _ = data.read_case(data.cases[0])
    assert check_suitability(store.preprocessing, seen, image, force=False) == []


def test_a_label_outside_what_is_kept_is_kept(scans, tmp_path, save):
    folder = scans(margin=5)
    label = np.zeros((24, 26, 12), np.uint8)
    label[0, 0, 0] = label[10, 10, 5] = 1
    save(folder / "labelsTr/toy_00.nii.gz", label, np.diag([1, 1, 2, 1]))
    store = prepare(open_dataset(folder), tmp_path / "store", dimensions=3)
    assert store.label("toy_00")[0, 0, 0] == 1


def test_a_store_for_slices_becomes_one_for_volumes_and_back(scans, tmp_path):
    data = open_dataset(scans())
    flat = prepare(data, tmp_path / "store")
    text = (tmp_path / "store/manifest.json").read_text()
    assert "nonzero" not in text
    assert "quantiles" not in text
    assert prepare(data, tmp_path / "store", dimensions=3).preprocessing != flat.preprocessing
    prepare(data, tmp_path / "store")
    assert (tmp_path / "store/manifest.json").read_text() == text


def test_a_picture_is_no_volume(scans, tmp_path, save):
    folder = scans()
    bundles = prepare(open_dataset(folder), tmp_path / "volumes", dimensions=3).preprocessing
    save(folder / "labelsTr/toy_02.nii.gz", np.zeros((8, 9, 1), np.uint8))
    save(folder / "imagesTr/toy_02.nii.gz", np.zeros((8, 9, 1), np.int16))
    says = r"toy_02.*single plane \(8 x 9 x 1 voxels\).*dimensions 2"
    with pytest.raises(DataError, match=says):
        prepare(open_dataset(folder), tmp_path / "store", dimensions=3)
    assert not (tmp_path / "store").exists()
    with pytest.raises(DataError, match=says):  # to go on from a bundle's weights, say
        prepare(open_dataset(folder), tmp_path / "store", preprocessing=bundles)


def test_another_number_of_channels_names_the_case(scans, tmp_path, save):
    folder = scans()
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**content, "modality": {"0": "A", "1": "B"}}))
    data = open_dataset(folder)
    with pytest.raises(DataError, match="toy_0"):
        measure(data, data.cases, tmp_path / "store")


def test_a_voxel_size_that_is_wrong_names_the_case(scans, tmp_path, save):
    folder = scans()
    affine = np.diag([5000, 5000, 5000, 1])
    save(folder / "labelsTr/toy_00.nii.gz", np.ones((8, 9, 5), np.uint8), affine)
    save(folder / "imagesTr/toy_00.nii.gz", np.ones((8, 9, 5), np.int16), affine)
    with pytest.raises(DataError, match=r"toy_00.*would become .* GiB.*voxel size"):
        prepare(open_dataset(folder), tmp_path / "store", dimensions=3)
    assert not (tmp_path / "store").exists()


def prepared(*words):
    app = typer.Typer()
    app.command()(prepare_command.prepare)
    return CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "200"})


def test_all_that_is_chosen_is_shown_with_its_reason(scans, tmp_path):
    result = prepared(scans("CT"), "-o", tmp_path / "store", "--dimensions", 3)
    assert result.exit_code == 0, result.output
    for words in ("normalisation", "clipped to", "spacing mm", "2.25 x 1 x 1"):
        assert words in result.output
    for words in ("recommended", "--plane-spacing, --spacing", "padded where it is shorter"):
        assert words in result.output
    assert "--recipe modern3d" in result.output
    asked = prepared(
        *(scans("CT", folder="Task98_Toy"), "-o", tmp_path / "other", "--dimensions", 3),
        *("--plane-spacing", 0.5, "--spacing", 0.7, 0.7, "--normalisation", "nonzero"),
    )
    assert asked.exit_code == 0, asked.output
    for words in (
        "0.5 x 0.7 x 0.7",
        "patch size     56x",
        "poolings       3",
        "batch size     2",
    ):
        assert words in asked.output
    assert Store.open(tmp_path / "other").preprocessing.spacing_mm == (0.5, 0.7, 0.7)


def test_what_is_for_volumes_is_refused_for_slices(scans, tmp_path):
    folder = scans()
    for words, message in (
        (["--plane-spacing", 1], "--plane-spacing is for --dimensions 3"),
        (["--normalisation", "foreground"], "add --dimensions 3"),
    ):
        result = prepared(folder, "-o", tmp_path / "store", *words)
        assert isinstance(result.exception, ConfigError)
        assert message in str(result.exception)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_spacing_that_leaves_nothing_is_refused_before_anything_is_made(
    scans, tmp_path, dimensions
):
    words = ("-o", tmp_path / "store", "--dimensions", dimensions, "--spacing", 1000, 1000)
    result = prepared(scans(), *words)
    assert isinstance(result.exception, ConfigError)
    assert "leaves 12 x 1 x 1 voxels (planes, rows, columns)" in str(result.exception)
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Task04_Hippocampus", "acdc"])
def test_real_label_maps_come_back(shared, name):
    data = open_dataset(shared(name))
    for case in data.cases[:: len(data.cases) // 4]:
        image, label = data.read_case(case)
        spacing = np.multiply(image.spacing_mm, (0.8, 1.2, 0.9))
        pre = Preprocessing(spacing_mm=tuple(spacing[[2, 0, 1]]))
        back = pre.from_working(pre.labels_to_working(label), image).array
        for index in np.unique(label.array)[1:]:
            own, again = label.array == index, back == index
            assert 2 * (own & again).sum() / (own.sum() + again.sum()) > 0.95

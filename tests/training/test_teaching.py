"""A teacher's probabilities beside the labels: on the store's grid, whole, and refused in time."""

import json
import shutil
from itertools import islice

import nibabel
import numpy as np
import pytest
import torch

from small_data import write_pair
from training_runs import same, steps, weights
from transunet.bundle.bundle_config import read_config, write_config
from transunet.data.formats import read_volume
from transunet.data.layouts import open_dataset
from transunet.data.prepare import prepare
from transunet.data.splits import Split, Splits
from transunet.data.store import Store
from transunet.errors import ConfigError, DataError, GeometryError
from transunet.inference.predictor import Predictor
from transunet.training.loop import save, train
from transunet.training.recipe import Distillation, load_recipe
from transunet.training.runs import Run, resume, start
from transunet.training.teacher import SMOOTHING
from transunet.training.teaching import target_file


@pytest.fixture
def maps(toy, tmp_path):
    """Another tool's label maps of the toy's cases, in which 1 and 2 are the other way round."""
    folder = tmp_path / "maps"
    shutil.copytree(toy / "labelsTr", folder)
    for path in folder.glob("*.nii.gz"):
        labels = nibabel.load(path)
        turned = (3 - np.asarray(labels.dataobj)) % 3
        nibabel.save(nibabel.Nifti1Image(turned.astype(np.uint8), labels.affine), path)
    names = {"background": 0, "Spot": 1, "disc": 2}
    (folder / "dataset.json").write_text(json.dumps({"labels": names}))
    return folder


@pytest.fixture
def taught(tmp_path, store, recipe):
    """Begin a run with a teacher: `taught(teacher, temperature=1)`."""

    def begin(*teachers, folder="run", data=store, lr=0.01, **settings):
        own = {"teachers": [str(teacher) for teacher in teachers], **settings}
        return start(tmp_path / folder, data, recipe(distillation=own, lr=lr), device="cpu")

    return begin


def test_label_maps_are_matched_by_name_and_spread_over_all_classes(taught, maps, store):
    trainer = taught(maps, temperature=1)
    name = trainer.split.train[0]
    target, labels = trainer.store.target(name), Store.open(store).label(name)
    least = SMOOTHING / 3
    for number, plane in enumerate(target[1:], start=1):
        expected = np.where(labels == number, 1 - SMOOTHING + least, least)
        assert np.abs(plane / 255 - expected).max() <= 0.5 / 255 + 1e-6
    np.testing.assert_array_equal(target[0], labels)
    assert target.dtype == np.uint8
    assert not target_file(trainer.folder / "teacher", trainer.split.validation[0]).exists()


def test_a_temperature_softens_what_the_teacher_thinks(taught, maps):
    trainer = taught(maps, temperature=2)
    peak, least = np.sqrt(1 - SMOOTHING + SMOOTHING / 3), np.sqrt(SMOOTHING / 3)
    planes = trainer.store.target(trainer.split.train[0])[1:]
    assert sorted(np.unique(planes)) == [
        round(255 * value / (peak + 2 * least)) for value in (least, peak)
    ]


@pytest.mark.slow
def test_a_bundles_probabilities_come_to_the_working_grid(job, taught, toy, tmp_path):
    steps(job(folder="teacher"))
    bundle = tmp_path / "teacher/best"
    trainer = taught(bundle, temperature=1)
    name = trainer.split.train[1]
    Predictor.from_pretrained(bundle, device="cpu")(
        toy / f"imagesTr/{name}.nii.gz", probabilities=tmp_path / "expected.npy"
    )
    image = read_volume(toy / f"imagesTr/{name}.nii.gz")
    expected = image.with_array(np.load(tmp_path / "expected.npy"))
    planes = trainer.store.preprocessing.oriented(expected)[1:]  # at the volume's own size
    np.testing.assert_allclose(trainer.store.target(name)[1:] / 255, planes, atol=0.5 / 255 + 1e-3)
    own = Run.reopen(trainer.folder).record.recipe.distillation
    assert own.teachers == (str(bundle.resolve()),)
    fingerprint = trainer.recipe.distillation.fingerprint
    assert len(fingerprint) == 64
    assert json.loads((trainer.folder / "recipe.json").read_text())["distillation"] == {
        **own.model_dump(mode="json"),
        "fingerprint": fingerprint,
    }


def test_targets_move_with_the_labels(taught, maps):
    trainer = taught(maps, temperature=1)
    assert trainer.recipe.paper_augmentation
    sample = trainer.dataset[(3, 0)]["label"]
    decided = torch.cat([255 - sample[1:].sum(0, keepdim=True), sample[1:]]).argmax(0)
    assert decided.unique().numel() > 1
    assert torch.equal(decided, sample[0])
    strong = trainer.recipe.augmentation.replace(p_affine=1, p_elastic=1, p_mirror=1)
    augment = type(trainer.augment)(strong, 0)
    images = torch.zeros(1, 1, *sample.shape[1:])
    _, moved = augment(images, sample[None], [(0, 0)])
    decided = torch.cat([255 - moved[0, 1:].sum(0, keepdim=True), moved[0, 1:]]).argmax(0)
    assert not torch.equal(moved[0, 0], sample[0])
    assert torch.equal(decided, moved[0, 0])


@pytest.fixture
def others(toy, tmp_path, maps):
    """Two images that nobody labelled, one of them the toy's own; the tool segmented both."""
    root = tmp_path / "others"
    rng = np.random.default_rng(5)
    label = np.zeros((20, 26, 3), np.uint8)
    label[5:9, 6:12] = 2
    write_pair(
        root, "other", (200 * label + rng.normal(0, 20, label.shape)).astype(np.int16), label
    )
    shutil.copy(root / "labelsTr/other.nii.gz", maps)
    shutil.copy(toy / "imagesTr/toy_0.nii.gz", root / "imagesTr/again.nii.gz")
    return root / "imagesTr"


@pytest.mark.parametrize("dimensions", [2, 3])
def test_images_that_nobody_labelled_train_too(maps, others, toy, tmp_path, recipe, dimensions):
    prepare(open_dataset(toy), tmp_path / "prepared", dimensions=dimensions)
    own = {"teachers": [str(maps)], "temperature": 1, "images": str(others)}
    asked = recipe(distillation=own)
    if dimensions == 3:
        changes = {"model": "UNet3D-S", "iterations": 1, "architecture.width": 4, "batch_size": 2}
        asked = load_recipe("modern3d", {**changes, "distillation": own, "image_size": 16})
    trainer = start(tmp_path / "run", tmp_path / "prepared", asked, device="cpu")
    sampled = {trainer.dataset.locate(i)[0] for i in range(len(trainer.dataset))}
    assert sampled == {*trainer.split.train}
    assert "other" in sampled
    assert "again" not in sampled  # one of the labelled cases by another name
    target = trainer.store.target("other")
    assert (target[0] == 255).all()
    assert trainer.store.ignored == 255
    assert (target[1] > 200).sum() == 4 * 6 * 3  # the tool's 2 is the disc, the student's 1
    assert trainer.store.image("other").shape[1:] == target.shape[1:]
    assert trainer.store.cases["other"].slices_with.keys() == {1}
    assert next(trainer.batches())[1].shape[1] == 3
    if dimensions == 3:
        assert len(trainer.store.foreground("other", 1)) == 4 * 6 * 3


def test_a_labelled_image_that_the_split_leaves_out_may_be_taught(
    maps, others, store, tmp_path, recipe
):
    shutil.copy(maps / "toy_0.nii.gz", maps / "again.nii.gz")
    splits = Splits((Split(("toy_1",), ("toy_2",)),), "a user's")
    own = {"teachers": [str(maps)], "images": str(others)}
    trainer = start(tmp_path / "run", store, recipe(distillation=own), device="cpu", splits=splits)
    assert trainer.split.train == ("toy_1", "again", "other")


@pytest.mark.slow
def test_a_run_with_a_teacher_is_resumed_bit_by_bit(taught, maps, others, tmp_path):
    asked = {"images": str(others), "soft_weight": 0.7}
    steps(taught(maps, folder="whole", **asked))
    trainer = taught(maps, folder="halves", **asked)
    list(islice(train(trainer), 4))
    save(trainer)
    kept = target_file(tmp_path / "halves/teacher", trainer.split.train[0])
    kept.unlink()  # as if the disk had been cleared: the teacher is asked again
    again = resume(tmp_path / "halves", device="cpu")
    assert 0 < again.state.step < 6
    steps(again)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "halves"))


def test_what_a_teacher_cannot_teach_is_refused_before_anything_is_written(
    taught, maps, tmp_path, monkeypatch
):
    names = maps / "dataset.json"
    names.write_text(json.dumps({"labels": {"background": 0, "liver": 1, "disc": 2}}))
    with pytest.raises(ConfigError, match=r"does not know spot.*it knows liver, disc.*by name"):
        taught(maps)
    names.write_text(json.dumps({"labels": {"background": 0, "spot": 1, "disc": 2}}))
    with pytest.raises(ConfigError, match="mirror is for bundles"):
        taught(maps, mirror=True)
    with pytest.raises(ConfigError, match=r"maps is not a bundle"):
        taught(maps, tmp_path / "gone")
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
        with pytest.raises(ConfigError, match=r"takes about 1 MiB .* 0 MiB are free"):
            taught(maps)
    for path in maps.glob("toy_[123]*"):
        path.unlink()
    with pytest.raises(DataError, match=r"neither a label map nor probabilities of \d of 4 cases"):
        taught(maps)
    assert not (tmp_path / "run").exists()


def test_a_map_on_another_grid_or_with_unknown_labels_is_refused(taught, maps, tmp_path):
    for path in maps.glob("toy_*"):
        nibabel.save(nibabel.Nifti1Image(np.full((24, 28, 4), 7, np.uint8), np.eye(4)), path)
    with pytest.raises(DataError, match=r"holds the labels 7, which have no name; expected 0 back"):
        taught(maps)
    shutil.rmtree(tmp_path / "run")
    for path in maps.glob("toy_*"):
        nibabel.save(nibabel.Nifti1Image(np.zeros((24, 28, 5), np.uint8), np.eye(4)), path)
    with pytest.raises(GeometryError, match=r"lies on another grid than .*toy_"):
        taught(maps)


@pytest.mark.slow
def test_a_teacher_of_other_channels_or_regions_is_refused(job, taught, tmp_path):
    steps(job(folder="teacher", iterations=1, validations=1))
    bundle = tmp_path / "teacher/best"
    config = read_config(bundle)
    channel = config.preprocessing.channels[0]
    two = config.preprocessing.replace(channels=(channel, channel.replace(name="T2")))
    architecture = config.architecture.replace(in_channels=2)
    write_config(config.replace(preprocessing=two, architecture=architecture), bundle)
    with pytest.raises(ConfigError, match=r"takes 2 channels .* the student's images have 1"):
        taught(bundle)
    regions = [{"name": "both", "members": [1, 2], "label": 1}]
    of_regions = config.architecture.replace(regions=[[1, 2]], num_classes=1)
    write_config(config.replace(architecture=of_regions, regions=regions), bundle)
    with pytest.raises(ConfigError, match=r"tells regions apart that overlap \(both\)"):
        taught(bundle)
    with pytest.raises(ConfigError, match=r"is a run, not a bundle: give .*best"):
        taught(tmp_path / "teacher")


def test_probabilities_of_nnunet_and_of_predict_are_read(taught, maps, toy, tmp_path):
    """Axes of nnU-Net's run the other way; they teach what they are."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "probabilities"
    folder.mkdir()
    shutil.copy(maps / "dataset.json", folder)
    kept = {}
    for number, path in enumerate(sorted((toy / "imagesTr").glob("*.nii.gz"))):
        values = rng.dirichlet([1, 1, 1], (24, 28, 4)).astype(np.float32)
        kept[name := path.name.removesuffix(".nii.gz")] = values
        if number % 2:
            np.save(folder / f"{name}.npy", np.moveaxis(values, -1, 0))
        else:
            np.savez(folder / f"{name}.npz", probabilities=values.T)
    trainer = taught(folder, temperature=1)
    for name in trainer.split.train:
        image = read_volume(toy / f"imagesTr/{name}.nii.gz")
        disc_then_spot = np.moveaxis(kept[name], -1, 0)[[2, 1]]
        expected = trainer.store.preprocessing.oriented(image.with_array(disc_then_spot))
        target = trainer.store.target(name)
        np.testing.assert_allclose(target[1:] / 255, expected, atol=0.5 / 255 + 1e-6)
    np.save(folder / f"{trainer.split.train[0]}.npy", np.ones((3, 9, 9, 9), np.float32))
    (folder / f"{trainer.split.train[0]}.npz").unlink(missing_ok=True)
    with pytest.raises(
        GeometryError, match=r"shape \(3, 9, 9, 9\) do not fit; expected \(3, 24, 28"
    ):
        taught(folder, folder="other")


@pytest.mark.slow
def test_a_teacher_that_saw_what_is_held_out_is_told(job, taught, tmp_path, caplog):
    trainer = job(folder="teacher", iterations=1, validations=1)
    steps(trainer)
    record = json.loads((tmp_path / "teacher/run.json").read_text())
    part = record["splits"]["parts"][0]
    part["train"], part["validation"] = part["validation"], part["train"]
    (tmp_path / "teacher/run.json").write_text(json.dumps(record))
    with caplog.at_level("WARNING", "transunet"):
        taught(tmp_path / "teacher/best")
    assert (
        f"was trained on 1 of the 1 held-out cases ({trainer.split.validation[0]})" in caplog.text
    )


def test_another_teacher_does_not_go_on(taught, maps, tmp_path):
    trainer = taught(maps)
    folder = tmp_path / "run/teacher"
    target_file(folder, trainer.split.train[0]).unlink()
    path = maps / f"{trainer.split.train[1]}.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((24, 28, 4), np.uint8), np.eye(4)), path)
    with pytest.raises(ConfigError, match="since then the teacher, the cases or a setting changed"):
        resume(tmp_path / "run", device="cpu")


def test_a_weight_is_a_share():
    with pytest.raises(ConfigError, match="soft_weight"):
        Distillation(teachers=("T",), soft_weight=1.2)
    with pytest.raises(ConfigError, match="teachers"):
        Distillation(teachers=())

"""Regions from a folder to evaluated label maps: nested ellipsoids in four channels, as BraTS."""

import json
import os
import shutil
import signal

import nibabel as nib
import numpy as np
import pytest

from training_runs import same, steps, weights
from transunet.batch.run import predict_cases
from transunet.bundle.bundle_config import read_config
from transunet.data.inputs import find_inputs
from transunet.data.layouts import open_dataset
from transunet.data.prepare import prepare
from transunet.errors import ConfigError
from transunet.evaluation.evaluate import EvaluationRequest, evaluate
from transunet.export.export import export
from transunet.inference.predictor import Predictor
from transunet.training.held_out_maps import report_held_out
from transunet.training.log import read_log
from transunet.training.loop import Interrupted, train
from transunet.training.recipe import load_recipe
from transunet.training.runs import Run, resume, start
from transunet.training.teacher import SMOOTHING

pytestmark = pytest.mark.slow

MEMBERS = {"whole tumor": (1, 2, 4), "tumor core": (1, 4), "enhancing tumor": (4,)}
QUICK = {"batch_size": 2, "iterations": 4, "validations": 1, "weights": "none"}
SMALL = {"poolings": [(1, 2, 2), (2, 2, 2), (2, 2, 2)], "kernels": [(3, 3, 3)] * 4, "width": 4}
RUNS = {
    "slices": ("modern", {"model": "testing", "image_size": 32}),
    "patches": ("modern3d", {"model": "UNet3D-S", "image_size": 16, "architecture": SMALL}),
    "queries": (
        "modern3d",
        {
            "model": "TransUNet3D-decoder-S",
            "image_size": 16,
            "architecture": {**SMALL, "queries": {"num_queries": 4, "mlp_size": 8}},
        },
    ),
}


@pytest.fixture(scope="module")
def brats(tmp_path_factory):
    """Four cases, whose labels are those of the first challenges: 2 around 1 around 4."""
    root = tmp_path_factory.mktemp("data") / "Dataset001_Brats"
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    for number in range(4):
        rng = np.random.default_rng(number)
        grid = np.moveaxis(np.indices((24, 22, 16)), 0, -1) - np.array([12, 11, 8 + number % 2])
        distance = np.linalg.norm(grid / np.array([9, 8, 6]), axis=-1)
        label = np.select([distance < 0.4, distance < 0.7, distance < 1], [4, 1, 2], 0)
        nib.save(nib.Nifti1Image(label.astype(np.uint8), affine), root / f"labelsTr/c{number}.nii")
        for channel in range(4):
            image = rng.normal(0, 20, label.shape) + 100 * np.isin(label, (1, 2, 4)[channel % 3 :])
            path = root / f"imagesTr/c{number}_{channel:04d}.nii"
            nib.save(nib.Nifti1Image(image.astype(np.int16), affine), path)
    description = {
        "channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"},
        "labels": {"background": 0, **MEMBERS},
        "regions_class_order": [2, 1, 4],
        "file_ending": ".nii",
    }
    (root / "dataset.json").write_text(json.dumps(description))
    return root


@pytest.fixture(scope="module")
def stores(brats):
    data = open_dataset(brats)
    return {d: prepare(data, brats.parent / f"store{d}", dimensions=d).path for d in (2, 3)}


def begin(folder, stores, kind, **changes):
    preset, settings = RUNS[kind]
    recipe = load_recipe(preset, {**QUICK, **settings, **changes})
    return start(folder, stores[recipe.axes], recipe, device="cpu")


def plain_dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


@pytest.mark.parametrize("kind", RUNS)
def test_what_is_learned_written_and_measured_are_regions(tmp_path, brats, stores, kind):
    job = begin(tmp_path / "run", stores, kind, foreground=0.5)
    for event in train(job):
        assert np.isfinite(getattr(event, "loss", 0))
    config = read_config(tmp_path / "run/last")
    assert {region.name: region.members for region in config.regions} == MEMBERS
    assert [region.label for region in config.regions] == [2, 1, 4]
    assert config.architecture.num_classes == 3
    predictor = Predictor.from_pretrained(tmp_path / "run/last", device="cpu", engine="eager")
    predict_cases(predictor, find_inputs([brats], 4), tmp_path / "out")
    found = evaluate(tmp_path / "out", EvaluationRequest(brats)).evaluation
    validated = read_log(tmp_path / "run", "validation")[-1]["cases"]
    assert validated.keys() == {*job.split.validation}
    for record in found.cases:
        maps = [tmp_path / f"out/{record.name}.nii", brats / f"labelsTr/{record.name}.nii"]
        arrays = [np.asarray(nib.load(path).dataobj) for path in maps]
        assert set(np.unique(arrays[0])) <= {0, 1, 2, 4}
        for structure in found.structures:
            assert MEMBERS[structure.name] == structure.values
            expected = plain_dice(*(np.isin(array, structure.values) for array in arrays))
            assert record.metrics[structure.key].dice == pytest.approx(expected)
            if kind == "slices" and record.name in validated:  # no resampling in between
                assert validated[record.name][structure.name] == pytest.approx(expected)
    if kind == "slices":  # the network of one validation is both the best and the last
        held_out, written = report_held_out(Run.reopen(job.folder), "cpu")
        assert all(path.is_file() for path in written)
        for record in held_out.evaluation.cases:
            whole = next(each for each in found.cases if each.name == record.name)
            assert record.metrics == whole.metrics
        assert {record.name for record in held_out.evaluation.cases} == validated.keys()
    statistics = json.loads((tmp_path / "out/statistics.json").read_text())
    assert statistics["c0"].keys() == MEMBERS.keys()


def stop_after_two(job):
    """Train two steps, then as if Ctrl-C came."""
    for event in train(job):
        if getattr(event, "lr", None) is not None and event.step == 1:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("kind", ["slices", "queries"])
def test_a_resumed_run_ends_the_same_to_the_bit(tmp_path, stores, kind):
    steps(begin(tmp_path / "whole", stores, kind))
    with pytest.raises(Interrupted):
        stop_after_two(begin(tmp_path / "part", stores, kind))
    steps(resume(tmp_path / "part", device="cpu"))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "part"))


def test_another_data_sets_regions_keep_their_heads_by_name(tmp_path, brats, stores, toy, store):
    first = begin(tmp_path / "first", stores, "slices", iterations=1)
    steps(first)
    name = "segmentation_head.0.weight"
    old = first.best_guess.state_dict()[name]
    description = json.loads((brats / "dataset.json").read_text())
    description["labels"] = {"background": 0, "tumor core": [1, 2, 4], "cyst": [1, 4], "edge": [4]}
    other = tmp_path / "other"
    other.mkdir()
    for part in ("imagesTr", "labelsTr"):
        (other / part).symlink_to(brats / part)
    (other / "dataset.json").write_text(json.dumps(description))
    recipe = load_recipe("modern", {**QUICK, "weights": str(tmp_path / "first/best")})
    job = start(tmp_path / "run", other, recipe, device="cpu")
    new = job.model.state_dict()[name]
    assert (new[0] == old[1]).all()
    assert not any((new[1] == row).all() for row in old)
    assert "kept for tumor core; fresh for cyst, edge" in "\n".join(job.beginning.notes)
    job = start(tmp_path / "classes", store, recipe, device="cpu")
    assert "fresh (classes on one side, regions on the other)" in "\n".join(job.beginning.notes)


def test_ensembles_of_other_regions_are_refused(tmp_path, stores):
    steps(begin(tmp_path / "run", stores, "slices", iterations=1))
    bundle, other = tmp_path / "run/best", tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").symlink_to(bundle / "model.safetensors")
    content = json.loads((bundle / "config.json").read_text())
    content["regions"][0]["name"] = "everything"
    (other / "config.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"their regions differ"):
        Predictor.from_pretrained([bundle, other], device="cpu", engine="eager")


@pytest.mark.runtime
def test_an_exported_file_writes_the_same_labels(tmp_path, brats, stores):
    pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    steps(begin(tmp_path / "run", stores, "patches", iterations=2))
    bundle, file = tmp_path / "run/best", tmp_path / "network.onnx"
    export(bundle, file)
    images = sorted((brats / "imagesTr").glob("c0_*.nii"))
    from_file = Predictor.from_pretrained(file, device="cpu")
    from_bundle = Predictor.from_pretrained(bundle, device="cpu", engine="eager")
    assert from_file.regions == from_bundle.regions
    labels = from_bundle(images).array
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(from_file(images).array, labels)


@pytest.mark.parametrize("kind", RUNS)
def test_regions_are_taught_by_label_maps_of_classes(tmp_path, brats, stores, kind):
    """What makes up a region is added up; images that nobody labelled get regions as labels."""
    maps, more = tmp_path / "maps", tmp_path / "more"
    shutil.copytree(brats / "labelsTr", maps)
    more.mkdir()
    for channel in range(4):
        image = nib.load(brats / f"imagesTr/c0_{channel:04d}.nii")
        turned = nib.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine)
        nib.save(turned, more / f"d_{channel:04d}.nii")
    label = nib.load(maps / "c0.nii")
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj)[::-1], label.affine), maps / "d.nii")
    teacher = {"teachers": [str(maps)], "images": str(more), "temperature": 2}
    job = begin(tmp_path / "run", stores, kind, distillation=teacher)
    name, least = job.split.train[0], SMOOTHING / 4
    planes = job.store.target(name)[1:] / 255
    for plane, members in zip(planes, MEMBERS.values(), strict=True):
        inside = np.isin(job.store.label(name), members)
        p = (1 - SMOOTHING) * inside + least * len(members)
        expected = np.sqrt(p) / (np.sqrt(p) + np.sqrt(1 - p))
        close = np.abs(plane - expected) < 1 / 255  # but where patches' labels were resampled
        assert close.mean() == 1 if kind == "slices" else close.mean() > 0.9
    assert (job.store.target("d")[0] == 255).all()
    assert job.store.cases["d"].slices_with.keys() == {1, 2, 4}
    assert all(np.isfinite(step.loss) for step in steps(job))

"""The commands with a bundle of a 3D network: predicted as slices are, or refused in a sentence."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

import transunet.export.export as export_module
from prediction import OBLIQUE, nib, noise, save_nifti, tiny_bundle
from tiny_3d import TINY_3D
from transunet import create_model
from transunet.batch.run import predict_file
from transunet.bundle.bundle_config import BundleConfig, read_config
from transunet.bundle.io import save_pretrained
from transunet.cli.main import app
from transunet.data.formats import read_volume
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.sampling.patches import Patches
from transunet.errors import ConfigError
from transunet.export.calibration import calibration_images
from transunet.export.export import export
from transunet.inference.predictor import Predictor

SIZE = (8, 16, 16)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = create_model(
        "TransUNet3D-S",
        num_classes=3,
        image_size=SIZE,
        **TINY_3D,
    )
    config = BundleConfig(
        architecture=model.config,
        preprocessing=Preprocessing(
            channels=(Channel(name="MRI"),), spacing_mm=(2.0, 1.0, 1.0), orientation="LPS"
        ),
        labels={0: "background", 1: "left", 2: "right"},
    )
    return save_pretrained(model, config, tmp_path_factory.mktemp("bundles") / "volumes")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return save_nifti(tmp_path / "images" / "scan.nii.gz", noise((20, 24, 9)) + 1200)


def predict(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", "--device", "cpu", *map(str, arguments)])


def test_the_command_writes_the_label_map_and_all_that_goes_with_it(bundle, image, tmp_path):
    more = ("--probabilities", "npy", "--uncertainty", "--view")
    out = tmp_path / "out"
    done = predict(bundle, image, "-o", out, *more)
    assert done.exit_code == 0, done.output
    assert " patches " in done.output
    labels = nib.load(out / "scan.nii.gz")
    expected = Predictor.from_pretrained(bundle, device="cpu", engine="eager")(image)
    np.testing.assert_array_equal(np.asarray(labels.dataobj), expected.array[0])
    np.testing.assert_allclose(labels.affine, OBLIQUE, atol=1e-5)
    assert (out / "sheets" / "scan.png").exists()
    assert np.load(out / "probabilities" / "scan.npy").shape == (3, 20, 24, 9)
    assert (out / "uncertainty" / "scan.nii").exists()
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["batch_size"] == 8
    again = predict(bundle, image, "-o", out, *more)
    assert "1 finished before" in again.stdout
    both = predict(bundle, image, "-o", tmp_path / "both", "--procedure", "both")
    assert isinstance(both.exception, ConfigError)
    assert "this network takes patches" in str(both.exception)
    assert not (tmp_path / "both").exists()


def test_patches_are_counted(bundle, image, tmp_path):
    told: list[tuple[int, int]] = []
    predict_file(
        bundle, image, tmp_path / "labels.npz", progress=lambda *n: told.append(n), device="cpu"
    )
    patches = len(Patches(size=SIZE).positions((11, 14, 17)))
    assert told == [(done, patches) for done in range(1, patches + 1)]


def test_what_decides_the_labels_of_patches_is_in_the_fingerprint(bundle, tmp_path):
    predictor = Predictor.from_pretrained(bundle, device="cpu", engine="eager")
    other = predictor.replace(sampling=predictor.sampling.replace(overlap=0.25))
    assert other.fingerprint != predictor.fingerprint
    assert predictor.replace(mirror=True).fingerprint == predictor.fingerprint


def test_members_of_an_ensemble_are_averaged(bundle, image):
    alone = Predictor.from_pretrained(bundle, device="cpu", engine="eager")
    twice = Predictor.from_pretrained([bundle, bundle], device="cpu", engine="eager")
    assert (alone(image).array == twice(image).array).mean() > 0.999


def test_slices_and_patches_predict_together(bundle, image, tmp_path):
    slices = tiny_bundle(tmp_path / "slices", channels_named=["MRI"])
    out, more = tmp_path / "out", ("--probabilities", "npy", "--uncertainty")
    done = predict(slices, image, "--ensemble", bundle, "-o", out, *more)
    assert done.exit_code == 0, done.output
    for source in (slices, bundle):
        alone = tmp_path / f"{source.name}.npy"
        predictor = Predictor.from_pretrained(source, device="cpu", engine="eager")
        predictor(image, probabilities=alone)
    mean = (np.load(tmp_path / "slices.npy").astype(float) + np.load(tmp_path / "volumes.npy")) / 2
    np.testing.assert_allclose(np.load(out / "probabilities" / "scan.npy"), mean, atol=2e-3)
    labels = np.asarray(nib.load(out / "scan.nii.gz").dataobj)
    assert (labels == mean.argmax(axis=0)).mean() > 0.99
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["bundle"]["sources"] == [str(slices), str(bundle)]
    statistics = json.loads((out / "statistics.json").read_text())["scan"]
    assert statistics["left"]["voxels"] == (labels == 1).sum()


@pytest.mark.slow
@pytest.mark.runtime
@pytest.mark.process
def test_int8_is_calibrated_on_patches_and_predicts_without_torch(
    bundle, image, tmp_path, monkeypatch
):
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    images = calibration_images([image], read_config(bundle), count=3)
    assert images.shape == (3, 1, *SIZE)
    working = read_config(bundle).preprocessing.to_working(read_volume(image))
    sampling = Patches(size=SIZE)
    seen = [sampling.read(working, at) for at in sampling.positions(working.shape[1:])]
    assert all(any(np.allclose(one, patch) for patch in seen) for one in images)
    # Random weights decide on noise by a hair; trained ones keep 99.5 % of labels.
    monkeypatch.setattr(export_module, "LEAST_EQUAL", 0.5)
    told = export(bundle, tmp_path / "int8.onnx", int8_images=images)
    assert told.shape == "(batch, 1, 8, 16, 16)"
    assert told.difference > 1e-3  # it is not fp32 after all
    expected = Predictor.from_pretrained(told.path)(image)
    code = "import sys; sys.modules['torch'] = None; from transunet.cli.main import main; main()"
    command = [sys.executable, "-c", code, "predict", "int8.onnx", str(image), "-o", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "Computing with onnxruntime in int8" in done.stdout, done.stderr
    labels = np.asarray(nib.load(tmp_path / "out" / "scan.nii.gz").dataobj)
    np.testing.assert_array_equal(labels, expected.array[0])


@pytest.mark.runtime
def test_an_exported_program_predicts_the_same(bundle, image, tmp_path):
    exported = export(bundle, tmp_path / "volumes.pt2")
    assert exported.shape == "(batch, 1, 8, 16, 16)"
    alone = Predictor.from_pretrained(bundle, device="cpu", engine="eager")(image)
    file = Predictor.from_pretrained(exported.path, device="cpu", trust=True)(image)
    assert (file.array == alone.array).mean() > 0.999

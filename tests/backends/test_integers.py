"""int8 of a bundle: the ranges that it keeps, what they are worth, and when fp32 is taken."""

import json
import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from prediction import save_nifti, tiny_bundle, tiny_model
from tiny_3d import TINY_3D
from transunet.backends import compare, conversion, engines
from transunet.backends.opening import open_network
from transunet.bundle.bundle_config import BundleConfig, keep_ranges, read_config
from transunet.bundle.fast import attach
from transunet.bundle.integer_ranges import IntegerFidelity, IntegerRanges
from transunet.bundle.io import from_pretrained, save_pretrained
from transunet.cli.main import app
from transunet.create import create_model
from transunet.data.preprocessing import Preprocessing
from transunet.errors import ConfigError
from transunet.inference.predictor import Predictor
from transunet.models.network_fingerprint import fingerprint_of
from transunet.models.quantised import QuantisedLayer, measured_ranges, quantised

pytestmark = pytest.mark.runtime


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSUNET_CACHE", str(tmp_path / "cache"))


def calibrated(bundle: Path, fidelity: IntegerFidelity | None = None) -> Path:
    """Keep the ranges of noise in a bundle, which its random weights were scaled for."""
    model, config = from_pretrained(bundle)
    shape = (4, 1, *config.architecture.image_size)
    noise = torch.from_numpy(np.random.default_rng(1).standard_normal(shape, dtype=np.float32))
    ends = measured_ranges(model, noise.split(2))
    keep_ranges(bundle, IntegerRanges.of(fingerprint_of(model), 4, ends, fidelity))
    return bundle


def bundle_of_patches(folder: Path) -> Path:
    torch.manual_seed(0)
    size = {"num_classes": 3, "image_size": (8, 16, 16)}
    model = create_model("TransUNet3D-S", **size, **TINY_3D)
    names = {0: "background", 1: "left", 2: "right"}
    config = BundleConfig(architecture=model.config, preprocessing=Preprocessing(), labels=names)
    return save_pretrained(model, config, folder)


def forced(int8: float, fp32: float) -> Callable[..., tuple[float, float]]:
    return lambda *_: (int8, fp32)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("kind", ["slices", "patches"])
def test_an_engine_computes_what_was_checked(
    kind: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in engines.ENGINES[engine].packages:
        pytest.importorskip(package)
    monkeypatch.setattr(conversion, "_seconds", forced(1.0, 2.0))
    make = tiny_bundle if kind == "slices" else bundle_of_patches
    bundle = calibrated(make(tmp_path / "bundle"))
    opened = open_network(bundle, "cpu", engine, "int8")
    assert (opened.engine, opened.precision) == (engine, "int8")
    model, config = from_pretrained(bundle)
    ranges = config.ranges
    assert ranges is not None
    images = np.random.default_rng(1).standard_normal(  # the first of those that were measured
        (3, 1, *config.architecture.image_size), dtype=np.float32
    )
    with torch.inference_mode():
        plain = model(torch.from_numpy(images)).numpy()
        checked = quantised(model, ranges.ends)(torch.from_numpy(images)).numpy()
    found = np.asarray(opened.network(images))
    assert np.abs(found - plain).max() > 1e-3 * plain.std()  # it is not fp32 after all
    # A number that lies between two levels may be rounded to either.
    assert np.abs(found - checked).mean() < 0.5 * np.abs(found - plain).mean()
    assert (found.argmax(1) == checked.argmax(1)).mean() > 0.99
    assert opened.network.fingerprint != fingerprint_of(model)


def test_what_is_compared_is_the_processors_time_and_not_what_others_make_one_wait(monkeypatch):
    def network(seconds, waits):
        def compute(images):
            time.sleep(waits)
            until = time.process_time() + seconds
            while time.process_time() < until:
                pass

        return compute

    monkeypatch.setattr(conversion, "_TIMED", 0.3)
    seconds = conversion._seconds(np.zeros(1, np.float32), network(0.01, 0.05), network(0.02, 0))
    assert 0.01 <= seconds[0] < 0.02 <= seconds[1]


def test_the_faster_of_int8_and_fp32_is_taken_as_the_record_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(conversion, "_seconds", forced(0.02, 0.01))
    bundle = calibrated(tiny_bundle(tmp_path / "bundle"))
    with caplog.at_level(logging.INFO, "transunet"):
        opened = open_network(bundle, "cpu", "auto", "int8")
        monkeypatch.setattr(conversion, "_seconds", None)  # measured once
        again = open_network(bundle, "cpu", "auto", "int8")
    assert (
        (opened.engine, opened.precision) == (again.engine, again.precision) == ("openvino", "fp32")
    )
    assert caplog.text.count("fp32 on this processor (20 ms of its time, and 10)") == 2
    assert caplog.text.count("int8 takes 200% of fp32's time") == 1
    assert opened.network.fingerprint == fingerprint_of(from_pretrained(bundle)[0])


@pytest.mark.parametrize(("difference", "taken"), [(0.5, True), (1.5, False), (np.nan, False)])
def test_levels_of_rounding_are_no_other_network(
    difference: float, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(conversion, "_seconds", forced(0.01, 0.02))
    exact = compare.compare

    def compared(model: torch.nn.Module, *others: Any) -> tuple[float, float]:
        rounds = any(isinstance(part, QuantisedLayer) for part in model.modules())
        return (difference, 1.0) if rounds else exact(model, *others)

    monkeypatch.setattr(compare, "compare", compared)
    bundle = calibrated(tiny_bundle(tmp_path / "bundle"))
    with nullcontext() if taken else pytest.raises(ConfigError, match="cannot be converted"):
        assert open_network(bundle, "cpu", "openvino", "int8").precision == "int8"


@pytest.mark.parametrize(
    ("equal", "dice", "precision"),
    [
        (0.9951, (0.84, 0.8381), "int8"),
        (0.9951, None, "int8"),
        (0.9949, (0.84, 0.84), "fp32"),
        (0.9999, (0.84, 0.8379), "fp32"),
    ],
)
def test_int8_that_changes_too_much_gives_way(
    equal: float,
    dice: tuple[float, float] | None,
    precision: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("openvino")
    asked = []

    def instead(source: Path, config: object, engine: str, precision: str) -> conversion.Converted:
        asked.append(precision)
        raise ConfigError("no further")

    monkeypatch.setattr("transunet.backends.opening.converted", instead)
    fidelity = IntegerFidelity(samples=64, kind="slices", equal=equal, dice=dice)
    bundle = calibrated(tiny_bundle(tmp_path / "bundle"), fidelity)
    with pytest.raises(ConfigError, match="no further"):
        open_network(bundle, "cpu", "openvino", "int8")
    assert asked == [precision]
    assert ("changes too much" in caplog.text) == (precision == "fp32")


def test_ranges_of_other_weights_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    bundle = calibrated(tiny_bundle(tmp_path / "bundle"))
    other = tiny_bundle(tmp_path / "other", seed=1)
    (bundle / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(ConfigError, match=r"measured with other weights.*transunet calibrate"):
        open_network(bundle, "cpu", "auto", "int8")


def test_other_weights_are_saved_without_the_ranges(tmp_path: Path) -> None:
    bundle = calibrated(tiny_bundle(tmp_path / "bundle"))
    model, config = from_pretrained(bundle)
    same = read_config(save_pretrained(model, config, tmp_path / "same"))
    assert same.ranges == config.ranges is not None
    other = tiny_model(seed=1)
    assert read_config(save_pretrained(other, config, tmp_path / "other")).ranges is None


def test_without_an_engine_the_command_that_installs_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = calibrated(tiny_bundle(tmp_path / "bundle"))
    monkeypatch.setattr(engines, "find_spec", lambda package: package == "torch" or None)
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"pip install 'transunet-torch\[openvino\]'"):
        open_network(bundle, "cpu", "auto", "int8")


@pytest.mark.slow
def test_the_small_network_of_a_bundle_is_the_fast_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(conversion, "_seconds", forced(0.01, 0.02))
    large, image = tiny_bundle(tmp_path / "large"), save_nifti(tmp_path / "a.nii.gz")

    def fast(out: str, *more: str) -> str:
        words = ["predict", str(large), str(image), "-o", str(tmp_path / out), "--fast", *more]
        result = CliRunner().invoke(app, [*words, "--device", "cpu"])
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    told = fast("alone")
    assert "has no small network" in told
    assert "Computing with eager in fp32" in told  # without ranges
    small = calibrated(tiny_bundle(tmp_path / "small", seed=1))
    with pytest.raises(ConfigError, match="cannot be its own small network"):
        attach(large, large)
    attach(small, large)
    assert "Computing with openvino in int8" in fast("taken")
    manifest = json.loads((tmp_path / "taken" / "manifest.json").read_text(encoding="utf-8"))
    expected = Predictor.from_pretrained(small, device="cpu", precision="int8")
    assert manifest["bundle"]["sha256"] == expected.fingerprint
    assert "Computing with eager in fp32" in fast("exact", "--engine", "eager")
    words = ["predict", str(large), str(image), "-o", "out", "--fast", "--ensemble", str(small)]
    refused = CliRunner().invoke(app, words).exception
    assert isinstance(refused, ConfigError)
    assert "--fast takes one small network" in str(refused)

"""Which engine is taken, and what each refuses."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from prediction import tiny_bundle
from transunet.backends import engines, opening, threads
from transunet.backends.engines import best_device, own_device
from transunet.backends.opening import candidates, open_network
from transunet.errors import ConfigError, WeightsError
from transunet.inference.predictor import Predictor


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("engines") / "bundle")


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every engine were installed and every network worth converting."""
    monkeypatch.setattr(engines, "find_spec", lambda package: package)
    monkeypatch.setattr(opening, "_LEAST_BYTES", 0)


@pytest.mark.usefixtures("everything")
def test_auto_tries_the_fastest_first(bundle: Path) -> None:
    assert candidates(bundle, "auto", "fp32", "cpu") == (
        ["openvino", "onnxruntime", "eager"],
        "cpu",
    )
    assert candidates(bundle, "auto", "bf16", "cpu") == (["openvino", "eager"], "cpu")


def test_auto_leaves_out_what_is_not_installed(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_LEAST_BYTES", 0)
    monkeypatch.setattr(engines, "find_spec", lambda package: package != "openvino" or None)
    assert candidates(bundle, "auto", "fp32", "cpu")[0] == ["onnxruntime", "eager"]
    # ONNX Runtime is there, but nothing that converts for it.
    there = {"torch", "onnxruntime"}
    monkeypatch.setattr(engines, "find_spec", lambda package: package in there or None)
    assert candidates(bundle, "auto", "fp32", "cpu")[0] == ["eager"]


def test_auto_converts_no_tiny_network(bundle: Path) -> None:
    assert candidates(bundle, "auto", "fp32", "cpu")[0] == ["eager"]


@pytest.mark.parametrize(
    ("engine", "precision", "device", "says"),
    [
        ("fast", "auto", "cpu", "no engine 'fast'; known: auto, openvino"),
        ("auto", "fp8", "cpu", "no precision 'fp8'; known: auto, fp32, bf16, fp16, int8"),
        ("auto", "int8", "cpu", "transunet calibrate"),
        ("eager", "int8", "cpu", "Engines that do: openvino, onnxruntime"),
        ("auto", "fp16", "cpu", None),
        ("eager", "fp16", "cpu", "eager does not compute in fp16 on cpu; possible: fp32, bf16"),
        ("onnxruntime", "bf16", "cpu", "Engines that do: openvino, eager, compiled"),
    ],
)
@pytest.mark.usefixtures("everything")
def test_what_cannot_be_had_is_refused(
    bundle: Path, engine: str, precision: str, device: str, says: str | None
) -> None:
    if says is None:
        assert candidates(bundle, engine, precision, device)[0] == ["openvino"]
        return
    with pytest.raises(ConfigError, match=says):
        open_network(bundle, device, engine, precision)


def test_an_engine_for_the_cpu_is_refused_elsewhere(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    for module in (engines, opening):
        monkeypatch.setattr(module, "best_device", lambda name: name or "cuda:0")
    with pytest.raises(ConfigError, match="openvino computes on cpu, not on cuda:0"):
        candidates(bundle, "openvino", "fp32", "cuda:0")
    assert candidates(bundle, "openvino", "fp32", None) == (["openvino"], "cpu")
    assert candidates(bundle, "auto", "fp16", None) == (["eager"], "cuda:0")
    assert candidates(bundle, "compiled", "bf16", None) == (["compiled"], "cuda:0")


def test_a_missing_package_names_its_extra(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"transunet-torch\[openvino\]"):
        candidates(bundle, "openvino", "fp32", "cpu")


def test_a_device_that_is_not_here_is_refused() -> None:
    assert best_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="available: "):
        best_device("tpu9")


def test_each_process_of_torchrun_gets_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(engines, "_may_have_accelerator", lambda: True)
    assert own_device(None) is None
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device(None) == "cuda:1"
    assert own_device("cpu") == "cpu"


@pytest.mark.usefixtures("everything")
def test_auto_falls_back_and_says_so(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise ConfigError("the exporter choked")

    monkeypatch.setattr("transunet.backends.opening.converted", fails)
    with caplog.at_level(logging.WARNING):
        predictor = Predictor.from_pretrained(bundle, device="cpu")
    assert (predictor.engine, predictor.precision, predictor.device) == ("eager", "fp32", "cpu")
    assert "openvino is passed over: the exporter choked" in caplog.text
    with pytest.raises(ConfigError, match="choked"):
        Predictor.from_pretrained(bundle, device="cpu", engine="onnxruntime")


@pytest.mark.usefixtures("everything")
def test_a_damaged_bundle_is_not_the_engines_fault(bundle: Path, tmp_path: Path) -> None:
    weights = bundle / "model.safetensors"
    (tmp_path / "config.json").write_bytes((bundle / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        Predictor.from_pretrained(tmp_path, device="cpu")


def test_each_member_of_an_ensemble_goes_through_the_engine(bundle: Path, tmp_path: Path) -> None:
    other = tiny_bundle(tmp_path / "other", seed=1)
    images = np.random.default_rng(0).random((2, 1, 32, 32), dtype=np.float32)
    settings = {"device": "cpu", "engine": "eager"}
    one = Predictor.from_pretrained([bundle, other], **settings)
    half = Predictor.from_pretrained([bundle, other], precision="bf16", **settings)
    assert (half.engine, half.precision) == ("eager", "bf16")
    difference = np.abs(np.asarray(one.network(images)) - np.asarray(half.network(images)))
    assert 1e-5 < difference.max() < 0.5
    assert one.settings != half.settings, "labels in another precision are not the same run's"


def test_threads_follow_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert threads.threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(threads, "_core", lambda cpu: f"{cpu % 2},{cpu % 2 + 2}")
    assert threads.threads() == 2, "two hardware threads of a core count once"
    monkeypatch.delattr(os, "sched_getaffinity")
    assert threads.threads() is None

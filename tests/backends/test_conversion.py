"""Bundles converted for other engines: the same logits, made once, made anew where damaged."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from disks import make_read_only, small_disk
from prediction import tiny_bundle
from transunet.backends import compare, openvino
from transunet.backends import conversion as cache
from transunet.backends.conversion import converted
from transunet.backends.engines import ENGINES as ALL_ENGINES
from transunet.bundle.bundle_config import BundleConfig, read_config
from transunet.errors import ConfigError
from transunet.inference.predictor import Predictor, load_networks

ENGINES = ("onnxruntime", "openvino")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSUNET_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def cache_of_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def _shared_cache(cache_of_all: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what was converted, not of converting."""
    monkeypatch.setenv("TRANSUNET_CACHE", str(cache_of_all))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("converted") / "bundle")


@pytest.fixture
def config(bundle: Path) -> BundleConfig:
    return read_config(bundle)


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Writes a text instead of a network, quickly; returns where it wrote."""
    written: list[Path] = []

    def write(model: object, config: object, path: Path, *_: object) -> None:
        written.append(path)
        time.sleep(0.2)
        path.write_text("a network")

    replace_engines(monkeypatch, write, lambda *_: None)
    monkeypatch.setattr(compare, "compare", lambda *_: (0.0, 1.0))
    return written


def replace_engines(
    monkeypatch: pytest.MonkeyPatch, write: Callable[..., object], opens: Callable[..., object]
) -> None:
    """Have every engine write and open with these."""
    engines = {
        name: replace(engine, write=write, open=opens) for name, engine in ALL_ENGINES.items()
    }
    monkeypatch.setattr(cache, "ENGINES", engines)


def need(engine: str) -> None:
    for package in ALL_ENGINES[engine].packages:
        pytest.importorskip(package)


@pytest.mark.parametrize("engine", ENGINES)
def test_logits_are_those_of_the_plain_network(
    engine: str, bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    need(engine)
    (plain,) = load_networks([bundle], "cpu", "eager")
    with caplog.at_level(logging.INFO, "transunet"):
        (first,) = load_networks([bundle], "cpu", engine)
        (again,) = load_networks([bundle], "cpu", engine)
    assert caplog.text.count("Converting") == 1
    assert (first.engine, first.precision, first.network.device) == (engine, "fp32", "cpu")
    assert again.network.fingerprint == plain.network.fingerprint
    for batch in (1, 3, 8):
        images = np.random.default_rng(batch).random((batch, 1, 32, 32), dtype=np.float32)
        expected = np.asarray(plain.network(images))
        for loaded in (first, again):
            found = np.asarray(loaded.network(images))
            assert found.dtype == np.float32
            assert np.abs(found - expected).max() < 1e-4 * expected.std()


def test_a_hybrid_is_converted_too(tmp_path: Path) -> None:
    need("openvino")
    import torch

    from transunet.bundle.io import save_pretrained
    from transunet.data.preprocessing import Preprocessing
    from transunet.models.transunet2d.network import TransUNet
    from transunet.models.variants import variant

    torch.manual_seed(0)
    small = {"num_layers": 1, "resnet_units": (1, 1, 1), "image_size": (32, 48)}
    model = TransUNet(variant("R26-ViT-Ti_16", num_classes=2, **small))
    config = BundleConfig(
        architecture=model.config,
        preprocessing=Preprocessing(),
        labels={0: "background", 1: "one"},
    )
    folder = save_pretrained(model, config, tmp_path / "bundle")
    predictor = Predictor.from_pretrained(folder, device="cpu", engine="auto")
    assert predictor.engine == "openvino", "it is large enough to be worth it"
    images = np.random.default_rng(0).random((2, 1, 32, 48), dtype=np.float32)
    expected = np.asarray(load_networks([folder], "cpu", "eager")[0].network(images))
    assert np.abs(predictor.network(images) - expected).max() < 1e-4 * expected.std()
    if "BF16" in cpu_can():  # where a variance can cancel to nothing
        half = load_networks([folder], "cpu", "openvino", "bf16")[0].network
        assert np.abs(np.asarray(half(images)) - expected).max() < 0.1 * expected.std()


def cpu_can() -> list[str]:
    return list(openvino.core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs signals of POSIX")
@pytest.mark.usefixtures("_shared_cache")
def test_a_signal_after_several_networks_is_survived(bundle: Path) -> None:
    need("openvino")
    converted(bundle, read_config(bundle), "openvino")
    code = (
        "import gc, os, signal\n"
        "from transunet.inference.predictor import load_networks\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('survived'))\n"
        f"load = lambda: load_networks([{str(bundle)!r}], 'cpu', 'openvino')[0].network\n"
        "first = load(); second = load()\n"
        "del first; gc.collect(); del second; gc.collect()\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, "survived"), done.stderr


@pytest.mark.usefixtures("_shared_cache")
def test_openvino_computes_in_the_precision_asked_for(bundle: Path) -> None:
    need("openvino")
    if "BF16" not in cpu_can():
        pytest.skip("this processor has no bf16")
    images = np.random.default_rng(0).random((2, 1, 32, 32), dtype=np.float32)
    exact, rounded = (
        np.asarray(load_networks([bundle], "cpu", "openvino", precision)[0].network(images))
        for precision in ("fp32", "bf16")
    )
    plain = np.asarray(load_networks([bundle], "cpu", "eager")[0].network(images))
    assert np.abs(exact - plain).max() < 1e-4 * plain.std()
    assert 1e-3 < np.abs(rounded - plain).max() / plain.std() < 0.3


@pytest.mark.usefixtures("_shared_cache")
def test_a_precision_that_the_processor_lacks_is_refused(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("openvino")

    class Core:
        def get_property(self, *_: object) -> list[str]:
            return ["FP32", "INT8"]

    converted(bundle, read_config(bundle), "openvino")
    monkeypatch.setattr(openvino, "core", Core)
    monkeypatch.setattr("transunet.backends.opening._LEAST_BYTES", 0)
    for engine in ("openvino", "auto"):  # which does not fall back to what would be slower still
        with pytest.raises(ConfigError, match="does not compute in bf16"):
            load_networks([bundle], "cpu", engine, "bf16")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        lambda path: (path.parent / "contents.json").write_text("[]"),
        lambda path: (path.parent / "contents.json").write_text('{"files": {}}'),
        lambda path: shutil.rmtree(path.parent),
    ],
)
def test_what_is_damaged_is_made_anew(
    damage: Callable[[Path], object], bundle: Path, config: BundleConfig, writers: list[Path]
) -> None:
    first = converted(bundle, config, "openvino")
    assert converted(bundle, config, "openvino") == first
    assert len(writers) == 1
    damage(first[0])
    assert converted(bundle, config, "openvino") == first
    assert first[0].read_text() == "a network"
    assert len(writers) == 2


def test_it_is_made_once_for_all_who_ask(
    bundle: Path, config: BundleConfig, writers: list[Path]
) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: converted(bundle, config, "openvino"), range(4)))
    assert len(set(found)) == 1
    assert len(writers) == 1


def test_other_weights_and_other_versions_are_another_network(
    bundle: Path,
    config: BundleConfig,
    writers: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = converted(bundle, config, "openvino")
    copied = shutil.copytree(bundle, tmp_path / "copy")
    assert converted(copied, config, "openvino") == first, "contents decide, not the folder"
    other = tiny_bundle(tmp_path / "other", seed=1)
    assert converted(other, read_config(other), "openvino")[0] != first[0]
    monkeypatch.setattr(cache, "version_of", lambda package: "99")
    assert converted(bundle, config, "openvino")[0] != first[0]
    assert len(writers) == 3


def test_a_network_that_computes_something_else_is_not_kept(
    bundle: Path, config: BundleConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_engines(
        monkeypatch,
        lambda *_: None,
        lambda *_: lambda images: np.ones((1, 3, 32, 32), np.float32),
    )
    with pytest.raises(ConfigError, match=r"logits differ .* Take the engine eager"):
        converted(bundle, config, "openvino")
    left = {path.suffix for path in (tmp_path / "cache" / "converted").iterdir()}
    assert left == {".lock"}


def test_a_cache_that_cannot_be_written_is_no_obstacle_to_auto(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    need("openvino")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRANSUNET_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr("transunet.backends.opening._LEAST_BYTES", 0)
    assert load_networks([bundle], "cpu")[0].engine == "eager"
    assert "openvino is passed over" in caplog.text
    with pytest.raises(ConfigError, match="TRANSUNET_CACHE"):
        load_networks([bundle], "cpu", "openvino")


def test_what_lies_in_a_read_only_cache_is_used(
    bundle: Path,
    config: BundleConfig,
    writers: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with small_disk(tmp_path / "disk", 10) as disk:
        monkeypatch.setenv("TRANSUNET_CACHE", str(disk))
        first = converted(bundle, config, "openvino")
        make_read_only(disk)
        assert converted(bundle, config, "openvino") == first
        with pytest.raises(ConfigError, match=r"Read-only.*TRANSUNET_CACHE to a folder"):
            converted(bundle, config, "onnxruntime")
    assert len(writers) == 1


def test_the_cache_forgets_what_was_not_used_for_longest(
    bundle: Path, config: BundleConfig, writers: list[Path]
) -> None:
    mine = converted(bundle, config, "openvino")[0].parent
    for age in range(cache._KEPT + 2):
        folder = mine.parent / f"old{age}"
        folder.mkdir()
        (folder / "contents.json").write_text(json.dumps({}))
        os.utime(folder / "contents.json", (age, age))
    (mine / "contents.json").unlink()
    (mine.parent / ".partial-killed").mkdir()
    os.utime(mine.parent / ".partial-killed", (0, 0))
    (mine.parent / ".partial-working").mkdir()
    converted(bundle, config, "openvino")
    left = {path.name for path in mine.parent.iterdir() if path.is_dir()}
    assert left == {
        mine.name,
        ".partial-working",
        *(f"old{age}" for age in range(3, cache._KEPT + 2)),
    }

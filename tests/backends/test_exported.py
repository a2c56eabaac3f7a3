"""Exported files in place of a bundle: the same logits, and nothing run that was not meant to."""

import io
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from prediction import tiny_bundle
from transunet.backends import onnxruntime, openvino, pytorch
from transunet.backends.exported import FORMAT, pack
from transunet.backends.opening import open_network
from transunet.bundle.io import from_pretrained
from transunet.errors import ConfigError, DataError
from transunet.inference.predictor import Predictor, load_networks
from transunet.models.network_fingerprint import fingerprint_of

IMAGES = np.random.default_rng(0).random((3, 1, 32, 32), dtype=np.float32)


WRITERS = {".onnx": onnxruntime.write, ".xml": openvino.write, ".pt2": pytorch.write}
NEEDS = {".onnx": ("onnx", "onnxscript", "onnxruntime"), ".xml": ("openvino",), ".pt2": ()}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("exported") / "bundle")


@pytest.fixture(scope="module")
def expected(bundle: Path) -> NDArray[np.float32]:
    return np.asarray(load_networks([bundle], "cpu", "eager")[0].network(IMAGES))


@pytest.fixture(scope="module")
def written(bundle: Path) -> dict[str, Path]:
    return {}


def exported(suffix: str, bundle: Path, written: dict[str, Path]) -> Path:
    """The bundle in a file of this kind, written when it is first wanted."""
    for package in NEEDS[suffix]:
        pytest.importorskip(package)
    if suffix not in written:
        path = bundle.parent / f"model{suffix}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            WRITERS[suffix](*from_pretrained(bundle), path)
        written[suffix] = path
    return written[suffix]


@pytest.fixture
def onnx_file(bundle: Path, written: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copy(exported(".onnx", bundle, written), tmp_path))


@pytest.fixture
def ir_file(bundle: Path, written: dict[str, Path], tmp_path: Path) -> Path:
    path = exported(".xml", bundle, written)
    shutil.copy(path.with_suffix(".bin"), tmp_path)
    return Path(shutil.copy(path, tmp_path))


@pytest.fixture
def program_file(bundle: Path, written: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copy(exported(".pt2", bundle, written), tmp_path))


@pytest.mark.parametrize(
    ("suffix", "engine"),
    [(".onnx", "auto"), (".onnx", "openvino"), (".xml", "auto"), (".pt2", "auto")],
)
def test_a_file_computes_what_its_bundle_does(
    suffix: str,
    engine: str,
    bundle: Path,
    written: dict[str, Path],
    expected: NDArray[np.float32],
) -> None:
    if engine != "auto":
        pytest.importorskip(engine)
    path = exported(suffix, bundle, written)
    network, config, used, precision = open_network(path, "cpu", engine, trust=True)
    for batch in (3, 1):
        found = np.asarray(network(IMAGES[:batch]))
        assert np.abs(found - expected[:batch]).max() < 1e-4 * expected.std()
    model, own = from_pretrained(bundle)
    assert config == own
    assert network.fingerprint == fingerprint_of(model)
    assert (network.image_size, network.device, precision) == ((32, 32), "cpu", "fp32")
    usual = {".onnx": "onnxruntime", ".xml": "openvino", ".pt2": "eager"}
    assert used == (engine if engine != "auto" else usual[suffix])


def test_a_predictor_and_an_ensemble_take_files(bundle: Path, onnx_file: Path) -> None:
    alone = Predictor.from_pretrained(onnx_file, device="cpu")
    assert (alone.engine, alone.labels[1]) == ("onnxruntime", "left")
    assert alone.fingerprint == Predictor.from_pretrained(bundle, device="cpu").fingerprint
    both = Predictor.from_pretrained([bundle, str(onnx_file)], device="cpu")
    assert (both.engine, both.precision) == ("eager, onnxruntime", "fp32")
    labels = both.label_slices(IMAGES)
    assert (labels == alone.label_slices(IMAGES)).mean() > 0.999


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"engine": "eager"}, "eager does not read .onnx files; possible: onnxruntime, openvino"),
        ({"engine": "swift"}, "no engine 'swift'"),
        ({"precision": "int8"}, "holds a network for fp32, not for int8"),
        ({"precision": "bf16"}, "for fp32, not for bf16"),
        ({"device": "cuda"}, "computes on cpu, not on cuda"),
    ],
)
def test_what_a_file_cannot_do_is_refused(
    onnx_file: Path, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        open_network(onnx_file, **settings)
    assert "engine 'swift'" in says or str(onnx_file) in str(caught.value)


def test_an_int8_file_is_another_network_in_its_own_precision(onnx_file: Path) -> None:
    onnx = pytest.importorskip("onnx")
    before, config, _, _ = open_network(onnx_file)
    model = onnx.load(onnx_file)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, pack(config, before.fingerprint, "int8"))
    onnx.save(model, onnx_file)
    network, _, _, precision = open_network(onnx_file)
    assert precision == "int8"
    assert network.fingerprint != before.fingerprint
    with pytest.raises(ConfigError, match="holds a network for int8"):
        open_network(onnx_file, precision="fp32")


def test_there_has_to_be_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no exported network .*gone\.onnx"):
        open_network(tmp_path / "gone.onnx")


def test_somebody_elses_network_is_refused(onnx_file: Path, ir_file: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(onnx_file)
    del model.metadata_props[:]
    onnx.save(model, onnx_file)
    text = ir_file.read_text()
    start, end = text.index("<transunet>"), text.index("</transunet>") + len("</transunet>")
    ir_file.write_text(text[:start] + text[end:])
    for path in (onnx_file, ir_file):
        with pytest.raises(ConfigError, match="not written by `transunet export`") as caught:
            open_network(path)
        assert str(path) in str(caught.value)


def test_a_newer_file_is_refused(onnx_file: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(onnx_file)
    next(entry for entry in model.metadata_props if entry.key == FORMAT).value = "9"
    onnx.save(model, onnx_file)
    with pytest.raises(ConfigError, match="is of format 9"):
        open_network(onnx_file)


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.99])
def test_a_file_cut_short_is_refused(
    suffix: str, share: float, bundle: Path, written: dict[str, Path], tmp_path: Path
) -> None:
    whole = exported(suffix, bundle, written)
    if suffix == ".xml":
        shutil.copy(whole.with_suffix(".bin"), tmp_path)
    content = whole.read_bytes()
    path = tmp_path / whole.name
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises((DataError, ConfigError)) as caught:
        open_network(path, trust=True)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
@pytest.mark.parametrize("seed", range(4))
def test_a_file_of_noise_is_refused(suffix: str, seed: int, tmp_path: Path) -> None:
    for package in NEEDS[suffix]:
        pytest.importorskip(package)
    path = tmp_path / f"noise{suffix}"
    path.write_bytes(np.random.default_rng(seed).bytes(3000))
    with pytest.raises((DataError, ConfigError), match="noise"):
        open_network(path, trust=True)


def test_weights_that_are_not_beside_it_are_noticed(ir_file: Path) -> None:
    beside = ir_file.with_suffix(".bin")
    beside.write_bytes(beside.read_bytes()[:100])
    with pytest.raises(DataError, match=r"model\.xml: OpenVINO cannot read it"):
        open_network(ir_file)
    beside.unlink()
    with pytest.raises(DataError, match=r"model\.xml: OpenVINO cannot read it"):
        open_network(ir_file)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("way", ["../weights.bin", "absolute", "link"])
def test_weights_outside_the_folder_are_not_read(
    engine: str, way: str, onnx_file: Path, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip(engine)
    inside = tmp_path / "in"
    inside.mkdir()
    path, outside = inside / "model.onnx", tmp_path / "weights.bin"
    beside = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 512}
    onnx.save(onnx.load(onnx_file), path, **beside)
    open_network(path, engine=engine)  # as it should be
    shutil.move(inside / "weights.bin", outside)
    if way == "link":
        (inside / "weights.bin").symlink_to("../weights.bin")
    else:
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = str(outside) if way == "absolute" else way
        path.write_bytes(model.SerializeToString())
    with pytest.raises(DataError, match=r"in/model\.onnx"):
        open_network(path, engine=engine)


class _Touch:
    """What an attacker would pickle: it touches a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_program_runs_only_with_trust(program_file: Path, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    payload = io.BytesIO()
    torch.save((((_Touch(touched),), {})), payload)
    poisoned = tmp_path / "poisoned.pt2"
    with zipfile.ZipFile(program_file) as whole, zipfile.ZipFile(poisoned, "w") as new:
        for entry in whole.infolist():
            inputs = "sample_inputs" in entry.filename
            new.writestr(entry.filename, payload.getvalue() if inputs else whole.read(entry))
    with pytest.raises(ConfigError, match=r"runs whatever code is in it.*--trust"):
        open_network(poisoned)
    assert not touched.exists()
    # Should this ever fail, PyTorch has become safe here and --trust can go.
    with pytest.raises(DataError):
        open_network(poisoned, device="cpu", trust=True)
    assert touched.exists()

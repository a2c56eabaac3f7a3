"""Networks in PyTorch: the plain one follows its model, the fast ones equal it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prediction import tiny_bundle, tiny_model
from transunet.backends.pytorch import (
    FixedNetwork,
    TorchNetwork,
    model_of,
    open_pytorch,
)
from transunet.errors import ConfigError, DataError
from transunet.inference.predictor import Predictor
from transunet.models.network_fingerprint import fingerprint_of
from transunet.models.transunet2d.network import TransUNet
from transunet.models.transunet2d.optimised import fuse

IMAGES = np.random.default_rng(0).random((5, 1, 32, 32), dtype=np.float32)


@pytest.fixture
def model() -> TransUNet:
    return tiny_model()


def fused_network(
    model: TransUNet, device: str | None = None, precision: str = "fp32", compiled: bool = False
) -> FixedNetwork:
    size, fingerprint = model.config.image_size, fingerprint_of(model)
    return FixedNetwork(fuse(model), size, fingerprint, device, precision, compiled)


def logits(network: TorchNetwork | FixedNetwork, count: int = 5) -> Tensor:
    return network(IMAGES[:count])


def test_a_fused_network_gives_the_plain_ones_logits(model: TransUNet) -> None:
    plain, fused = TorchNetwork(model, "cpu"), fused_network(model, "cpu")
    assert (logits(fused) - logits(plain)).abs().max() < 1e-4 * logits(plain).std()
    assert fused.fingerprint == plain.fingerprint
    assert (fused.device, fused.image_size) == ("cpu", (32, 32))


def test_the_model_behind_a_network_is_told(model: TransUNet) -> None:
    assert model_of(TorchNetwork(model, "cpu")) is model
    fused = fused_network(model, "cpu")
    assert model_of(fused) is fused.module
    assert model_of(fused_network(model, "cpu", "bf16")) is None
    assert model_of(object()) is None


def test_half_precision_is_close_and_comes_as_float32(model: TransUNet) -> None:
    plain, half = logits(TorchNetwork(model, "cpu")), logits(fused_network(model, "cpu", "bf16"))
    assert half.dtype == torch.float32
    assert 1e-3 < (half - plain).abs().max() / plain.std() < 0.3


def test_a_predictor_follows_the_model_that_it_was_given(model: TransUNet) -> None:
    predictor = Predictor(model, None, {0: "a", 1: "b", 2: "c"}, device="cpu")  # type: ignore[arg-type]
    before = predictor.network(IMAGES)
    with torch.no_grad():
        model.segmentation_head[0].bias += 1
        model.decoder.conv_more[1].running_var *= 4
    assert not torch.equal(predictor.network(IMAGES), before)
    assert (predictor.engine, predictor.precision) == ("eager", "fp32")


def test_compiled_batches_are_filled_up_to_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def compiled(module: nn.Module, **settings: object) -> object:
        assert settings == {"dynamic": False}

        def run(x: Tensor) -> Tensor:
            seen.append(len(x))
            return module(x)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    network = FixedNetwork(nn.Identity(), (32, 32), "", device="cpu", compiled=True)
    for count in (2, 5, 3, 1):
        assert torch.equal(network(IMAGES[:count]), torch.from_numpy(IMAGES[:count]))
    assert seen == [2, 5, 5, 5]


@pytest.mark.slow
def test_a_compiled_network_gives_the_plain_ones_logits(model: TransUNet) -> None:
    if not _has_compiler():
        pytest.skip("no C++ compiler here")
    code = (
        "import numpy as np; from prediction import tiny_model;"
        "from transunet.backends.pytorch import FixedNetwork, TorchNetwork;"
        "from transunet.models.transunet2d.optimised import fuse;"
        "x = np.random.default_rng(0).random((5, 1, 32, 32), dtype=np.float32);"
        "n = FixedNetwork(fuse(tiny_model()), (32, 32), '', 'cpu', compiled=True);"
        "p = TorchNetwork(tiny_model(), 'cpu');"
        "d = [float((n(x[:k]) - p(x[:k])).abs().max() / p(x).std()) for k in (5, 2)];"
        "print(max(d))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"},  # more start a process more
        timeout=600,
    )
    assert float(done.stdout) < 1e-4


def test_a_machine_that_cannot_compile_is_told(
    model: TransUNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.exc import TorchDynamoException

    def fails(x: Tensor) -> Tensor:
        raise TorchDynamoException("no working C++ compiler")

    monkeypatch.setattr(torch, "compile", lambda module, **_: fails)
    network = fused_network(model, "cpu", compiled=True)
    with pytest.raises(ConfigError, match=r"no working C\+\+ compiler.*--engine eager"):
        network(IMAGES)


def test_fingerprints_follow_weights_and_architecture(model: TransUNet) -> None:
    first = fingerprint_of(model)
    assert fingerprint_of(tiny_model()) == first
    assert fingerprint_of(tiny_model(seed=1)) != first
    with torch.no_grad():
        model.segmentation_head[0].bias[0] += 1
    assert fingerprint_of(model) != first


def test_a_bundles_fingerprint_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    first, second = (open_pytorch(tiny_bundle(tmp_path), (32, 32), "", "cpu") for _ in range(2))
    assert second.fingerprint == fingerprint_of(tiny_model())
    tiny_bundle(tmp_path, seed=1)
    with pytest.raises(DataError, match="was replaced after it was loaded"):
        _ = first.fingerprint


def _has_compiler() -> bool:
    import shutil

    return any(shutil.which(name) for name in ("g++", "c++", "clang++", "cl"))

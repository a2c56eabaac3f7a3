"""The contract that every configuration keeps."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from transunet.models.transunet2d.config import TRANSUNET2D_VARIANTS, TransUNetConfig
from transunet.models.transunet2d.network import TransUNet
from transunet.models.variants import variant

SMALL = "R26-ViT-Ti_16"
# All blocks of an encoder are the same module: two show what twelve or thirty-two would. The
# published depths are held by the parameters' number of every golden figure.
WIDE = ("ViT-B_16", "ViT-B_32", "ViT-L_16", "ViT-L_32", "ViT-H_14", "R50-ViT-B_16", "R50-ViT-L_16")
SHALLOW = [
    pytest.param(
        name,
        min(2, config.num_layers),
        id=name,
        marks=[pytest.mark.slow] if name in WIDE else [],
    )
    for name, config in TRANSUNET2D_VARIANTS.items()
]
# Of the others, width and depth alone differ, which no graph depends on.
GRAPHS = [
    part for part in SHALLOW if part.id in ("R50-ViT-B_16", "ViT-B_32", "ViT-H_14", "testing")
]


def config_of(name: str, layers: int) -> TransUNetConfig:
    return variant(name, image_size=side(name), num_classes=3, num_layers=layers)


def side(name: str) -> int:
    return 2 * TRANSUNET2D_VARIANTS[name].patch_size


def meta(name: str, layers: int) -> TransUNet:
    """The network without values: shapes only."""
    with torch.device("meta"):
        return TransUNet(config_of(name, layers)).eval()


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(("name", "layers"), SHALLOW)
def test_forward_backward_save_and_load(name: str, layers: int, tmp_path: Path) -> None:
    config = config_of(name, layers)
    model = TransUNet(config)
    x = torch.rand(2, 1, side(name), side(name))
    logits = model(x)
    assert logits.shape == (2, 3, side(name), side(name))
    logits.square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    model.zero_grad()
    expected = model.eval()(x[:1]).detach()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    state = load_file(tmp_path / "model.safetensors")
    del model
    with torch.device("meta"):
        again = TransUNet(config).eval()
    again.load_state_dict(state, assign=True)
    with torch.inference_mode():
        torch.testing.assert_close(again(x[:1]), expected, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "layers"), SHALLOW)
@pytest.mark.parametrize("size", [(50, 70), (33, 97)])
def test_logits_come_back_at_the_inputs_size(name: str, layers: int, size: tuple[int, int]) -> None:
    assert meta(name, layers)(torch.rand(2, 1, *size, device="meta")).shape == (2, 3, *size)


@pytest.mark.runtime
@pytest.mark.parametrize(("name", "layers"), GRAPHS)
def test_compiles_into_one_graph(name: str, layers: int) -> None:
    compiled = torch.compile(meta(name, layers), fullgraph=True, backend="eager")
    assert compiled(torch.rand(2, 1, 50, 70, device="meta")).shape == (2, 3, 50, 70)


@pytest.mark.runtime
@pytest.mark.parametrize(("name", "layers"), GRAPHS)
def test_exports_with_any_batch(name: str, layers: int) -> None:
    x = torch.rand(2, 1, side(name), side(name), device="meta")
    any_batch = ({0: torch.export.Dim.DYNAMIC},)
    exported = torch.export.export(meta(name, layers), (x,), dynamic_shapes=any_batch)
    five = torch.rand(5, *x.shape[1:], device="meta")
    assert exported.module()(five).shape == (5, 3, side(name), side(name))


@pytest.mark.runtime
def test_compiled_and_exported_compute_the_same() -> None:
    model = TransUNet(variant(SMALL, image_size=32)).eval()
    x = torch.rand(2, 1, 48, 32)
    with torch.no_grad():
        expected = model(x)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
        exported = torch.export.export(model, (x,)).module()(x)
    torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(exported, expected, rtol=1e-4, atol=1e-5)


def test_building_one_model_never_changes_another() -> None:
    x, sizes = torch.rand(1, 1, 32, 32), []
    models = [TransUNet(variant(SMALL, n_skip=n, image_size=32)) for n in (3, 1, 3)]
    for model in models:
        assert model(torch.cat([x, x])).shape == (2, 2, 32, 32)
        sizes.append(sum(p.numel() for p in model.parameters()))
    assert sizes[0] == sizes[2] > sizes[1]


def test_small_configurations_are_small() -> None:
    def millions(name: str) -> float:
        with torch.device("meta"):
            return sum(p.numel() for p in TransUNet(TRANSUNET2D_VARIANTS[name]).parameters()) / 1e6

    assert 5.5 < millions("R26-ViT-Ti_16") < 6.5
    assert 23 < millions("R26-ViT-S_16") < 27


def test_modules_start_as_stated() -> None:
    model = TransUNet(variant(SMALL))
    assert not model.transformer.embeddings.position_embeddings.any()
    mlp = model.transformer.encoder.layer[0].ffn
    assert isinstance(mlp.fc1, nn.Linear)
    bound = (6 / (mlp.fc1.in_features + mlp.fc1.out_features)) ** 0.5
    assert 0.9 * bound < mlp.fc1.weight.abs().max() <= bound
    assert 0 < mlp.fc1.bias.std() < 1e-5

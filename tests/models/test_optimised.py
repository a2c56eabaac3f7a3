"""A fused network computes what the plain one does, and leaves it alone."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from golden_figures import close, facts, image, seed_state
from prediction import tiny_config
from transunet.models.transunet2d.config import TransUNetConfig
from transunet.models.transunet2d.network import TransUNet
from transunet.models.transunet2d.optimised import fuse
from transunet.models.transunet2d.resnet import StdConv2d
from transunet.models.variants import variant

CONFIGS = {
    "hybrid": variant("R26-ViT-Ti_16", num_classes=4, image_size=32),
    "one skip, two channels": variant(
        "R26-ViT-Ti_16", num_classes=2, in_channels=2, image_size=(32, 48), n_skip=1
    ),
    "plain ViT": tiny_config(channels=3, classes=5),
    "patch of 14": tiny_config().replace(patch_size=14, image_size=(28, 42)),
}


def grown(config: TransUNetConfig, seed: int = 0) -> TransUNet:
    """A model whose BatchNorms have seen something, as after training."""
    torch.manual_seed(seed)
    model = TransUNet(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return model


def furthest(one: Tensor, other: Tensor) -> float:
    """The largest difference, as a share of the scale of the logits."""
    return float((one - other).abs().max() / other.std())


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_logits_are_those_of_the_plain_network(name: str) -> None:
    model = grown(CONFIGS[name]).eval()
    x = torch.randn(2, model.config.in_channels, *model.config.image_size)
    fused = fuse(model)
    assert furthest(fused(x), model(x)) < 1e-4
    larger = torch.randn(1, model.config.in_channels, 50, 45)
    assert furthest(fused(larger), model(larger)) < 1e-4


@pytest.mark.slow
def test_logits_are_the_references() -> None:
    name = "pth_r50b16_224_skip3"
    fact = facts()[name]
    keys = ("num_classes", "in_channels", "image_size", "n_skip")
    model = TransUNet(variant(fact["config"], **{key: fact[key] for key in keys}))
    seed_state(model)
    with torch.inference_mode():
        close(name, fuse(model)(image(fact)))


def test_the_original_stays_as_it_is() -> None:
    model = grown(CONFIGS["hybrid"]).train()
    before = copy.deepcopy(model.state_dict())
    fused = fuse(model)
    with torch.no_grad():
        for parameter in fused.parameters():
            parameter.zero_()
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert any(isinstance(module, StdConv2d) for module in model.modules())


def test_nothing_is_left_that_could_be_computed_once() -> None:
    fused = fuse(grown(CONFIGS["hybrid"]))
    kinds: tuple[Any, ...] = (StdConv2d, nn.BatchNorm2d)
    assert not any(isinstance(module, kinds) for module in fused.modules())
    assert not fused.training


@torch.inference_mode()
def test_attention_is_still_there() -> None:
    model = grown(CONFIGS["hybrid"]).eval()
    x = torch.randn(1, 1, 32, 32)
    expected, found = model(x, return_attention=True)[1], fuse(model)(x, return_attention=True)[1]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@torch.inference_mode()
def test_fusing_twice_changes_nothing_more() -> None:
    fused = fuse(grown(CONFIGS["hybrid"]))
    x = torch.randn(1, 1, 32, 32)
    assert torch.equal(fuse(fused)(x), fused(x))

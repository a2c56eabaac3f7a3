import pytest
import torch
from torch import nn

from transunet.models.transunet2d.config import TransUNetConfig
from transunet.models.transunet2d.exportable import ChannelGroupNorm, Exportable, exportable
from transunet.models.transunet2d.network import TransUNet
from transunet.models.variants import variant

SMALL = {"hidden_size": 8, "mlp_size": 8, "num_heads": 2, "num_layers": 1, "bridge_channels": 8}
HYBRID = {"resnet_units": (1, 1, 1), "resnet_width": 0.5, "n_skip": 3}


def model_of(**settings: object) -> TransUNet:
    """Weights unlike those that a new model has: no norm is the identity, no position is zero."""
    torch.manual_seed(0)
    config = TransUNetConfig(**{**SMALL, "decoder_channels": (8, 8, 8, 8), **settings})
    model = TransUNet(config).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1 or parameter is model.transformer.embeddings.position_embeddings:
            parameter.data.uniform_(0.5, 1.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.1, 2)
            module.running_mean.normal_()
    return model


def assert_equal(model: TransUNet, other: nn.Module, images: torch.Tensor) -> None:
    with torch.inference_mode():
        expected, found = model(images), other(images)
    assert (found - expected).abs().max() < 1e-4 * expected.std()


@pytest.mark.parametrize(
    "settings",
    [
        {**HYBRID, "image_size": 64},
        {**HYBRID, "image_size": 64, "in_channels": 2, "n_skip": 1},
        {**HYBRID, "image_size": (32, 64), "in_channels": 3, "n_skip": 0},
        {"image_size": 32},
        {"image_size": (56, 28), "patch_size": 14, "in_channels": 4},
        {"image_size": 64, "patch_size": 32},
    ],
    ids=str,
)
@pytest.mark.parametrize("any_size", [False, True])
def test_logits_are_the_models(settings: dict, any_size: bool) -> None:
    model = model_of(**settings)
    images = torch.randn(2, model.config.in_channels, *model.config.image_size) * 3 + 1
    assert_equal(model, exportable(model, any_size), images)


def test_any_size_follows_the_grid() -> None:
    model = model_of(**HYBRID, image_size=64)
    assert_equal(model, exportable(model, any_size=True), torch.randn(1, 1, 48, 80))


def test_the_model_stays_as_it_is() -> None:
    model = model_of(**HYBRID, image_size=32).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = exportable(model)
    assert isinstance(made, Exportable)
    assert not made.training
    assert model.training
    assert {name for name, _ in model.named_parameters()} <= set(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_full_backbone_is_equal() -> None:
    torch.manual_seed(0)
    model = TransUNet(variant("R26-ViT-Ti_16", image_size=32, num_classes=3)).eval()
    assert_equal(model, exportable(model), torch.randn(1, 1, 32, 32))


@pytest.mark.parametrize("groups", [2, 8])
@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_group_norm_is_group_norm(groups: int, offset: float) -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(groups, 8)
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    x = torch.randn(2, 8, 9, 7) * torch.arange(1, 9)[:, None, None] + offset
    torch.testing.assert_close(ChannelGroupNorm(norm)(x), norm(x), atol=1e-5, rtol=1e-5)


def test_a_constant_image_gives_finite_logits() -> None:
    model = model_of(**HYBRID, image_size=32)
    with torch.inference_mode():
        assert exportable(model)(torch.full((1, 1, 32, 32), 1000.0)).isfinite().all()


def test_group_norm_keeps_to_bf16() -> None:
    """OpenVINO computes in bf16 by itself where it can: no difference of squares may cancel."""
    torch.manual_seed(0)
    norm = nn.GroupNorm(2, 8)
    x = torch.randn(2, 8, 9, 7) + 30
    found = ChannelGroupNorm(norm).bfloat16()(x.bfloat16()).float()
    assert (found - norm(x.bfloat16().float())).abs().max() < 0.15

"""The network computes what the reference computes (tests/golden/README.md)."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from golden_figures import close, facts, image, names, seed_state
from transunet.models.transunet2d.config import TransUNetConfig
from transunet.models.transunet2d.embedding import Transformer
from transunet.models.transunet2d.network import TransUNet
from transunet.models.variants import VARIANTS, variant

# The large sizes, and what other numbers of skips and channels and the paper's own size add.
SLOW = (
    *("pth_l16_224", "pth_l32_224_half", "pth_r50l16_224", "pth_r50b16_224_skip3"),
    *("pth_r50b16_224_skip0", "pth_r50b16_224_skip1", "pth_r50b16_224_skip2", "pth_r50b16_224_rgb"),
)
LOGITS = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
    for name in facts()
    if name.startswith("pth_") and name != "pth_h14_encoded"
]


def config_of(fact: dict) -> TransUNetConfig:
    keys = ("num_classes", "in_channels", "image_size", "n_skip")
    return variant(fact["config"], **{key: fact[key] for key in keys})


def reference(fact: dict) -> TransUNet:
    with torch.device("meta"):
        model = TransUNet(config_of(fact))
    model.to_empty(device="cpu")
    seed_state(model)
    return model.eval()


@torch.inference_mode()
def reference_logits(name: str, model: TransUNet, x: Tensor) -> Tensor:
    """Logits at the size of the figure: the reference leaves patch 32 at half the input's."""
    if not name.endswith("_half"):
        return model(x)
    tokens, grid, skips = model.transformer(x.expand(-1, 3, -1, -1))
    half = model.segmentation_head(model.decoder(tokens, grid, skips))
    doubled = F.interpolate(half, scale_factor=2, mode="bilinear", align_corners=True)
    torch.testing.assert_close(model(x), doubled)
    return half


@pytest.mark.parametrize("name", LOGITS)
def test_logits_are_the_references(name: str) -> None:
    fact = facts()[name]
    model = reference(fact)
    assert sum(p.numel() for p in model.parameters()) == fact["parameters"]
    close(name, reference_logits(name, model, image(fact)))


@pytest.mark.slow
def test_attention_encoder_output_and_skips_are_the_references() -> None:
    fact = facts()["pth_r50b16_224_skip3"]
    model, x = reference(fact), image(fact)
    with torch.inference_mode():
        logits, maps = model(x, return_attention=True)
        encoded, _, skips = model.transformer(x.expand(-1, 3, -1, -1))
    close("pth_r50b16_224_skip3", logits)
    close("attention_layer0", maps[0])
    close("attention_layer11", maps[11])
    close("encoded", encoded)
    for i, skip in enumerate(skips):
        close(f"skip{i}", skip)


@pytest.mark.slow
def test_the_huge_encoder_is_the_references() -> None:
    fact = facts()["pth_h14_encoded"]
    with torch.device("meta"):
        transformer = Transformer(VARIANTS["ViT-H_14"])
    transformer.to_empty(device="cpu")
    assert sum(p.numel() for p in transformer.parameters()) == fact["parameters"]
    seed_state(transformer, prefix="transformer.", keep=False)
    shape = {"batch": 1, "in_channels": 3, "image_size": 224}
    with torch.inference_mode():
        close("pth_h14_encoded", transformer.eval()(image(shape))[0])


@pytest.mark.parametrize("name", ["R50-ViT-B_16", "ViT-B_16"])
def test_state_dict_names_and_shapes_are_the_references(name: str) -> None:
    with torch.device("meta"):
        state = TransUNet(variant(name, num_classes=9)).state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == names()[f"state_dict/{name}"]

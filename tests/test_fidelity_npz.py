"""Loading a published `.npz` gives the network that the reference makes of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from golden_figures import close, facts, image, names, npz_entry, seed_state
from transunet.models.config import TransUNetConfig, variant
from transunet.models.transunet import TransUNet
from transunet.weights.load import load_weights

FILES = {"R50-ViT-B_16": "R50+ViT-B_16", "ViT-B_16": "ViT-B_16"}
LOGITS = [
    pytest.param(name, marks=pytest.mark.slow) if "l16" in name else name
    for name in facts()
    if name.startswith("npz_")
]


def published_shapes(config: TransUNetConfig, tokens: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published file for `config`, from the base one of its kind."""
    base = names()["npz/R50+ViT-B_16" if config.hybrid else "npz/ViT-B_16"]
    sizes = {768: config.hidden_size, 3072: config.mlp_size, 12: config.num_heads}
    shapes = {}
    for name, shape in base.items():
        if "encoderblock" in name or name.startswith(("cls", "pre_logits", "head")):
            shape = [sizes.get(n, n) for n in shape]
        shapes[name] = tuple(shape)
    layers = {n: s for n, s in shapes.items() if "encoderblock_0/" in n}
    for i in range(12, config.num_layers):
        shapes |= {n.replace("block_0", f"block_{i}"): s for n, s in layers.items()}
    size, patch = config.hidden_size, config.patch_kernel
    shapes["embedding/kernel"] = (patch, patch, config.embedding_channels, size)
    shapes["Transformer/posembed_input/pos_embedding"] = (1, tokens, size)
    one = ("embedding/bias", "Transformer/encoder_norm/scale", "Transformer/encoder_norm/bias")
    return shapes | dict.fromkeys(one, (size,))


def write_npz(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    # The classifier is of no use here: an entry of the right name is enough.
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith("head")}
    np.savez(path, **{name: npz_entry(name, shape) for name, shape in shapes.items()})
    return path


@pytest.mark.parametrize("name", LOGITS)
def test_logits_from_a_published_file_are_the_references(name: str, tmp_path: Path) -> None:
    fact = facts()[name]
    keys = ("num_classes", "in_channels", "image_size", "n_skip")
    config = variant(fact["config"], **{key: fact[key] for key in keys})
    model = TransUNet(config)
    seed_state(model)
    path = write_npz(tmp_path / "weights.npz", published_shapes(config, fact["npz_tokens"]))
    load_weights(model.eval(), path)
    x = image(fact)
    with torch.inference_mode():
        if not name.endswith("_half"):
            return close(name, model(x))
        tokens, grid, skips = model.transformer(x.expand(-1, 3, -1, -1))
        half = model.segmentation_head(model.decoder(tokens, grid, skips))
        doubled = F.interpolate(half, scale_factor=2, mode="bilinear", align_corners=True)
        torch.testing.assert_close(model(x), doubled)
        return close(name, half)


def test_base_shapes_are_the_published_ones() -> None:
    for name, file in FILES.items():
        expected = {key: tuple(shape) for key, shape in names()[f"npz/{file}"].items()}
        assert published_shapes(variant(name), 197) == expected

"""The reference's figures with weights that came through a published `.npz`, at every size."""

import numpy as np
import pytest
import torch

from golden_figures import close, facts, image, names, npz_entry, seed_state
from transunet.models.transunet2d.network import TransUNet
from transunet.models.variants import variant
from transunet.weights.load import load_weights

FIGURES = [name for name in facts() if name.startswith("npz_")]
MODELS = sorted({facts()[name]["config"] for name in FIGURES})


def entries(config, tokens):
    """Names and shapes of the published file, from those of the base models."""
    if config.hybrid:
        return names()["npz/R50+ViT-B_16"]
    sizes = {768: config.hidden_size, 3072: config.mlp_size, 12: config.num_heads, 197: tokens}
    result = {}
    for name, shape in names()["npz/ViT-B_16"].items():
        layers = config.num_layers if "encoderblock_0/" in name else 1
        for i in range(layers):
            renamed = name.replace("encoderblock_0/", f"encoderblock_{i}/")
            result[renamed] = tuple(sizes.get(side, side) for side in shape)
    kernel = config.patch_size
    return result | {"embedding/kernel": (kernel, kernel, 3, config.hidden_size)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [  # a file of 1.3 GB, whose entries are named and shaped as the smaller one's
        pytest.param(name, marks=pytest.mark.exhaustive) if name == "ViT-L_16" else name
        for name in MODELS
    ],
)
def test_the_reference_with_a_published_npz(tmp_path, name):
    figures = [figure for figure in FIGURES if facts()[figure]["config"] == name]
    path = tmp_path / "published.npz"
    held = entries(variant(name), facts()[figures[0]]["npz_tokens"])
    np.savez(path, **{key: npz_entry(key, tuple(shape)) for key, shape in held.items()})
    try:
        for figure in figures:
            check(figure, path)
    finally:
        path.unlink()  # up to 1.3 GB, which pytest would keep


def check(figure, path):
    fact = facts()[figure]
    settings = {key: fact[key] for key in ("image_size", "n_skip", "num_classes", "in_channels")}
    with torch.device("meta"):  # drawn nowhere: what is not loaded would be seen
        model = TransUNet(variant(fact["config"], **settings)).eval()
    model.to_empty(device="cpu")
    seed_state(model.decoder, "decoder.")
    seed_state(model.segmentation_head, "segmentation_head.")
    load_weights(model, path)
    assert sum(value.numel() for value in model.parameters()) == fact["parameters"]
    with torch.no_grad():
        close(figure, logits(model, image(fact), half=figure.endswith("_half")))


def logits(model, x, half):
    """Logits at the size of the figure: with a patch of 32 the reference's are half the input's."""
    if not half:
        return model(x)
    tokens, grid, skips = model.transformer(x.expand(-1, 3, -1, -1))
    return model.segmentation_head(model.decoder(tokens, grid, skips))

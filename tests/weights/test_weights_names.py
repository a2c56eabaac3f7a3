"""The name maps in full: every published file, by names and shapes, against the model it is for."""

import json
from pathlib import Path

import pytest
import torch

from transunet.models.transunet2d.config import TRANSUNET2D_VARIANTS
from transunet.models.transunet2d.network import TransUNet
from transunet.weights.catalog import PARTS, files_for
from transunet.weights.fit import adapted
from transunet.weights.identify import traits_of, traits_of_config, variant_of
from transunet.weights.schemes import google, official, timm

HERE = Path(__file__).parent
TIMM = json.loads((HERE / "timm_names.json").read_text())
GOLDEN = json.loads((HERE.parent / "golden" / "names.json").read_text())
SINGLE = [name for name in TRANSUNET2D_VARIANTS if len(PARTS.get(name, ())) == 1]


def meta(shapes):
    return {name: torch.empty(tuple(shape), device="meta") for name, shape in shapes.items()}


def model_shapes(name, **changes):
    with torch.device("meta"):
        state = TransUNet(TRANSUNET2D_VARIANTS[name].replace(**changes)).state_dict()
    return {key: tuple(value.shape) for key, value in state.items()}


def encoder_shapes(name):
    return {k: v for k, v in model_shapes(name).items() if k.startswith("transformer.")}


def shapes(state):
    return {name: tuple(value.shape) for name, value in state.items()}


def timm_entries(key):
    model = TIMM[key]
    return {
        name.replace("{i}", str(i)): shape
        for name, shape in model["entries"].items()
        for i in range(model["layers"] if "{i}" in name else 1)
    }


def google_entries(name):
    """The golden names of the base models, with the widths and layers of `name`."""
    if name == "R50-ViT-B_16":
        return GOLDEN["npz/R50+ViT-B_16"]
    config = TRANSUNET2D_VARIANTS[name]
    rows, columns = config.grid
    sizes = {768: config.hidden_size, 3072: config.mlp_size, 12: config.num_heads}
    sizes |= {64: config.hidden_size // config.num_heads, 16: config.patch_size}
    sizes |= {197: rows * columns + 1}
    result = {}
    for entry, shape in GOLDEN["npz/ViT-B_16"].items():
        new = [sizes.get(side, side) for side in shape]
        result[entry] = new
        if "encoderblock_0/" in entry:
            for i in range(config.num_layers):
                result[entry.replace("encoderblock_0/", f"encoderblock_{i}/")] = new
    return result


@pytest.mark.parametrize("name", SINGLE)
def test_timm(name):
    (file,) = files_for(name)
    renamed = timm.renamed(meta(timm_entries(file.key)))
    assert shapes(renamed.state) == encoder_shapes(name)
    assert renamed.unknown == {}
    assert renamed.unused == ("cls_token",)
    assert variant_of(renamed.state) == name


@pytest.mark.parametrize("name", SINGLE)
def test_google(name):
    renamed = google.renamed(meta(google_entries(name)))
    assert shapes(renamed.state) == encoder_shapes(name)
    assert renamed.unknown == {}
    assert set(renamed.unused) == {
        *("cls", "head/kernel", "head/bias", "pre_logits/kernel", "pre_logits/bias")
    }
    assert renamed.heads == TRANSUNET2D_VARIANTS[name].num_heads
    assert variant_of(renamed.state) == name


@pytest.mark.parametrize("name", ["R50-ViT-B_16", "ViT-B_16"])
def test_official(name):
    reference = {k: tuple(v) for k, v in GOLDEN[f"state_dict/{name}"].items()}
    assert reference == model_shapes(name, num_classes=9)
    wrapped = {f"module.{key}": shape for key, shape in reference.items()}
    for entries in (reference, wrapped):
        renamed = official.renamed(meta(entries))
        assert shapes(renamed.state) == reference
        assert renamed.unknown == {}
        assert variant_of(renamed.state) == name


@pytest.mark.parametrize("name", TRANSUNET2D_VARIANTS)
def test_every_variant_is_told_by_its_own_shapes(name):
    state = meta(model_shapes(name))
    assert traits_of(state) == traits_of_config(TRANSUNET2D_VARIANTS[name])
    assert variant_of(state) == name


def test_each_scheme_recognises_its_own_names_only():
    names = {
        google: google_entries("ViT-B_16"),
        timm: timm_entries("vit_base_patch16_224.orig_in21k"),
        official: {f"module.{name}": 0 for name in GOLDEN["state_dict/ViT-B_16"]},
    }
    for scheme in names:
        assert [scheme.recognises(entries) for entries in names.values()] == [
            scheme is other for other in names
        ]


def test_positions_of_the_published_grid_are_left_as_they_are():
    renamed = timm.renamed(meta(timm_entries("vit_huge_patch14_224.orig_in21k")))
    with torch.device("meta"):
        state = adapted(renamed, TransUNet(TRANSUNET2D_VARIANTS["ViT-H_14"]))
    assert shapes(state) == encoder_shapes("ViT-H_14")

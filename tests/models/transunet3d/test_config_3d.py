"""Configurations of 3D TransUNet: what can be built, and what a message says of the rest."""

from typing import Any

import pytest
import torch

from transunet import create_model
from transunet.errors import ConfigError
from transunet.models.transunet3d.config import (
    TRANSUNET3D_VARIANTS,
    TransUNet3DConfig,
    plan_trunk,
)
from transunet.models.transunet3d.network import TransUNet3D


def parameters(config: TransUNet3DConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in TransUNet3D(config).parameters())


def test_variants_have_the_published_sizes_and_small_ones_fit_a_laptop() -> None:
    millions = {
        name: parameters(config.replace(num_classes=9)) / 1e6
        for name, config in TRANSUNET3D_VARIANTS.items()
    }
    assert millions["TransUNet3D-encoder"] == pytest.approx(116.5, abs=0.1)
    assert millions["TransUNet3D-decoder"] == pytest.approx(33.6, abs=0.1)
    assert millions["TransUNet3D"] == pytest.approx(119.4, abs=0.1)
    assert millions["UNet3D"] == pytest.approx(30.8, abs=0.1)
    assert 6 < millions["TransUNet3D-S"] < 10
    assert 5 < millions["UNet3D-S"] < millions["TransUNet3D-S"]


@pytest.mark.parametrize(
    ("patch", "spacing", "poolings"),
    [
        # What the authors' own plans must have been: abdomen, vessels, brain.
        ((48, 192, 192), (3, 0.76, 0.76), ["122", "222", "222", "222", "122"]),
        ((64, 192, 192), (1.5, 0.8, 0.8), ["222", "222", "222", "222", "122"]),
        ((128, 128, 128), (1, 1, 1), ["222"] * 5),
        ((40, 56, 40), (1, 1, 1), ["222"] * 3),
        ((10, 256, 224), (10, 1.5, 1.5), ["122", "122", "222", "122", "122"]),
        ((7, 7, 7), (1, 1, 1), []),
    ],
)
def test_poolings_follow_from_patch_and_spacing(
    patch: tuple, spacing: tuple, poolings: list[str]
) -> None:
    plan = plan_trunk(patch, spacing)
    assert ["".join(map(str, steps)) for steps in plan.poolings] == poolings
    assert len(plan.kernels) == len(poolings) + 1
    assert plan.image_size == patch
    thick = spacing[0] >= 2 * spacing[1]
    assert plan.kernels[0] == ((1, 3, 3) if thick else (3, 3, 3))
    assert plan.kernels[-1] == (3, 3, 3)
    if poolings:
        assert TransUNet3DConfig(**plan._asdict()).stride


def test_a_patch_is_rounded_up_to_what_its_poolings_divide() -> None:
    plan = plan_trunk((44, 53, 40))
    assert plan.image_size == (48, 56, 40)
    assert TransUNet3DConfig(**plan._asdict()).grid == (6, 7, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (48, 192, 200)}, "200 is not a multiple of 32.*possible: 192 or 224"),
        ({"image_size": (8, 32, 32)}, "single voxel at the bottleneck"),
        ({"image_size": (48, 192)}, "image_size.2 is missing"),
        ({"kernels": ((3, 3, 3),) * 5}, "5 poolings make 6 stages, found kernels for 5"),
        ({"kernels": ((2, 3, 3),) * 6}, r"\(2, 3, 3\) is impossible.*1 or 3"),
        ({"vit": {"hidden_size": 100}}, "vit.num_heads=12 does not divide.*10, 20"),
        ({"queries": {"hidden_size": 128}}, "must be a multiple of 96.*possible: 96, 192"),
        ({"queries": {"num_queries": 1}}, "1 of them cannot see 2 classes"),
        (
            {"poolings": ((2, 2, 2),) * 2, "kernels": ((3, 3, 3),) * 3, "queries": {}},
            r"its poolings \(2\) make fewer.*3 poolings or more",
        ),
        ({"regions": ((1, 2), (2,)), "num_classes": 3}, "2 of them, found num_classes=3"),
        ({"queries": {"layer_scale": "paper"}}, "layer_scale: Input should be 'branch' or"),
        ({"queries": {"layers": 3}}, "unknown setting 'layers'"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TransUNet3DConfig(**changes)


def test_a_variant_changes_part_of_a_part() -> None:
    usual = TRANSUNET3D_VARIANTS["TransUNet3D-S"]
    assert usual.vit is not None
    changed = usual.replace(vit={"num_layers": 2})
    assert changed.vit == usual.vit.replace(num_layers=2)
    assert (changed.layers, changed.heads) == (2, 3)
    assert usual.replace(vit=None).layers == 0


def test_none_leaves_a_transformer_out() -> None:
    encoder = create_model("TransUNet3D-S", num_classes=None, queries=None, deep_supervision=True)
    assert encoder.config.queries is None
    assert encoder.config.layers == 6
    assert encoder.config.num_classes == 2
    plain = create_model("TransUNet3D-S", vit=None, queries=None)
    assert not [
        name for name in plain.state_dict() if name.startswith(("transformer", "predictor"))
    ]

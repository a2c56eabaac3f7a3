from importlib.util import find_spec
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from transunet.cli.main import app
from transunet.errors import ConfigError
from transunet.integrations.nnunet import launch
from transunet.integrations.nnunet.plans import check_axes, config_for_plans
from transunet.models.families import build
from transunet.models.transunet3d.config import TransUNet3DConfig


@pytest.mark.parametrize(
    ("patch_size", "held"), [((56, 40), (64, 48)), ((512, 448), (512, 448)), ([7, 100], (16, 112))]
)
def test_position_embeddings_are_held_for_whole_patches(
    patch_size: Any, held: tuple[int, int]
) -> None:
    config = config_for_plans("R26-ViT-Ti_16", patch_size, 3, 5)
    assert config.image_size == held
    assert (config.in_channels, config.num_classes, config.name) == (3, 5, "R26-ViT-Ti_16")


@pytest.mark.parametrize(("channels", "heads"), [(1, 2), (2, 1), (5, 4)])
def test_a_planned_network_takes_planned_patches(channels: int, heads: int) -> None:
    config = config_for_plans("testing", (24, 40), channels, heads)
    with torch.inference_mode():
        logits = build(config).eval()(torch.rand(2, channels, 24, 40))
    assert logits.shape == (2, heads, 24, 40)


STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]
KERNELS = [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]]


@pytest.mark.parametrize("name", ["TransUNet3D-S", "UNet3D-S"])
def test_a_network_of_volumes_has_the_stages_that_are_planned(name: str) -> None:
    config = config_for_plans(name, [12, 24, 40], 2, 3, STRIDES, KERNELS)
    assert isinstance(config, TransUNet3DConfig)
    assert config.image_size == (12, 24, 40)
    assert config.stride == (4, 8, 8)
    assert config.kernels[0] == (1, 3, 3)
    assert len(config.kernels) == 4
    assert (config.in_channels, config.num_classes, config.name) == (2, 3, name)
    assert config.widths == (16, 32, 64, 128)


def test_plans_that_cannot_be_followed_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 poolings or more"):
        config_for_plans("TransUNet3D-S", [12, 24, 40], 1, 2, STRIDES[:3], KERNELS[:3])
    with pytest.raises(ConfigError, match=r"possible along each axis: 1 or 3"):
        config_for_plans("UNet3D-S", [12, 24, 40], 1, 2, STRIDES, [[5, 5, 5]] * 4)


def test_patches_of_another_kind_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"20 x 160 x 160.*segments slices.*2d .*TransUNet3D\.$"):
        config_for_plans("R50-ViT-B_16", (20, 160, 160), 1, 3)
    with pytest.raises(ConfigError, match="'3d_fullres'"):
        check_axes((20, 160, 160), 2, "3d_fullres")
    with pytest.raises(
        ConfigError, match=r"'2d' .*volumes.*3d_fullres .*nnUNetTrainerTransUNet\.$"
    ):
        check_axes((160, 160), 3, "2d")


def test_nnunet_searches_a_folder_that_holds_trainers_only() -> None:
    found = CliRunner().invoke(app, ["nnunet"])
    assert found.output.strip() == str(launch.trainer_folder())
    assert [path.name for path in launch.trainer_folder().glob("*.py")] == ["transunet_trainers.py"]


@pytest.mark.skipif(find_spec("nnunetv2") is not None, reason="nnU-Net is installed")
def test_without_nnunet_the_command_says_how_to_install_it() -> None:
    with pytest.raises(ConfigError, match=r"transunet-torch\[nnunet\]"):
        launch.run("nnUNetv2_train", [])


@pytest.mark.skipif(find_spec("nnunetv2") is None, reason="nnU-Net is not installed")
def test_a_misspelt_command_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'nnUNetv2_trian'.*nnUNetv2_train"):
        launch.run("nnUNetv2_trian", [])

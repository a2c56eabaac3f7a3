"""From nnU-Net's plans to the configuration of a TransUNet. Imports neither torch nor nnU-Net."""

from collections.abc import Sequence

from transunet.errors import ConfigError
from transunet.models.transunet2d.config import TransUNetConfig
from transunet.models.variants import variant


def config_for_plans(
    name: str, patch_size: Sequence[int], in_channels: int, num_classes: int
) -> TransUNetConfig:
    """Return the variant `name` for what nnU-Net planned: patches of height and width in pixels.

    A patch of any size fits: the network pads it to whole tokens (16 pixels) and crops its logits,
    so position embeddings are held for the next multiple. `num_classes` are classes with the
    background, or regions without it.

    Raises:
        ConfigError: when the patches are not two-dimensional.
    """
    check_2d(patch_size)
    config = variant(name)
    assert isinstance(config, TransUNetConfig)
    patch = config.patch_size
    height, width = (-(-int(side) // patch) * patch for side in patch_size)
    return config.replace(
        image_size=(height, width), in_channels=in_channels, num_classes=num_classes
    )


def check_2d(patch_size: Sequence[int], configuration: str | None = None) -> None:
    """Refuse plans of volumes.

    Raises:
        ConfigError: when the patches are not two-dimensional.
    """
    if len(patch_size) != 2:
        named = "" if configuration is None else f"of the configuration {configuration!r} "
        raise ConfigError(
            f"The patches {named}are {' x '.join(map(str, patch_size))} voxels, but TransUNet "
            "segments slices. Train it with nnU-Net's configuration 2d: "
            "nnUNetv2_train DATASET 2d FOLD -tr nnUNetTrainerTransUNet"
        )

"""From nnU-Net's plans to the configuration of a network. Imports neither torch nor nnU-Net."""

from collections.abc import Sequence

from transunet.data.text import extents
from transunet.errors import ConfigError
from transunet.models.architecture import Architecture
from transunet.models.transunet2d.config import TransUNetConfig
from transunet.models.variants import variant


def config_for_plans(
    name: str,
    patch_size: Sequence[int],
    in_channels: int,
    num_classes: int,
    strides: Sequence[Sequence[int]] = (),
    kernels: Sequence[Sequence[int]] = (),
) -> Architecture:
    """Return the variant `name` for what nnU-Net planned: patches of these sides.

    In 2D a patch of any size fits: the network pads it to whole tokens (16 pixels) and crops its
    logits, so position embeddings are held for the next multiple. In 3D the stages are those that
    nnU-Net planned for its own U-Net, with the variant's widths.

    Args:
        name: of the variant.
        patch_size: height and width in pixels; of volumes planes, rows and columns.
        in_channels: of the images.
        num_classes: classes with the background, or regions without it.
        strides: of each stage along each axis, the first one's 1; for 3D.
        kernels: of each stage along each axis; for 3D.

    Raises:
        ConfigError: when the variant takes patches of other dimensions, or cannot be built so.
    """
    config = variant(name)
    check_axes(patch_size, config.axes)
    counts = {"in_channels": in_channels, "num_classes": num_classes}
    if not isinstance(config, TransUNetConfig):
        stages = {"poolings": strides[1:], "kernels": kernels}
        return config.replace(image_size=tuple(patch_size), **stages, **counts)
    patch = config.patch_size
    height, width = (-(-int(side) // patch) * patch for side in patch_size)
    return config.replace(image_size=(height, width), **counts)


def check_axes(patch_size: Sequence[int], axes: int, configuration: str | None = None) -> None:
    """Refuse plans of patches that have not as many `axes`.

    Raises:
        ConfigError: which names the configuration and the trainer that go together.
    """
    if len(patch_size) != axes:
        named = "" if configuration is None else f"of the configuration {configuration!r} "
        patch = extents(patch_size)
        takes, other = ("slices", "3D") if axes == 2 else ("volumes", "")
        fitting = "2d" if axes == 2 else "3d_fullres"
        own = "" if axes == 2 else "3D"
        raise ConfigError(
            f"The patches {named}are {patch}, but this trainer's network segments {takes}. Take "
            f"nnU-Net's configuration {fitting} (nnUNetv2_train DATASET {fitting} FOLD -tr "
            f"nnUNetTrainerTransUNet{own}), or the trainer nnUNetTrainerTransUNet{other}."
        )

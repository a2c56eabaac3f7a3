"""How much memory training a 3D TransUNet takes, from its configuration alone. Imports no torch."""

from math import prod

from transunet.models.transunet3d.config import (
    TRANSUNET3D_VARIANTS,
    TransUNet3DConfig,
    TrunkPlan,
)

_FLOAT = 4  # bytes
_MAPS_PER_WIDTH = 13.4
"""Values that a step keeps of the U-Net for each voxel and each channel of the finest stage, those
of the coarser stages included."""
_MAPS_PER_TOKEN = 24.5  # values that a transformer's block keeps for each token and channel
_MASKS = 0.75  # of a query's masks, the share of voxels that its predictions keep on average
_TRANSIENT = 1.25  # what a step holds at most, over what it keeps for the backward pass
_COPIES = 4  # of each weight: itself, its gradient, and two moments


def training_bytes(config: TransUNet3DConfig, batch_size: int = 1) -> float:
    """Return about how many bytes a step in single precision takes, within a fifth.

    The factors were measured with this package's network.

    Args:
        config: its `image_size` is the patch's.
        batch_size: patches of a step that are computed at once.
    """
    voxels, tokens, classes = prod(config.image_size), config.tokens, config.num_classes
    values = voxels * (_MAPS_PER_WIDTH * config.width + 4 * classes)
    if vit := config.vit:
        in_block = tokens * (_MAPS_PER_TOKEN * vit.hidden_size + vit.num_heads * tokens)
        values += vit.num_layers * in_block
    if queries := config.queries:
        predictions = queries.num_layers + 1
        values += predictions * voxels * (_MASKS * queries.num_queries + 4 * classes)
    return _FLOAT * (_TRANSIENT * batch_size * values + _COPIES * weights_of(config))


def step_bytes(name: str, num_classes: int, plan: TrunkPlan, batch_size: int) -> float:
    """Return `training_bytes` of the variant `name` on a plan: what `planned_patches` asks for."""
    settings = {key: getattr(plan, key) for key in ("image_size", "poolings", "kernels")}
    config = TRANSUNET3D_VARIANTS[name].replace(num_classes=num_classes, **settings)
    return training_bytes(config, batch_size)


def weights_of(config: TransUNet3DConfig) -> int:
    """Return how many weights the large parts have together: convolutions and transformers."""
    widths, count = config.widths, 0
    before = config.in_channels
    for kernel, width in zip(config.kernels, widths, strict=True):
        count += prod(kernel) * width * (before + width)
        before = width
    for stage, pooling in enumerate(config.poolings):
        width, coarser = widths[stage], widths[stage + 1]
        count += prod(pooling) * coarser * width
        count += prod(config.kernels[stage + 1]) * 3 * width * width
    if vit := config.vit:
        hidden = vit.hidden_size
        count += vit.num_layers * hidden * (4 * hidden + 2 * vit.mlp_size)
        count += hidden * (2 * widths[-1] + config.tokens)
    if queries := config.queries:
        hidden = queries.hidden_size
        count += queries.num_layers * hidden * (8 * hidden + 2 * queries.mlp_size)
    return count

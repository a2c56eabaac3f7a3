"""3D TransUNet's own checkpoints, and what of an image's transformer its blocks take.

The reference's checkpoints are those of nnU-Net v1, whose plain 3D U-Net has the same names.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from transunet.errors import WeightsError
from transunet.models.positions import resize_positions
from transunet.models.transunet3d.config import TransUNet3DConfig
from transunet.weights.renaming import (
    CLICKS,
    ENCODER,
    POSITIONS,
    RenamedState,
    without_prefix,
)

SCHEME = "3D TransUNet's own names"

_NETWORK = r"conv_blocks_context\."
_OWN = (
    *("conv_blocks_context.", "conv_blocks_localization.", "tu.", "seg_outputs.", "transformer."),
    *("conv_more.", "input_proj.", "linear_mask_features.", "predictor.", CLICKS),
)
_RAW_POSITIONS = ("Transformer/posembed_input/pos_embedding", "pos_embed")  # Google's, timm's


def recognises(names: Iterable[str]) -> bool:
    """Whether `names` are those of a 3D TransUNet or of nnU-Net v1's 3D U-Net, wrapped or not."""
    return any("conv_blocks_context." in name for name in names)


def renamed(entries: Mapping[str, Tensor]) -> RenamedState:
    """Return `entries` without what wrappers put before their names."""
    entries = without_prefix(entries, _NETWORK)
    known = {name: value for name, value in entries.items() if name.startswith(_OWN)}
    unknown = {name: tuple(v.shape) for name, v in entries.items() if name not in known}
    return RenamedState(SCHEME, whole=True, state=known, unknown=unknown)


def described(state: Mapping[str, Tensor]) -> str:
    """Return in words what network `state` is of, wrapped or not."""
    shapes = {name: tuple(value.shape) for name, value in without_prefix(state, _NETWORK).items()}
    stem = shapes.get("conv_blocks_context.0.blocks.0.conv.weight", (0, 0))
    poolings = sum(re.fullmatch(r"tu\.\d+\.weight", name) is not None for name in shapes)
    parts = [f"a 3D U-Net of {poolings} poolings, {stem[1]} channels in and {stem[0]} at full size"]
    layers = sum(name.endswith(".attn.query.weight") for name in shapes)
    if layers:
        size = shapes.get(f"{ENCODER}.encoder_norm.weight", (0,))[0]
        parts.append(f"a transformer of {layers} layers, hidden size {size}")
    if "predictor.query_feat.weight" in shapes and "predictor.class_embed.bias" in shapes:
        queries, size = shapes["predictor.query_feat.weight"]
        classes = shapes["predictor.class_embed.bias"][0] - 1
        parts.append(f"{queries} queries of {size} numbers for {classes} classes")
    return " with ".join([parts[0], " and ".join(parts[1:])]) if parts[1:] else parts[0]


def check_layer_scale(renamed: RenamedState, config: TransUNet3DConfig, source: str) -> None:
    """Refuse weights of the reference whose layer scale means another thing than the model's.

    Raises:
        WeightsError: saying how to build the model.
    """
    for part, settings, sign in (
        ("vit", config.vit, "ls2.gamma"),
        ("queries", config.queries, "transformer_ffn_layers.0.ls1.gamma"),
    ):
        held = any(name.endswith(sign) for name in renamed.state)
        if held and settings is not None and settings.layer_scale == "branch":
            raise WeightsError(
                f"{source}: a checkpoint of the reference, whose layer scale does not multiply "
                f"the branch as this model's does ({part}.layer_scale='branch'): it would predict "
                f"something else. Create the model with {part}={{..., 'layer_scale': "
                "'reference'}, or load a bundle, which tells what its network does."
            )


def blocks_of_2d(renamed: RenamedState, entries: Mapping[str, Tensor]) -> RenamedState:
    """Return the blocks of an image's transformer, and its positions as the file has them.

    Patch embedding and backbone see pixels and have no use in a volume.
    """
    state = {name: v for name, v in renamed.state.items() if name.startswith(ENCODER)}
    raw = (v for name, v in entries.items() if name.endswith(_RAW_POSITIONS))
    positions = next(raw, renamed.state.get(POSITIONS))
    if positions is not None:
        state[POSITIONS] = positions
    unused = tuple(name for name in renamed.state if name not in state)
    return replace(renamed, whole=False, state=state, unused=(*renamed.unused, *unused))


def fresh_beside_blocks(names: Iterable[str]) -> list[str]:
    """Return which entries of a 3D model's transformer no image's transformer has."""
    return [name for name in names if "patch_embeddings" in name or name.endswith("gamma")]


def positions_in_volume(
    positions: Tensor, grid: tuple[int, ...], of_2d: tuple[int, ...] | None, how: str
) -> Tensor:
    """Return an image's position embeddings (1, M, D) for the tokens of a volume, (1, N, D).

    Args:
        positions: row by row, with or without the class token's in front.
        grid: planes, rows and columns of the volume's tokens.
        of_2d: rows and columns of the image's; a square where None.
        how: "grid": interpolated to rows and columns, the same in every plane; or "reference".
    """
    tokens, wanted = positions.shape[1], torch.Size(grid).numel()
    if how == "reference":
        # fidelity: a mistake. The row of tokens is resampled as if it were a line, so that
        # neighbours in the volume get embeddings of places that are none in the image.
        if tokens == wanted:
            return positions  # the class token's becomes the first voxel's
        index = torch.arange(wanted) * (tokens - 1) // wanted
        return positions[:, 1:][:, index]
    if of_2d is None:
        side = int(tokens**0.5)
        of_2d = (side, side)
    positions = positions[:, -torch.Size(of_2d).numel() :]  # without the class token's
    plane = resize_positions(positions.float(), of_2d, grid[1:])
    return plane.repeat(1, grid[0], 1)

"""Which variant a state dict is of, told by its shapes alone."""

import re
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from math import isqrt

from torch import Tensor

from transunet.models.transunet2d.config import TRANSUNET2D_VARIANTS, TransUNetConfig
from transunet.weights.renaming import BACKBONE, ENCODER, PATCHES, POSITIONS, ROOT


@dataclass(frozen=True)
class Traits:
    """What tells one encoder from another."""

    resnet_units: tuple[int, ...]
    root_channels: int
    patch_kernel: int
    hidden_size: int
    mlp_size: int
    num_layers: int

    def fits(self, other: "Traits") -> bool:
        """Whether these are the traits `other`, as far as they are known."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return all(mine in (0, theirs) for mine, theirs in pairs)

    def __str__(self) -> str:
        backbone = f"a ResNet {self.resnet_units} and " if self.resnet_units else ""
        return (
            f"{backbone}a transformer of {self.num_layers} layers, hidden size {self.hidden_size}, "
            f"MLP {self.mlp_size}, patch kernel {self.patch_kernel}"
        )


def traits_of(state: Mapping[str, Tensor]) -> Traits:
    """Return the traits of `state`, with 0 for what it does not hold."""
    patches = _shape(state, PATCHES)
    units = tuple(
        len(_numbers(state, rf"{BACKBONE}\.body\.block{stage}\.unit(\d+)\..*"))
        for stage in (1, 2, 3)
    )
    return Traits(
        resnet_units=units if any(units) else (),
        root_channels=(_shape(state, ROOT) or (0,))[0],
        patch_kernel=patches[-1] if len(patches) == 4 else 0,
        hidden_size=(_shape(state, f"{ENCODER}.encoder_norm.weight") or patches or (0,))[0],
        mlp_size=(_shape(state, f"{ENCODER}.layer.0.ffn.fc1.bias") or (0,))[0],
        num_layers=len(_numbers(state, rf"{ENCODER}\.layer\.(\d+)\..*")),
    )


def traits_of_config(config: TransUNetConfig) -> Traits:
    """Return the traits that a state dict of `config` has."""
    return Traits(
        resnet_units=config.resnet_units,
        root_channels=config.root_channels if config.hybrid else 0,
        patch_kernel=config.patch_kernel,
        hidden_size=config.hidden_size,
        mlp_size=config.mlp_size,
        num_layers=config.num_layers,
    )


def variant_of(state: Mapping[str, Tensor]) -> str | None:
    """Return the variant that `state` is of, or None when it is no known one, or might be two."""
    traits = traits_of(state)
    fitting = [
        name
        for name, config in TRANSUNET2D_VARIANTS.items()
        if traits.fits(traits_of_config(config))
    ]
    return fitting[0] if len(fitting) == 1 else None


def classes_of(state: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes of a whole state dict, None when it holds no head."""
    shape = _shape(state, "segmentation_head.0.bias")
    return shape[0] if shape else None


def skips_of(state: Mapping[str, Tensor]) -> int | None:
    """Return how many skips a whole state dict's decoder takes, None when it holds no decoder."""
    before = _shape(state, "decoder.conv_more.0.weight")
    if not before:
        return None
    skips = 0
    for block in range(4):
        conv1 = _shape(state, f"decoder.blocks.{block}.conv1.0.weight")
        if len(conv1) != 4:
            return None
        skips += conv1[1] > before[0]
        before = conv1
    return skips


def stem_channels_of(state: Mapping[str, Tensor]) -> int | None:
    """Return the channels that the first convolution of `state` sees, None when it holds none."""
    shape = _shape(state, ROOT) or _shape(state, PATCHES)
    return shape[1] if len(shape) == 4 else None


def square_grid_of(
    state: Mapping[str, Tensor], positions: str | None = POSITIONS
) -> tuple[int, int] | None:
    """Return the grid of the position embeddings, None when they fill no square."""
    tokens = tokens_of(state, positions)
    side = isqrt(tokens)
    return (side, side) if side and side * side == tokens else None


def tokens_of(state: Mapping[str, Tensor], positions: str | None = POSITIONS) -> int:
    """Return how many embeddings the entry `positions` of `state` holds, 0 for none."""
    shape = _shape(state, positions or "")
    return shape[1] if len(shape) == 3 else 0


def _numbers(state: Mapping[str, Tensor], pattern: str) -> set[str]:
    return {match.group(1) for name in state if (match := re.fullmatch(pattern, name))}


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    return tuple(state[name].shape) if name in state else ()

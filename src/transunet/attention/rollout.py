"""From every layer's attention probabilities to the one matrix that is looked at."""

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor

from transunet.errors import ConfigError
from transunet.models.architecture import Architecture

Layer = int | Literal["rollout"]
"""A layer as the state dict numbers them, from 0, or all of them rolled out."""
Head = int | Literal["mean"]
"""A head, from 0, or the mean of a layer's heads."""
LayerHead = tuple[Layer, Head]
"""A layer and a head; the roll-out always takes the mean of the heads."""

RESIDUAL = 0.5
"""What of a token stays its own at every layer of the roll-out, because of the residual path."""


def rollout(maps: Sequence[Tensor]) -> Tensor:
    """Return attention roll-out: what of each input token reaches each token of the last layer.

    Abnar & Zuidema (2020), "Quantifying attention flow in transformers", equation 1: the layers'
    matrices A = 0.5 W + 0.5 I are multiplied, the last one first. W is a layer's attention averaged
    over its heads and I stands for the residual connection.

    Args:
        maps: attention probabilities (B, heads, N, N), the first layer first.

    Returns:
        (B, N, N); every row is a distribution over the input tokens.
    """
    rolled = None
    for probabilities in maps:
        weights = probabilities.mean(dim=1)
        identity = torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
        mixed = (1 - RESIDUAL) * weights + RESIDUAL * identity
        mixed = mixed / mixed.sum(dim=-1, keepdim=True)
        rolled = mixed if rolled is None else mixed @ rolled
    assert rolled is not None, "a network has layers"
    return rolled


def select_matrices(maps: Sequence[Tensor], choices: Sequence[LayerHead]) -> list[Tensor]:
    """Return one matrix (B, N, N) per choice: row by row, how much a token attends to the others.

    Args:
        maps: attention probabilities (B, heads, N, N), the first layer first.
        choices: layers and heads that there are.
    """
    rolled = rollout(maps) if any(layer == "rollout" for layer, _ in choices) else None
    matrices = []
    for layer, head in choices:
        if layer == "rollout":
            assert rolled is not None
            matrices.append(rolled)
        else:
            matrices.append(maps[layer].mean(dim=1) if head == "mean" else maps[layer][:, head])
    return matrices


def layers_and_heads(layer: int | str, head: int | str, config: Architecture) -> list[LayerHead]:
    """Return what a layer ("rollout", "all") and a head ("mean", "all") stand for.

    All layers bring the roll-out with them, which is always of the heads' mean. Of a network that
    has queries and no layers, the usual choice is nothing.

    Raises:
        ConfigError: for a layer or head that the network does not have.
    """
    if config.num_queries and not config.layers and (layer, head) == ("rollout", "mean"):
        return []
    layers = [*range(config.layers)] if layer == "all" else [layer]
    heads = [*range(config.heads), "mean"] if head == "all" else [head]
    if layer == "rollout" and head == "all":
        heads = ["mean"]
    choices = [check_layer_head(one, other, config) for one in layers for other in heads]
    return [*choices, ("rollout", "mean")] if layer == "all" else choices


def check_layer_head(layer: int | str, head: int | str, config: Architecture) -> LayerHead:
    """Return a layer and a head, which the network has.

    Raises:
        ConfigError: for a layer or head that the network does not have, naming those it has.
    """
    if not config.layers:
        remedy = (
            "Only its queries' masks can be shown: leave layer and head out."
            if config.num_queries
            else "Explain a bundle of a 2D TransUNet, or of a 3D one with a transformer."
        )
        raise ConfigError(
            f"{config.name} has no vision transformer, so there is no attention to show. {remedy}"
        )
    for what, value, count, word in (
        ("layer", layer, config.layers, "rollout"),
        ("head", head, config.heads, "mean"),
    ):
        number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count
        if value != word and not number:
            raise ConfigError(
                f"The network has no {what} {value!r}; it has 0 to {count - 1}, and {word!r}."
            )
    if layer == "rollout" and head != "mean":
        raise ConfigError(
            f"The roll-out takes the mean of every layer's heads; head {head!r} cannot be chosen "
            "with it. Choose a layer, or the head 'mean'."
        )
    return cast("LayerHead", (layer, head))

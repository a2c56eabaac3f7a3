"""The networks, by their families: one entry for each folder of this package."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from transunet.models.architecture import Architecture
from transunet.models.segmentation_network import SegmentationNetwork
from transunet.models.transunet2d.exportable import exportable as exportable_2d
from transunet.models.transunet2d.network import TransUNet
from transunet.models.transunet2d.optimised import fuse
from transunet.models.transunet3d.network import TransUNet3D


@torch.no_grad()
def evaluation_copy(model: SegmentationNetwork) -> SegmentationNetwork:
    """Return a copy of `model` in evaluation mode, whose weights ask for no gradients."""
    return deepcopy(model).eval().requires_grad_(False)


@dataclass(frozen=True)
class Family:
    """A family of networks."""

    network: type[SegmentationNetwork]
    """Its class, which takes a configuration of the family's and draws random weights."""
    optimised: Callable[[Any], SegmentationNetwork] = evaluation_copy
    """Returns a copy of a network that predicts faster, with the same logits within rounding."""
    exportable: Callable[[Any, bool], nn.Module] | None = None
    """Returns a copy to be traced: for images in whole strides, of any size where it is told so.
    The optimised copy where there is none."""


FAMILIES: Mapping[str, Family] = {
    "transunet2d": Family(TransUNet, optimised=fuse, exportable=exportable_2d),
    "transunet3d": Family(TransUNet3D),
}
"""Name of each family -> its network; `variants.ARCHITECTURES` has the configurations."""


def build(config: Architecture) -> SegmentationNetwork:
    """Return the network of `config`, with random weights."""
    return FAMILIES[config.family].network(config)


def optimised(model: SegmentationNetwork) -> SegmentationNetwork:
    """Return a copy of `model` that predicts faster and cannot be trained; `model` stays as it is.

    Its weights may have other names: save the model itself.
    """
    return FAMILIES[model.config.family].optimised(model)


def exportable(model: SegmentationNetwork, any_size: bool = False) -> nn.Module:
    """Return a copy of `model` to be traced and exported; `model` stays as it is.

    It takes images in whole strides.

    Args:
        model: the network; in training mode or not.
        any_size: whether sizes other than the configured one are wanted.
    """
    family = FAMILIES[model.config.family]
    return family.exportable(model, any_size) if family.exportable else family.optimised(model)

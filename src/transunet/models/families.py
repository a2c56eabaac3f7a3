"""The families of networks, one entry for each folder of this package. Imports no torch.

What an entry names is imported when a network of that family is met.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from transunet.errors import ConfigError
from transunet.models.architecture import Architecture

if TYPE_CHECKING:
    from torch import nn

    from transunet.models.segmentation_network import SegmentationNetwork

ARCHITECTURES: Mapping[str, str | type[Architecture]] = {
    "transunet2d": "transunet2d.config:TransUNetConfig",
    "transunet3d": "transunet3d.config:TransUNet3DConfig",
}
"""Name of each family, which a bundle tells by the field `family` -> its configuration."""


@dataclass(frozen=True)
class Family:
    """A family of networks; each part itself, or "MODULE:NAME" below this package."""

    network: "str | type[SegmentationNetwork]"
    """Its class, which takes a configuration of the family's and draws random weights."""
    optimised: "str | Callable[[Any], SegmentationNetwork]" = "segmentation_network:evaluation_copy"
    """Returns a copy of a network that predicts faster, with the same logits within rounding."""
    exportable: "str | Callable[[Any, bool], nn.Module] | None" = None
    """Returns a copy to be traced: for images in whole strides, of any size where it is told so.
    The optimised copy where there is none."""


FAMILIES: Mapping[str, Family] = {
    "transunet2d": Family(
        "transunet2d.network:TransUNet",
        optimised="transunet2d.optimised:fuse",
        exportable="transunet2d.exportable:exportable",
    ),
    "transunet3d": Family(
        "transunet3d.network:TransUNet3D", exportable="transunet3d.exportable:exportable"
    ),
}
"""Name of each family -> its network."""


def architecture_of(values: Mapping[str, Any]) -> Architecture:
    """Return the configuration that `values` (of parsed JSON) describe.

    Without `family` they are of 2D TransUNet, the only family that there was at first.

    Raises:
        ConfigError: for an unknown family or impossible settings.
    """
    family = values.get("family", "transunet2d")
    if family not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ConfigError(
            f"family: there is no family of networks {family!r}; known: {known}. Update this "
            "package if a later version wrote it."
        )
    architecture: Architecture = _loaded(ARCHITECTURES[family])(**values)
    return architecture


def network_class(config: Architecture) -> "type[SegmentationNetwork]":
    """Return the class of the network of `config`."""
    cls: type[SegmentationNetwork] = _loaded(FAMILIES[config.family].network)
    return cls


def build(config: Architecture) -> "SegmentationNetwork":
    """Return the network of `config`, with random weights."""
    return network_class(config)(config)


def optimised(model: "SegmentationNetwork") -> "SegmentationNetwork":
    """Return a copy of `model` that predicts faster and cannot be trained; `model` stays as it is.

    Its weights may have other names: save the model itself.
    """
    copy: SegmentationNetwork = _loaded(FAMILIES[model.config.family].optimised)(model)
    return copy


def exportable(model: "SegmentationNetwork", any_size: bool = False) -> "nn.Module":
    """Return a copy of `model` to be traced and exported; `model` stays as it is.

    It takes images in whole strides.

    Args:
        model: the network; in training mode or not.
        any_size: whether sizes other than the configured one are wanted.
    """
    family = FAMILIES[model.config.family]
    if family.exportable is None:
        return optimised(model)
    copy: nn.Module = _loaded(family.exportable)(model, any_size)
    return copy


def _loaded(part: Any) -> Any:
    if not isinstance(part, str):
        return part
    module, _, name = part.partition(":")
    return getattr(import_module(f"transunet.models.{module}"), name)

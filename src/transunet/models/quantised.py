"""A network in int8: weights and activations of its products and convolutions as 8-bit integers.

Static quantisation from ranges that were measured before. What a layer is given is unsigned, with
an offset; weights are signed with a scale per output channel, in 7 bits, so that processors without
VNNI, which add two products in 16 bits, do not overflow. What a convolution makes is rounded too:
ONNX Runtime computes it in integers only then, and OpenVINO would take the scale through the norm
behind it and change labels. In fp32 stay the first convolution, which sees the image itself, and
all that has no weights to multiply with: normalisation, softmax, the products of attention,
resizing. docs/how-to/export.md has the figures behind these choices.
"""

from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import cast

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch import Tensor, nn

from transunet.models.families import exportable
from transunet.models.segmentation_network import SegmentationNetwork

LAYERS = (nn.Conv2d, nn.Conv3d, nn.Linear)
"""What becomes int8; convolutions within groups, which average norms' means, do not."""
_LARGEST_WEIGHT = 64  # in 7 bits
Ends = tuple[float, float]


@torch.inference_mode()
def measured_ranges(
    model: SegmentationNetwork, batches: Iterable[Tensor]
) -> dict[str, tuple[Ends, Ends]]:
    """Return, of each layer that int8 computes, the ends of what it is given and what it makes.

    Layers that predicting does not use have none.

    Args:
        model: the network.
        batches: images (B, C, *spatial) at the network's size, on its device.
    """
    module = exportable(model)
    seen: dict[str, list[Ends]] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def see(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            before = seen.get(name, [(inf, -inf), (inf, -inf)])
            seen[name] = [
                (min(low, float(x.min())), max(high, float(x.max())))
                for (low, high), x in zip(before, (given[0], made), strict=True)
            ]

        return see

    for name, layer in _layers(model, module).items():
        layer.register_forward_hook(watch(name))
    for images in batches:
        module(images)
    return {name: (given, made) for name, (given, made) in seen.items()}


@torch.no_grad()
def quantised(
    model: SegmentationNetwork,
    ranges: Mapping[str, tuple[Ends, Ends]],
    any_size: bool = False,
    as_integers: bool = False,
) -> nn.Module:
    """Return a copy of `model` to be traced and exported, whose layers round as int8 does.

    Args:
        model: the network, of which `ranges` were measured.
        ranges: see `measured_ranges`.
        any_size: see `families.exportable`.
        as_integers: hold weights as integers and round in the operators that torch.export and the
            ONNX exporter know; otherwise in those that OpenVINO reads. Both compute the same.

    Raises:
        KeyError: for ranges of another network.
    """
    module = exportable(model, any_size)
    layers = _layers(model, module)
    for name, ends in ranges.items():
        parent, _, last = name.rpartition(".")
        layer = QuantisedLayer(layers[name], *ends, as_integers)
        setattr(module.get_submodule(parent), last, layer)
    return module.eval()


def _layers(model: SegmentationNetwork, module: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of the exportable `module` that may be computed in int8."""
    first = (model.stem_name or "").removesuffix(".weight")
    return {
        name: layer
        for name, layer in module.named_modules()
        if type(layer) in LAYERS and name != first and getattr(layer, "groups", 1) == 1
    }


class Rounding(nn.Module):
    """Rounds numbers between two ends to 256 levels, 0 among them."""

    def __init__(self, ends: Ends, as_integers: bool) -> None:
        super().__init__()
        low, high = min(ends[0], 0.0), max(ends[1], 0.0)
        self.scale = (high - low) / 255 or 1.0
        self.offset = round(-low / self.scale)
        self.as_integers = as_integers

    def forward(self, x: Tensor) -> Tensor:
        """Round `x` of any shape."""
        if not self.as_integers:
            return torch.fake_quantize_per_tensor_affine(x, self.scale, self.offset, 0, 255)
        how = self.scale, self.offset, 0, 255, torch.uint8
        rounded = torch.ops.quantized_decomposed.quantize_per_tensor(x, *how)
        return torch.ops.quantized_decomposed.dequantize_per_tensor(rounded, *how)  # type: ignore[no-any-return]


class QuantisedLayer(nn.Module):
    """A convolution or a linear layer with rounded weights, of rounded numbers."""

    weight: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, layer: nn.Module, given: Ends, made: Ends, as_integers: bool) -> None:
        super().__init__()
        self.layer = cast("nn.Conv2d | nn.Conv3d | nn.Linear", layer)
        self.as_integers = as_integers
        self.round_given = Rounding(given, as_integers)
        self.round_made = Rounding(made, as_integers)
        # A product's weights lie as ONNX multiplies with them: (in, out).
        self.axis = 1 if isinstance(layer, nn.Linear) else 0
        weight = self.layer.weight.detach()
        largest = weight.abs().flatten(1).amax(1)
        scale = torch.where(largest > 0, largest / _LARGEST_WEIGHT, 1.0)
        weight = weight.T.contiguous() if self.axis else weight
        if as_integers:
            column = scale.reshape([-1 if a == self.axis else 1 for a in range(weight.ndim)])
            weight = (weight / column).round().to(torch.int8)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("offset", torch.zeros_like(scale, dtype=torch.int32))
        del self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, *spatial), or map tokens (B, N, D)."""
        x, layer = self.round_given(x), self.layer
        if isinstance(layer, nn.Linear):
            y = torch.matmul(x, self._rounded_weight())
            return y if layer.bias is None else y + layer.bias
        made = layer._conv_forward(x, self._rounded_weight(), layer.bias)
        return self.round_made(made)  # type: ignore[no-any-return]

    def _rounded_weight(self) -> Tensor:
        how = self.scale, self.offset, self.axis, -_LARGEST_WEIGHT, _LARGEST_WEIGHT
        if not self.as_integers:
            return torch.fake_quantize_per_channel_affine(self.weight, *how)
        dequantise = torch.ops.quantized_decomposed.dequantize_per_channel
        return dequantise(self.weight, *how, torch.int8)  # type: ignore[no-any-return]

"""A network for predicting only: what does not change between images is computed once.

The logits are those of the plain network within rounding: 1e-4 of their scale, which
`tests/models/test_optimised.py` holds.
"""

from copy import deepcopy
from typing import cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from transunet.models.transunet2d.decoder import ConvBNReLU
from transunet.models.transunet2d.network import TransUNet
from transunet.models.transunet2d.resnet import StdConv2d


@torch.no_grad()
def fuse(model: TransUNet) -> TransUNet:
    """Return a copy of `model` in evaluation mode, made for predicting; `model` stays as it is.

    Weights are standardised once instead of at every forward, and BatchNorm is folded into the
    convolution before it. The copy cannot be trained on, and its weights have other names than the
    reference's: save the model itself.
    """
    fused = deepcopy(model).eval().requires_grad_(False)
    for module in list(fused.modules()):
        if isinstance(module, ConvBNReLU):
            _fold(module)
        for name, child in module.named_children():
            if isinstance(child, StdConv2d):
                setattr(module, name, _standardised(child))
    return fused


def _fold(block: ConvBNReLU) -> None:
    convolution, norm = block[0], block[1]
    if isinstance(norm, nn.BatchNorm2d):  # else it is folded already
        block[0] = fuse_conv_bn_eval(cast("nn.Conv2d", convolution), norm)
        block[1] = nn.Identity()


def _standardised(convolution: StdConv2d) -> nn.Conv2d:
    weight = convolution.standardised_weight()
    plain = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        cast("tuple[int, int]", convolution.kernel_size),
        cast("tuple[int, int]", convolution.stride),
        cast("tuple[int, int]", convolution.padding),
        bias=convolution.bias is not None,
        device="meta",  # its own weight would be drawn for nothing
    )
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if convolution.bias is not None:
        plain.bias = nn.Parameter(convolution.bias, requires_grad=False)
    return plain.eval()

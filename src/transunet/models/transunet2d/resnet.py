"""The hybrid's backbone: a ResNet-50 v2 of weight-standardised convolutions and GroupNorm.

Source: Kolesnikov et al. 2020 (BiT); Chen et al. 2021, section 3.2 (CNN-Transformer hybrid).
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from transunet.models.transunet2d.config import TransUNetConfig


class StdConv2d(nn.Conv2d):
    """A convolution that standardises its weight per output channel at every forward.

    Source: Qiao et al. 2019, equation 7, with eps 1e-5 and the biased variance.
    """

    def standardised_weight(self) -> Tensor:
        """Return the weight that the convolution applies, of the weight's shape."""
        var, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        return (self.weight - mean) / torch.sqrt(var + 1e-5)

    def _standardised_in_one_pass(self) -> Tensor:
        """Return the same within rounding, by one kernel, and one for the gradient instead of ten.

        BatchNorm of a single "image" whose channels are the weight's rows.
        """
        rows = self.weight.flatten(1)[None]
        normalised = F.batch_norm(rows, None, None, training=True, eps=1e-5)
        return normalised.view_as(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `x` (B, C, H, W)."""
        weight = self._standardised_in_one_pass() if self.training else self.standardised_weight()
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class GroupNorm(nn.GroupNorm):
    """GroupNorm of any size: of a single value per group, which is its own mean, the bias is left.

    PyTorch refuses that for one image, also when it predicts, and computes it for two.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` (B, C, H, W) within groups of channels."""
        given = x
        if self.training and x.is_cpu:  # where PyTorch's gradient is slow with channels last
            x = x.float() if x.dtype == torch.bfloat16 else x
            if self.num_groups == self.num_channels:
                x = x.contiguous()
        y = torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        return y if x is given else y.to(given, memory_format=torch.channels_last)


def _conv1x1(c_in: int, c_out: int, stride: int = 1) -> StdConv2d:
    return StdConv2d(c_in, c_out, 1, stride, bias=False)


class PreActBottleneck(nn.Module):
    """Bottleneck unit: 1x1, 3x3 and 1x1 convolutions, each normalised, plus the residual.

    The name is the checkpoint's; normalisation and activation follow their convolution here.
    """

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        c_mid = c_out // 4
        self.gn1 = GroupNorm(32, c_mid, eps=1e-6)
        self.conv1 = _conv1x1(c_in, c_mid)
        self.gn2 = GroupNorm(32, c_mid, eps=1e-6)
        # fidelity: the stride sits on the 3x3 convolution, not on the first as in ResNet v1.
        self.conv2 = StdConv2d(c_mid, c_mid, 3, stride, padding=1, bias=False)
        self.gn3 = GroupNorm(32, c_out, eps=1e-6)
        self.conv3 = _conv1x1(c_mid, c_out)
        self.projects = stride != 1 or c_in != c_out
        if self.projects:
            self.downsample = _conv1x1(c_in, c_out, stride)
            # fidelity: one group per channel, and PyTorch's default eps of 1e-5.
            self.gn_proj = GroupNorm(c_out, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c_in, H, W) to (B, c_out, H / stride, W / stride)."""
        residual = self.gn_proj(self.downsample(x)) if self.projects else x
        y = F.relu(self.gn1(self.conv1(x)))
        y = F.relu(self.gn2(self.conv2(y)))
        y = self.gn3(self.conv3(y))
        return F.relu(residual + y)


class ResNetV2(nn.Module):
    """Root and three stages; (B, C, H, W) becomes the 1/16 feature and three skips."""

    def __init__(self, config: TransUNetConfig) -> None:
        super().__init__()
        width = config.root_channels
        self.root = nn.Sequential(
            OrderedDict(
                conv=StdConv2d(config.stem_channels, width, 7, 2, padding=3, bias=False),
                gn=GroupNorm(32, width, eps=1e-6),
                relu=nn.ReLU(inplace=True),
            )
        )
        first, second, third = config.resnet_units
        self.body = nn.Sequential(
            OrderedDict(
                block1=_stage(width, 4 * width, first, stride=1),
                block2=_stage(4 * width, 8 * width, second, stride=2),
                block3=_stage(8 * width, 16 * width, third, stride=2),
            )
        )
        self.gradient_checkpointing = False

    def forward(self, x: Tensor, added: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return the 1/16 feature (B, 16 width, H/16, W/16) and the skips at 1/8, 1/4, 1/2.

        Args:
            x: images (B, C, H, W).
            added: to the root's output, (B, width, H/2, W/2).
        """
        height, width = x.shape[2:]
        half = self.root(x) if added is None else self.root(x) + added
        # fidelity: pooling without padding leaves the quarter map a pixel short.
        pooled = F.max_pool2d(half, kernel_size=3, stride=2)
        block1, block2, block3 = self.body
        quarter = self._run(block1, pooled)
        eighth = self._run(block2, quarter)
        deep = self._run(block3, eighth)
        return deep, [
            _pad_to(eighth, height // 8, width // 8),
            _pad_to(quarter, height // 4, width // 4),
            half,
        ]

    def _run(self, stage: nn.Module, x: Tensor) -> Tensor:
        if self.gradient_checkpointing and self.training:
            return checkpoint(stage, x, use_reentrant=False)  # type: ignore[no-any-return]
        return stage(x)  # type: ignore[no-any-return]


def _stage(c_in: int, c_out: int, units: int, stride: int) -> nn.Sequential:
    later = {f"unit{i}": PreActBottleneck(c_out, c_out) for i in range(2, units + 1)}
    return nn.Sequential(OrderedDict(unit1=PreActBottleneck(c_in, c_out, stride), **later))


def _pad_to(x: Tensor, height: int, width: int) -> Tensor:
    # fidelity: a skip that came out short is filled with zeros at the bottom and right.
    return F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]))

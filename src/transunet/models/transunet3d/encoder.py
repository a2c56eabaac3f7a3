"""The U-Net's way down: units of convolution, norm and activation (Isensee et al. 2021)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from transunet.models.transunet3d.config import TransUNet3DConfig, Triple

SLOPE = 0.01  # of the leaky ReLU below zero


class Unit(nn.Module):
    """Convolution, instance norm, leaky ReLU."""

    def __init__(
        self, channels_in: int, channels: int, kernel: Triple, stride: Triple = (1, 1, 1)
    ) -> None:
        super().__init__()
        depth, height, width = kernel
        padding = (depth // 2, height // 2, width // 2)
        self.conv = nn.Conv3d(channels_in, channels, kernel, stride, padding)
        self.instnorm = nn.InstanceNorm3d(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, D, H, W) to (B, channels, d, h, w)."""
        # In place, since the norm's gradient needs what it was given, not what it gave.
        x = self.conv(x)
        if not self.training:
            return F.leaky_relu(self.instnorm(x), SLOPE, inplace=True)
        # The norm as PyTorch computes it, but for the view that it returns, which would be copied
        # twice on the way back for what is written into it.
        batch, norm = len(x), self.instnorm
        flat = x.reshape(1, -1, *x.shape[2:])
        weight, bias = norm.weight.repeat(batch), norm.bias.repeat(batch)
        flat = F.batch_norm(flat, None, None, weight, bias, training=True, eps=norm.eps)
        return F.leaky_relu(flat, SLOPE, inplace=True).view_as(x)


class Units(nn.Module):
    """Units in a row."""

    def __init__(self, *units: Unit) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*units)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, D, H, W) to (B, channels, d, h, w)."""
        return self.blocks(x)  # type: ignore[no-any-return]


class DownPath(nn.ModuleList):
    """Stages of two units; the first of each but the finest halves the axes of its pooling."""

    def __init__(self, config: TransUNet3DConfig) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        channels = config.in_channels
        strides = [(1, 1, 1), *config.poolings]
        for stage, (width, kernel) in enumerate(zip(config.widths, config.kernels, strict=True)):
            first = Unit(channels, width, kernel, strides[stage])
            second = Unit(width, width, kernel)
            bottleneck = stage == len(config.poolings)
            self.append(
                nn.Sequential(Units(first), Units(second)) if bottleneck else Units(first, second)
            )
            channels = width

    def forward(self, x: Tensor, added: Tensor | None = None) -> list[Tensor]:
        """Return each stage's features, the finest first, for images (B, C, D, H, W).

        `added` (B, width, D, H, W) is added to the finest.
        """
        features: list[Tensor] = []
        for stage in self:
            x = run(stage, x, self.gradient_checkpointing)
            if added is not None and not features:
                x = x + added
            features.append(x)
        return features


def run(stage: nn.Module, x: Tensor, recomputed: bool) -> Tensor:
    """Return what `stage` makes of `x`, keeping nothing of it for the gradient if `recomputed`."""
    if recomputed and torch.is_grad_enabled():
        return checkpoint(stage, x, use_reentrant=False)  # type: ignore[no-any-return]
    return stage(x)  # type: ignore[no-any-return]

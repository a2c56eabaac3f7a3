"""A network for exporting: the fused one in operators that every runtime computes fast.

The logits are those of the plain network within rounding. What changes, and why:

- GroupNorm becomes means over each channel, averaged in groups by a small convolution. The usual
  form on (B, groups, C / groups * H * W) makes OpenVINO turn the activations from channels-last to
  channels-first and back around each of the backbone's 52 norms.
- One-channel images are not repeated to three: the first convolution's weights are summed instead.
- Query, key and value are one product, with the attention's scale in its weights.
- Position embeddings are resized inside the graph where any size is wanted.
- Nothing is padded or cropped: heights and widths are whole patches.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transunet.models.positions import resize_positions
from transunet.models.transformer import Attention
from transunet.models.transunet2d.decoder import upsample
from transunet.models.transunet2d.embedding import Embeddings
from transunet.models.transunet2d.network import TransUNet
from transunet.models.transunet2d.optimised import fuse


class Exportable(nn.Module):
    """Images (B, C, H, W) in whole patches to logits (B, classes, H, W); see `exportable`."""

    def __init__(self, fused: TransUNet) -> None:
        super().__init__()
        self.config = fused.config
        self.transformer = fused.transformer
        self.decoder = fused.decoder
        self.segmentation_head = fused.segmentation_head

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes, H, W) for `images` (B, in_channels, H, W)."""
        tokens, grid, skips = self.transformer(images)
        logits = self.segmentation_head(self.decoder(tokens, grid, skips))
        if self.config.patch_size != 16:  # the decoder makes 16 pixels of a token
            logits = upsample(logits, (images.shape[2], images.shape[3]))
        return logits  # type: ignore[no-any-return]


@torch.no_grad()
def exportable(model: TransUNet, any_size: bool = False) -> Exportable:
    """Return a copy of `model` to be traced and exported; `model` stays as it is.

    Args:
        model: the network; in training mode or not.
        any_size: whether heights and widths other than the configured ones are wanted.
    """
    fused = fuse(model)
    for module in list(fused.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, ChannelGroupNorm(child))
            elif isinstance(child, Attention):
                setattr(module, name, MergedAttention(child))
    embeddings = fused.transformer.embeddings
    if fused.config.in_channels == 1:
        _sum_inputs(embeddings)
    if any_size:
        embeddings._positions = _ResizedPositions(fused.config.grid)  # type: ignore[assignment]
    return Exportable(fused).eval().requires_grad_(False)


class ChannelGroupNorm(nn.Module):
    """GroupNorm from means over every channel; (B, C, H, W) in and out.

    The mean is taken away before squaring. The mean square less the squared mean would be a little
    faster, but cancels to nothing in bf16, which OpenVINO computes in by itself where it can.
    """

    average: Tensor

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        channels, self.groups, self.eps = norm.num_channels, norm.num_groups, norm.eps
        self.weight = nn.Parameter(norm.weight.detach()[None, :, None, None].clone())
        self.bias = nn.Parameter(norm.bias.detach()[None, :, None, None].clone())
        self.per_channel = channels == self.groups
        size = channels // self.groups
        self.register_buffer("average", torch.full((channels, size, 1, 1), 1 / size))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` within groups of channels."""
        centred = x - self._of_group(x.mean((2, 3), keepdim=True))
        length = torch.linalg.vector_norm(centred, dim=(2, 3), keepdim=True)
        variance = self._of_group(length * length / (x.shape[2] * x.shape[3]))
        return centred * (self.weight * torch.rsqrt(variance + self.eps)) + self.bias

    def _of_group(self, values: Tensor) -> Tensor:
        """Average (B, C, 1, 1) within groups, as a convolution: it keeps the memory's layout."""
        if self.per_channel:
            return values
        average = self.average.to(values.dtype)
        return F.conv2d(values, average, groups=self.groups)


class MergedAttention(nn.Module):
    """`Attention` with query, key and value as one product, scaled by its weights."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        size = attention.query.in_features
        self.num_heads = attention.num_heads
        scale = (size // self.num_heads) ** -0.5
        parts = (attention.query, attention.key, attention.value)
        factors = (scale, 1.0, 1.0)
        self.qkv = nn.Linear(size, 3 * size, device="meta")
        weights = [part.weight * factor for part, factor in zip(parts, factors, strict=True)]
        biases = [part.bias * factor for part, factor in zip(parts, factors, strict=True)]
        self.qkv.weight = nn.Parameter(torch.cat(weights).detach())
        self.qkv.bias = nn.Parameter(torch.cat(biases).detach())
        self.out = attention.out

    def forward(self, x: Tensor) -> Tensor:
        """Attend among tokens (B, N, D)."""
        batch, tokens, size = x.shape
        parts = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, size // self.num_heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, N, D / heads)
        y = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, size))  # type: ignore[no-any-return]


class _ResizedPositions(nn.Module):
    """Position embeddings resized whatever the grid is, so that one graph fits all."""

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid

    def at(self, positions: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return `positions` (1, N, D) for the token grid `grid` (rows, columns)."""
        return resize_positions(positions, self.grid, grid)


def _sum_inputs(embeddings: Embeddings) -> None:
    """Make the first convolution, of three equal channels, one of one channel."""
    backbone = embeddings.hybrid_model
    first = embeddings.patch_embeddings if backbone is None else backbone.root.conv
    convolution = cast("nn.Conv2d", first)
    weight = convolution.weight.detach().sum(1, keepdim=True)
    convolution.weight = nn.Parameter(weight, requires_grad=False)
    convolution.in_channels = 1

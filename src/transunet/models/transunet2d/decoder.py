"""The cascaded upsampler (CUP) and the head (Chen et al. 2021, section 3.2)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transunet.models.transunet2d.config import TransUNetConfig


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, h, w) to (B, C, *size), bilinearly."""
    # fidelity: corners are aligned, as in the reference.
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


class ConvBNReLU(nn.Sequential):
    """3x3 convolution without bias, BatchNorm, ReLU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
        )


class DecoderBlock(nn.Module):
    """Upsample by two, concatenate the skip if there is one, convolve twice."""

    def __init__(self, c_in: int, c_skip: int, c_out: int) -> None:
        super().__init__()
        self.conv1 = ConvBNReLU(c_in + c_skip, c_out)
        self.conv2 = ConvBNReLU(c_out, c_out)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Map (B, c_in, h, w) and a skip (B, c_skip, 2h, 2w) to (B, c_out, 2h, 2w)."""
        x = upsample(x, (2 * x.shape[2], 2 * x.shape[3]))
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        return self.conv2(self.conv1(x))  # type: ignore[no-any-return]


class DecoderCup(nn.Module):
    """Tokens to a feature map of 16 times their grid."""

    def __init__(self, config: TransUNetConfig) -> None:
        super().__init__()
        self.n_skip = config.n_skip
        self.conv_more = ConvBNReLU(config.hidden_size, config.bridge_channels)
        c_in = (config.bridge_channels, *config.decoder_channels[:3])
        self.blocks = nn.ModuleList(
            DecoderBlock(*channels)
            for channels in zip(c_in, config.skip_channels, config.decoder_channels, strict=True)
        )

    def forward(self, tokens: Tensor, grid: tuple[int, int], skips: Sequence[Tensor]) -> Tensor:
        """Map tokens (B, N, D) on `grid` (rows, columns) to (B, C, 16 rows, 16 columns)."""
        return self.features(tokens, grid, skips)[-1]

    def features(
        self, tokens: Tensor, grid: tuple[int, int], skips: Sequence[Tensor]
    ) -> list[Tensor]:
        """Return the output of every block, the coarsest first."""
        batch, _, size = tokens.shape
        x = self.conv_more(tokens.transpose(1, 2).reshape(batch, size, *grid))
        outputs = []
        for i, block in enumerate(self.blocks):
            x = block(x, skips[i] if i < self.n_skip else None)
            outputs.append(x)
        return outputs


class SegmentationHead(nn.Sequential):
    """3x3 convolution with bias, from decoder features to logits."""

    def __init__(self, c_in: int, num_classes: int) -> None:
        super().__init__(nn.Conv2d(c_in, num_classes, 3, padding=1))

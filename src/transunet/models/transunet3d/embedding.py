"""The vision transformer at the bottleneck: a token for each voxel there."""

import torch
from torch import Tensor, nn

from transunet.models.positions import Grid, GridCache
from transunet.models.transformer import Block, Dropout, Encoder
from transunet.models.transunet3d.config import ViTSettings


class LayerScale(nn.Module):
    """Multiplies each channel by a learned number, 1e-5 at first (Touvron et al. 2021)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((size,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply (..., size)."""
        return x * self.gamma


class ScaledBlock(Block):
    """A transformer block with layer scale."""

    def __init__(self, config: ViTSettings) -> None:
        super().__init__(config)
        self.scales_skip_path = config.layer_scale == "reference"
        self.ls1 = LayerScale(config.hidden_size)
        self.ls2 = LayerScale(config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, N, D) to (B, N, D)."""
        if self.scales_skip_path:
            # fidelity: a mistake. A fresh block forgets its input, a pretrained one its residuals.
            x = self.attn(self.attention_norm(x)) + self.ls1(x)
            return self.ffn(self.ffn_norm(x)) + self.ls2(x)  # type: ignore[no-any-return]
        x = x + self.ls1(self.attn(self.attention_norm(x)))
        return x + self.ls2(self.ffn(self.ffn_norm(x)))  # type: ignore[no-any-return]


class VoxelEmbeddings(nn.Module):
    """Features (B, C, d, h, w) to tokens (B, d h w, D), with their positions added."""

    def __init__(self, channels: int, grid: Grid, config: ViTSettings) -> None:
        super().__init__()
        self.patch_embeddings = nn.Conv3d(channels, config.hidden_size, 1)
        tokens = torch.Size(grid).numel()
        self.position_embeddings = nn.Parameter(torch.zeros(1, tokens, config.hidden_size))
        self.dropout = Dropout(config.dropout)
        self._positions = GridCache(grid)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens, plane by plane and row by row."""
        tokens = self.patch_embeddings(x).flatten(2).transpose(1, 2)
        positions = self._positions.at(self.position_embeddings, tuple(x.shape[2:]))
        return self.dropout(tokens + positions)  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """Features (B, C, d, h, w) to features (B, D, d, h, w) that have seen the whole patch."""

    def __init__(self, channels: int, grid: Grid, config: ViTSettings) -> None:
        super().__init__()
        self.embeddings = VoxelEmbeddings(channels, grid, config)
        self.encoder = Encoder(config, ScaledBlock if config.layer_scale else Block)

    def forward(self, x: Tensor) -> Tensor:
        """Return the encoded features."""
        return self._to_grid(self.encoder(self.embeddings(x)), x)

    def forward_with_attention(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return what `forward` returns and every layer's probabilities (B, heads, N, N)."""
        tokens, maps = self.encoder.forward_with_attention(self.embeddings(x))
        return self._to_grid(tokens, x), maps

    def _to_grid(self, tokens: Tensor, x: Tensor) -> Tensor:
        return tokens.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])

"""Image to encoded tokens: backbone, patch and position embeddings, transformer."""

import torch
from torch import Tensor, nn

from transunet.models.positions import GridCache
from transunet.models.transformer import Dropout, Encoder
from transunet.models.transunet2d.config import TransUNetConfig
from transunet.models.transunet2d.resnet import ResNetV2


class Embeddings(nn.Module):
    """Image to tokens: the backbone if there is one, patch projection, positions."""

    def __init__(self, config: TransUNetConfig) -> None:
        super().__init__()
        rows, columns = config.grid
        self.hybrid_model = ResNetV2(config) if config.hybrid else None
        kernel = config.patch_kernel
        self.patch_embeddings = nn.Conv2d(
            config.embedding_channels, config.hidden_size, kernel, stride=kernel
        )
        self.position_embeddings = nn.Parameter(torch.zeros(1, rows * columns, config.hidden_size))
        self.dropout = Dropout(config.dropout)
        self._positions = GridCache(config.grid)

    def forward(
        self, x: Tensor, added: Tensor | None = None
    ) -> tuple[Tensor, tuple[int, int], list[Tensor]]:
        """Return tokens (B, N, D), their grid (rows, columns) and the skips, deepest first.

        Args:
            x: images (B, C, H, W).
            added: to the output of the first convolution: the backbone's root, or the patches'.
        """
        if self.hybrid_model is not None:
            x, skips = self.hybrid_model(x, added)
            x = self.patch_embeddings(x)  # (B, D, rows, columns)
        else:
            x, skips = self.patch_embeddings(x), []
            x = x if added is None else x + added
        grid = (x.shape[2], x.shape[3])
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self._positions.at(self.position_embeddings, grid)
        return self.dropout(tokens), grid, skips


class Transformer(nn.Module):
    """Embeddings and encoder: image (B, C, H, W) to encoded tokens, their grid and the skips."""

    def __init__(self, config: TransUNetConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)

    def forward(
        self, x: Tensor, added: Tensor | None = None
    ) -> tuple[Tensor, tuple[int, int], list[Tensor]]:
        """Return encoded tokens (B, N, D), their grid (rows, columns), and the skips.

        The arguments are those of `Embeddings`.
        """
        tokens, grid, skips = self.embeddings(x, added)
        return self.encoder(tokens), grid, skips

    def forward_with_attention(
        self, x: Tensor, added: Tensor | None = None
    ) -> tuple[Tensor, tuple[int, int], list[Tensor], tuple[Tensor, ...]]:
        """Return what `forward` returns and every layer's attention probabilities."""
        tokens, grid, skips = self.embeddings(x, added)
        encoded, maps = self.encoder.forward_with_attention(tokens)
        return encoded, grid, skips, maps

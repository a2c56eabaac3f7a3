"""The transformer: tokens in, tokens out, whatever they stand for (Dosovitskiy et al. 2021)."""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class TransformerSizes(Protocol):
    """What a transformer's configuration tells, among other things."""

    @property
    def hidden_size(self) -> int:
        """Numbers of a token."""

    @property
    def mlp_size(self) -> int:
        """Numbers between the two layers of a block's MLP."""

    @property
    def num_heads(self) -> int:
        """Attention heads; they divide `hidden_size`."""

    @property
    def num_layers(self) -> int:
        """Blocks."""

    @property
    def dropout(self) -> float:
        """Share of an MLP's numbers that training leaves out."""

    @property
    def attention_dropout(self) -> float:
        """Share of the attention's weights that training leaves out."""


class Dropout(nn.Dropout):
    """Dropout whose mask costs little on a CPU: 16 random bits a number, where PyTorch draws 64.

    A probability is rounded to a multiple of 2^-16.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Set numbers of `x` to 0 while training and scale the others, so that the mean stays."""
        if not (self.training and self.p and x.is_cpu) or torch.compiler.is_compiling():
            return super().forward(x)
        drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = drawn.view(torch.int16)[: x.numel()].view(x.shape)  # -2^15 to 2^15 - 1
        kept = bits >= round(self.p * 2**16) - 2**15
        return x * kept.to(x.dtype).mul_(1 / (1 - self.p))


class Attention(nn.Module):
    """Multi-head self-attention with separate query, key and value projections."""

    def __init__(self, config: TransformerSizes) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_heads
        self.dropout = config.attention_dropout
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.out = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        """Attend among tokens (B, N, D)."""
        dropout = self.dropout if self.training else 0.0
        q, k, v = self._heads(self.query(x)), self._heads(self.key(x)), self._heads(self.value(x))
        if q.dtype == torch.bfloat16 and q.is_cpu and torch.is_grad_enabled():
            q, k, v = q.float(), k.float(), v.float()  # several times as fast backward
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def probabilities(self, x: Tensor) -> Tensor:
        """Return softmax(q k^T / sqrt(D / heads)) for tokens (B, N, D), as (B, heads, N, N)."""
        q, k = self._heads(self.query(x)), self._heads(self.key(x))
        return torch.softmax(q @ k.transpose(2, 3) * q.shape[-1] ** -0.5, dim=-1)

    def _heads(self, x: Tensor) -> Tensor:
        batch, tokens, size = x.shape
        x = x.reshape(batch, tokens, self.num_heads, size // self.num_heads)
        return x.transpose(1, 2)  # (B, heads, N, D / heads)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, config: TransformerSizes) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.mlp_size)
        self.fc2 = nn.Linear(config.mlp_size, config.hidden_size)
        self.dropout = Dropout(config.dropout)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, N, D) to (B, N, D)."""
        x = self.dropout(F.gelu(self.fc1(x)))
        return self.dropout(self.fc2(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One pre-norm transformer block (Chen et al. 2021, equations 2 and 3)."""

    def __init__(self, config: TransformerSizes) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.ffn_norm = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.ffn = Mlp(config)
        self.attn = Attention(config)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, N, D) to (B, N, D)."""
        x = x + self.attn(self.attention_norm(x))
        return x + self.ffn(self.ffn_norm(x))  # type: ignore[no-any-return]

    def attention(self, x: Tensor) -> Tensor:
        """Return the attention probabilities (B, heads, N, N) of this block for its input `x`."""
        return self.attn.probabilities(self.attention_norm(x))


class Encoder(nn.Module):
    """All blocks, each made by `block`, and the final norm."""

    def __init__(self, config: TransformerSizes, block: Callable[..., Block] = Block) -> None:
        super().__init__()
        self.layer = nn.ModuleList(block(config) for _ in range(config.num_layers))
        self.encoder_norm = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.gradient_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, N, D) to (B, N, D)."""
        for block in self.layer:
            x = self._run(block, x)
        return self.encoder_norm(x)  # type: ignore[no-any-return]

    def forward_with_attention(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return what `forward` returns, to the bit, and every layer's probabilities."""
        maps = []
        for block in self.layer:
            maps.append(block.attention(x))  # type: ignore[operator]
            x = self._run(block, x)
        return self.encoder_norm(x), tuple(maps)

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        if self.gradient_checkpointing and self.training:
            return checkpoint(block, x, use_reentrant=False)  # type: ignore[no-any-return]
        return block(x)  # type: ignore[no-any-return]

"""The transformer decoder: queries that look at the U-Net's features where their masks are.

Mask2Former's (Cheng et al. 2022), as 3D TransUNet has it. Two things are computed in another way
than there, with the same result: the masks' scores at a coarser grid are those of the features
resized to it, since resizing is linear; and the full-resolution features stay as wide as the U-Net
makes them, since (W f + b) . e is f . (W^T e) + b . e.
"""

from math import pi, prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transunet.models.transunet3d.config import QueriesSettings
from transunet.models.transunet3d.embedding import LayerScale


class QueryPrediction(NamedTuple):
    """What the queries say: one class and one mask each."""

    logits: Tensor
    """(B, Q, K + 1): classes, the last one "no object"."""
    masks: Tensor
    """(B, Q, D, H, W): logits of whether a voxel belongs to the query's object."""


def class_scores(prediction: QueryPrediction) -> Tensor:
    """Return how much of each class the queries see, (B, K, D, H, W), 0 to Q.

    The sum over queries of the class's probability times the mask's; classes of a voxel do not sum
    to 1.
    """
    classes = prediction.logits.softmax(-1)[..., :-1]  # "no object" paints nothing
    with torch.autocast(prediction.masks.device.type, enabled=False):
        scores = classes.transpose(1, 2) @ prediction.masks.sigmoid().flatten(2)
    return scores.view(*scores.shape[:2], *prediction.masks.shape[2:])


def query_logits(
    prediction: QueryPrediction, regions: bool, smallest: float | None = None
) -> Tensor:
    """Return the logarithm of the class scores, of regions their logit, (B, K, D, H, W).

    Args:
        prediction: of the queries.
        regions: whether each class is told apart by itself.
        smallest: score below which all are alike; the dtype's own least if not given.
    """
    scores = class_scores(prediction)
    numbers = torch.finfo(scores.dtype)
    if regions:
        return scores.logit(eps=smallest or numbers.eps)
    return scores.clamp_min(smallest or numbers.tiny).log()


def sine_code(length: int, size: int, like: Tensor) -> Tensor:
    """Return (length, size) numbers that tell the positions along an axis of `length` voxels."""
    positions = 2 * pi * torch.arange(1, length + 1, device=like.device) / (length + 1e-6)
    index = torch.arange(size, device=like.device)
    # fidelity: frequencies in groups of three, though sines and cosines alternate in twos; and in
    # single precision whatever the network's.
    angles = positions[:, None] / 10000 ** (3 * (index // 3) / size)
    return torch.where(index % 2 == 0, angles.sin(), angles.cos()).to(like.dtype)


class QueryAttention(nn.Module):
    """Multi-head attention with one matrix for query, key and value, as PyTorch's own has it."""

    def __init__(self, settings: QueriesSettings) -> None:
        super().__init__()
        size = settings.hidden_size
        self.num_heads = settings.num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * size, size))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * size))
        self.out_proj = nn.Linear(size, size)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Attend from queries (B, Q, d) to projected keys and values (B, N, d).

        `allowed` (B, Q, N) tells which queries may see which tokens.
        """
        q, k, v = (x.reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2) for x in (q, k, v))
        mask = None if allowed is None else allowed[:, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def projections(self) -> list[tuple[Tensor, Tensor]]:
        """Return weight (d, d) and bias (d) for query, key and value."""
        return list(zip(self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True))


class CrossAttentionLayer(nn.Module):
    """Queries look at a feature map, each where its mask is."""

    def __init__(self, settings: QueriesSettings) -> None:
        super().__init__()
        self.multihead_attn = QueryAttention(settings)
        self.norm = nn.LayerNorm(settings.hidden_size)

    def forward(self, x: Tensor, query_positions: Tensor, level: Tensor, allowed: Tensor) -> Tensor:
        """Return queries (B, Q, d).

        Args:
            x: the queries (B, Q, d).
            query_positions: what is added to a query where it asks, (Q, d).
            level: the feature map (B, d, D, H, W).
            allowed: which queries may see which voxels, (B, Q, D H W).
        """
        (w_q, b_q), (w_k, b_k), (w_v, b_v) = self.multihead_attn.projections()
        tokens = level.permute(0, 2, 3, 4, 1)
        # A position's code is that of its plane, its row and its column, each a third of the
        # channels: so is its projection, and no map of codes is made. Of sums without a view
        # between them OpenVINO would make one.
        size = level.shape[1] // 3
        keys = F.linear(tokens, w_k, b_k)
        for axis, part in enumerate(torch.split(w_k, size, dim=1), 2):
            code = F.linear(sine_code(level.shape[axis], size, level), part)
            keys = keys.view(-1, len(code), prod(level.shape[axis + 1 :]), keys.shape[-1])
            keys += code[:, None]
        keys, values = keys.view_as(tokens).flatten(1, 3), F.linear(tokens, w_v, b_v).flatten(1, 3)
        queries = F.linear(x + query_positions, w_q, b_q)
        attended = self.multihead_attn(queries, keys, values, allowed)
        return self.norm(x + attended)  # type: ignore[no-any-return]


class SelfAttentionLayer(nn.Module):
    """Queries look at each other."""

    def __init__(self, settings: QueriesSettings) -> None:
        super().__init__()
        self.self_attn = QueryAttention(settings)
        self.norm = nn.LayerNorm(settings.hidden_size)
        self.ls1 = LayerScale(settings.hidden_size) if settings.layer_scale else nn.Identity()

    def forward(self, x: Tensor, query_positions: Tensor) -> Tensor:
        """Return queries (B, Q, d), of queries (B, Q, d) and what is added where they ask."""
        (w_q, b_q), (w_k, b_k), (w_v, b_v) = self.self_attn.projections()
        asking = x + query_positions
        attended = self.self_attn(
            F.linear(asking, w_q, b_q), F.linear(asking, w_k, b_k), F.linear(x, w_v, b_v)
        )
        return self.norm(x + self.ls1(attended))  # type: ignore[no-any-return]


class FeedForwardLayer(nn.Module):
    """Two linear layers with a ReLU between them, for each query alone."""

    def __init__(self, settings: QueriesSettings) -> None:
        super().__init__()
        self.scales_sum = settings.layer_scale == "reference"
        self.linear1 = nn.Linear(settings.hidden_size, settings.mlp_size)
        self.linear2 = nn.Linear(settings.mlp_size, settings.hidden_size)
        self.norm = nn.LayerNorm(settings.hidden_size)
        self.ls1 = LayerScale(settings.hidden_size) if settings.layer_scale else nn.Identity()
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return queries (B, Q, d)."""
        y = self.linear2(F.relu(self.linear1(x)))
        if self.scales_sum:
            # fidelity: a mistake. At first the norm's epsilon outweighs what it is given.
            return self.norm(self.ls1(x + y))  # type: ignore[no-any-return]
        return self.norm(x + self.ls1(y))  # type: ignore[no-any-return]


class MaskEmbedding(nn.Module):
    """Three linear layers with ReLU between them: from a query to what its mask looks like."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(size, size) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, Q, d) to (B, Q, d)."""
        first, second, third = self.layers
        return third(F.relu(second(F.relu(first(x)))))  # type: ignore[no-any-return]


class QueryDecoder(nn.Module):
    """Layers of cross-attention, self-attention and feed-forward, and the heads behind each."""

    def __init__(self, settings: QueriesSettings, num_classes: int) -> None:
        super().__init__()
        size, layers = settings.hidden_size, range(settings.num_layers)
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(settings) for _ in layers
        )
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(settings) for _ in layers
        )
        self.transformer_ffn_layers = nn.ModuleList(FeedForwardLayer(settings) for _ in layers)
        self.decoder_norm = nn.LayerNorm(size)
        self.query_feat = nn.Embedding(settings.num_queries, size)
        self.query_embed = nn.Embedding(settings.num_queries, size)
        self.level_embed = nn.Embedding(3, size)
        self.class_embed = nn.Linear(size, num_classes + 1)
        self.mask_embed = MaskEmbedding(size)

    def forward(
        self,
        levels: list[Tensor],
        features: Tensor,
        mask_features: nn.Conv3d,
        every_layer: bool = False,
    ) -> list[QueryPrediction]:
        """Return the prediction after the last layer, after those of the layers before it.

        Args:
            levels: three feature maps (B, d, D, H, W), the coarsest first; they are written to.
            features: the finest features (B, C, D, H, W).
            mask_features: the 1x1x1 convolution from their C channels to d.
            every_layer: whether the earlier predictions, the queries' own first, are wanted.
        """
        weight, bias = mask_features.weight.flatten(1), mask_features.bias
        assert bias is not None

        def masks(embedding: Tensor, features: Tensor) -> Tensor:
            scores = (embedding @ weight) @ features.flatten(2)
            scores += (embedding @ bias)[..., None]
            return scores.view(*scores.shape[:2], *features.shape[2:])

        with torch.no_grad():
            resized = [
                F.interpolate(features, size=level.shape[2:], mode="trilinear") for level in levels
            ]
        for tokens, own in zip(levels, self.level_embed.weight, strict=True):
            tokens += own[:, None, None, None]
        x = self.query_feat.weight.expand(features.shape[0], -1, -1)
        query_positions = self.query_embed.weight
        predictions = []
        layers = zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )
        for index, (cross_attention, self_attention, feed_forward) in enumerate(layers):
            level = index % len(levels)
            normed = self.decoder_norm(x)
            embedding = self.mask_embed(normed)
            with torch.no_grad():
                inside = masks(embedding, resized[level]).flatten(2) >= 0
                allowed = inside | ~inside.any(2, keepdim=True)  # a query must see something
            if every_layer:
                predictions.append(
                    QueryPrediction(self.class_embed(normed), masks(embedding, features))
                )
            x = cross_attention(x, query_positions, levels[level], allowed)
            x = feed_forward(self_attention(x, query_positions))
        normed = self.decoder_norm(x)
        last = QueryPrediction(self.class_embed(normed), masks(self.mask_embed(normed), features))
        return [*predictions, last]

"""3D TransUNet's queries computed as the paper writes them, without what the package saves."""

import torch
import torch.nn.functional as F
from torch import Tensor

from transunet.models.transunet3d.network import TransUNet3D
from transunet.models.transunet3d.query_decoder import (
    QueryAttention,
    QueryPrediction,
    class_scores,
    sine_code,
)


def plain_predictions(model: TransUNet3D, x: Tensor) -> list[QueryPrediction]:
    """Every layer's prediction: mask features of full width, masks resized for each layer."""
    assert model.config.queries is not None
    features, _ = model.features(x)
    for head, feature in zip(model.seg_outputs.values(), features[1:], strict=False):
        head(feature)  # computed there, and used by nothing
    decoder = model.predictor
    mask_features = model.linear_mask_features(features[-1])
    levels, positions = [], []
    for index, (project, feature) in enumerate(zip(model.input_proj, features[-4:-1], strict=True)):
        level = project(feature)
        size = level.shape[1] // 3
        axes = [sine_code(length, size, level) for length in level.shape[2:]]
        code = torch.cat(
            [
                axis.view(*(-1 if i == a else 1 for i in range(3)), size).expand(
                    *level.shape[2:], size
                )
                for a, axis in enumerate(axes)
            ],
            dim=-1,
        )
        positions.append(code.flatten(0, 2))
        levels.append(level.flatten(2).transpose(1, 2) + decoder.level_embed.weight[index])
    shapes = [feature.shape[2:] for feature in features[-4:-1]]

    def attend(
        module: QueryAttention, q: Tensor, k: Tensor, v: Tensor, blocked: Tensor | None
    ) -> Tensor:
        if blocked is not None:
            blocked = blocked.repeat_interleave(module.num_heads, 0)
        return F.multi_head_attention_forward(
            *(part.transpose(0, 1) for part in (q, k, v)),
            q.shape[2],
            module.num_heads,
            module.in_proj_weight,
            module.in_proj_bias,
            None,
            None,
            False,
            0.0,
            module.out_proj.weight,
            module.out_proj.bias,
            need_weights=False,
            attn_mask=blocked,
        )[0].transpose(0, 1)

    def heads(x: Tensor) -> QueryPrediction:
        normed = decoder.decoder_norm(x)
        masks = torch.einsum("bqd,bdzyx->bqzyx", decoder.mask_embed(normed), mask_features)
        return QueryPrediction(decoder.class_embed(normed), masks)

    queries = decoder.query_feat.weight.expand(len(x), -1, -1)
    query_positions = decoder.query_embed.weight
    predictions = [heads(queries)]
    layers = zip(
        decoder.transformer_cross_attention_layers,
        decoder.transformer_self_attention_layers,
        decoder.transformer_ffn_layers,
        strict=True,
    )
    for index, (cross, self_attention, feed_forward) in enumerate(layers):
        level = index % 3
        with torch.no_grad():
            masks = F.interpolate(predictions[-1].masks, size=shapes[level], mode="trilinear")
            blocked = masks.flatten(2).sigmoid() < 0.5
            blocked &= ~blocked.all(2, keepdim=True)
        source = levels[level]
        attended = attend(
            cross.multihead_attn,
            queries + query_positions,
            source + positions[level],
            source,
            blocked,
        )
        queries = cross.norm(queries + attended)
        asking = queries + query_positions
        attended = attend(self_attention.self_attn, asking, asking, queries, None)
        queries = feed_forward(self_attention.norm(queries + self_attention.ls1(attended)))
        predictions.append(heads(queries))
    return predictions


def plain_logits(model: TransUNet3D, x: Tensor) -> Tensor:
    """The logits of whole strides, as `model(x)` gives them."""
    scores = class_scores(plain_predictions(model, x)[-1])
    return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()

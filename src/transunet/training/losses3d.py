"""What training a 3D TransUNet minimises: maps of a U-Net, predictions of queries, or both."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transunet.models.transunet3d.config import TransUNet3DConfig
from transunet.models.transunet3d.network import QueryOutputs
from transunet.models.transunet3d.query_decoder import QueryPrediction
from transunet.training.losses import Reduce, nearest_labels, no_reduce
from transunet.training.matching import (
    SET_WEIGHTS,
    Matching,
    SetTargets,
    SetWeights,
    match,
    matching_costs,
    set_loss,
)

Combination = Literal["halves", "mean", "sum", "exponential"]
"""How the predictions after each layer count: the last one half and the others' mean the other (the
reference's `v1`), all alike, all in full (`v0`), or each half of the one after it (`exp`)."""


def target_maps(
    labels: Tensor, classes: int, regions: Sequence[Sequence[int]], ignored: int | None
) -> Tensor:
    """Return labels (B, *spatial) as one map of booleans for each class or region, (B, K, ...).

    A voxel labelled `ignored` is of none.
    """
    groups = regions or [[label] for label in range(classes)]
    maps = torch.stack(
        [torch.isin(labels, labels.new_tensor(list(group))) for group in groups], dim=1
    )
    return maps if ignored is None else maps & (labels != ignored)[:, None]


def map_weights(count: int) -> list[float]:
    """Return weights of maps at `count` scales, the finest first: halving, the coarsest's 0."""
    weights = [2.0**-i if i < max(count - 1, 1) else 0.0 for i in range(count)]
    return [weight / sum(weights) for weight in weights]


def prediction_weights(count: int, combination: Combination) -> list[float]:
    """Return weights of `count` predictions of queries, the last layer's last."""
    if count == 1:
        return [1.0]
    if combination == "halves":
        return [0.5 / (count - 1)] * (count - 1) + [0.5]
    if combination == "exponential":
        return [2.0**i / (2.0**count - 1) for i in range(count)]
    return [1.0 if combination == "sum" else 1 / count] * count


class MapLoss(nn.Module):
    """Cross-entropy plus Dice of a U-Net's map, as nnU-Net has them.

    Args:
        exclusive: whether classes exclude each other (softmax), or are told apart one by one.
        foreground: whether Dice leaves the first class out.
        batch_dice: whether Dice is of the batch as a whole, or the mean of the samples'.
        smooth: added to Dice's numerator and denominator.
        terms: weights of cross-entropy and Dice.
        reduce: sums a tensor over the processes that share a batch, differentiably.
    """

    def __init__(
        self,
        exclusive: bool,
        foreground: bool,
        batch_dice: bool = False,
        smooth: float = 1e-5,
        terms: tuple[float, float] = (1.0, 1.0),
        reduce: Reduce = no_reduce,
    ) -> None:
        super().__init__()
        self.exclusive, self.foreground, self.batch_dice = exclusive, foreground, batch_dice
        self.smooth, self.terms, self.reduce = smooth, terms, reduce

    def forward(self, logits: Tensor, targets: Tensor, counted: Tensor | None) -> Tensor:
        """Return the scalar loss.

        Args:
            logits: (B, K, *spatial).
            targets: the same shape, boolean.
            counted: (B, *spatial), which voxels count; None for all.
        """
        truth = targets.to(logits.dtype)
        weights = truth.new_ones(()) if counted is None else counted[:, None].to(logits.dtype)
        if self.exclusive:
            entropy = -(F.log_softmax(logits, 1) * truth).sum(1, keepdim=True)
            probabilities = logits.softmax(1) * weights
        else:
            entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * weights
            probabilities = logits.sigmoid() * weights
        voxels = entropy.new_tensor(entropy[:, 0].numel()) if counted is None else counted.sum()
        entries = voxels.to(entropy.dtype) * entropy.shape[1]
        total, count = self.reduce(torch.stack([entropy.sum(), entries])).unbind()

        skipped = int(self.foreground)
        both = (probabilities * truth).flatten(2).sum(2)[:, skipped:]
        either = (probabilities + truth).flatten(2).sum(2)[:, skipped:]
        if self.batch_dice:
            both, either = self.reduce(torch.stack([both.sum(0), either.sum(0)])).unbind()
        dice = (2 * both + self.smooth) / (either + self.smooth + 1e-8)
        if self.batch_dice:
            mean = dice.mean()
        else:
            summed, scores = self.reduce(
                torch.stack([dice.sum(), dice.new_tensor(dice.numel())])
            ).unbind()
            mean = summed / scores
        of_entropy, of_dice = self.terms
        return of_entropy * total / count.clamp(min=1) - of_dice * mean


class RegionLoss(nn.Module):
    """Cross-entropy plus Dice of the whole batch of each region, of a network without queries.

    Args:
        regions: the labels that make up each.
        terms: weights of cross-entropy and Dice.
        reduce: sums a tensor over the processes that share a batch, differentiably.
        ignored: the label of pixels that count in no term; None where there are none.
    """

    def __init__(
        self,
        regions: Sequence[Sequence[int]],
        terms: tuple[float, float] = (1.0, 1.0),
        reduce: Reduce = no_reduce,
        ignored: int | None = None,
    ) -> None:
        super().__init__()
        self.regions, self.ignored = regions, ignored
        self.maps = MapLoss(
            exclusive=False,
            foreground=False,
            batch_dice=True,
            smooth=0.0,
            terms=terms,
            reduce=reduce,
        )

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss: logits (B, regions, *spatial), int64 labels (B, *spatial)."""
        targets = target_maps(labels, len(self.regions), self.regions, self.ignored)
        counted = None if self.ignored is None else labels != self.ignored
        return self.maps(_precise(logits), targets, counted)  # type: ignore[no-any-return]


class TransUNet3DLoss(nn.Module):
    """What a network of `config` is trained with; see `forward`.

    Args:
        config: of the network: classes or regions, whether it has queries, how they are matched.
        combination: how the queries' predictions after each layer count.
        weights: of the set loss.
        no_object_weight: weight of queries that shall see nothing among the classes'.
        map_terms: weights of cross-entropy and Dice of the maps.
        batch_dice: whether the maps' Dice is of the batch as a whole; always for regions.
        reduce: sums a tensor over the processes that share a batch, differentiably.
        ignored: the label of voxels that count in no term; None where there are none.
    """

    def __init__(
        self,
        config: TransUNet3DConfig,
        combination: Combination = "halves",
        weights: SetWeights = SET_WEIGHTS,
        no_object_weight: float = 1.0,
        map_terms: tuple[float, float] = (1.0, 1.0),
        batch_dice: bool = False,
        reduce: Reduce = no_reduce,
        ignored: int | None = None,
    ) -> None:
        super().__init__()
        self.config, self.combination, self.weights = config, combination, weights
        self.no_object_weight, self.reduce, self.ignored = no_object_weight, reduce, ignored
        self.matching: Matching = config.queries.matching if config.queries else "hungarian"
        self.map_loss = MapLoss(
            # Beside queries the classes of the maps are told apart one by one, as the queries' are.
            exclusive=not (config.regions or config.queries),
            foreground=not config.regions,
            batch_dice=batch_dice or bool(config.regions),
            smooth=0.0 if config.regions else 1e-5,
            terms=map_terms,
            reduce=reduce,
        )

    def forward(
        self, outputs: Sequence[Tensor] | QueryOutputs, labels: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """Return the scalar loss of a network's `training_outputs`.

        Without queries: cross-entropy and Dice of every map, the finest first. With queries: the
        set loss of each layer's prediction, and half the same of the U-Net's coarser maps.

        Args:
            outputs: of the network for a batch.
            labels: (B, *spatial), int64; or the labels at each scale, the finest first.
        """
        predictions = outputs.predictions if isinstance(outputs, QueryOutputs) else ()
        maps = list(outputs.maps if isinstance(outputs, QueryOutputs) else outputs)
        sizes = [p.masks.shape[2:] for p in predictions[-1:]] + [m.shape[2:] for m in maps]
        if isinstance(labels, Tensor):
            labels = [nearest_labels(labels, size) for size in sizes]
        scales = map_weights(len(sizes))
        terms = []
        if predictions:
            shares = prediction_weights(len(predictions), self.combination)
            targets = self._set_targets(labels[0], predictions[-1].masks)
            terms = [
                scales[0] * share * self._of_queries(prediction, targets)
                for share, prediction in zip(shares, predictions, strict=True)
            ]
        factor = 0.5 if predictions else 1.0
        coarser = slice(len(sizes) - len(maps), None)
        terms += [
            factor * scale * self._of_map(logits, at_scale)
            for scale, logits, at_scale in zip(scales[coarser], maps, labels[coarser], strict=True)
        ]
        return torch.stack(terms).sum()

    def _of_map(self, logits: Tensor, labels: Tensor) -> Tensor:
        counted = None if self.ignored is None else labels != self.ignored
        return self.map_loss(_precise(logits), self._targets(labels), counted)  # type: ignore[no-any-return]

    def _of_queries(self, prediction: QueryPrediction, targets: SetTargets) -> Tensor:
        prediction = QueryPrediction(*map(_precise, prediction))
        device = "cpu" if prediction.masks.is_meta else prediction.masks.device.type
        with torch.autocast(device, enabled=False):
            costs = matching_costs(prediction, targets).total(self.weights)
            pairs = match(costs, targets, self.matching)
            return set_loss(
                prediction, targets, pairs, self.weights, self.no_object_weight, self.reduce
            )

    def _set_targets(self, labels: Tensor, like: Tensor) -> SetTargets:
        masks = self._targets(labels).flatten(2).to(_precise(like[:0]).dtype)
        counted = None if self.ignored is None else (labels != self.ignored).flatten(1)[:, None]
        return SetTargets(masks, counted)

    def _targets(self, labels: Tensor) -> Tensor:
        return target_maps(labels, self.config.num_classes, self.config.regions, self.ignored)


def _precise(x: Tensor) -> Tensor:
    """Return `x` in single precision at least: half overflows in sums over a volume."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x

"""Which query learns which class, and what it costs: the loss of a set (Carion et al. 2020)."""

from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from transunet.models.transunet3d.query_decoder import QueryPrediction
from transunet.training.losses import Reduce, no_reduce

Matching = Literal["hungarian", "reference"]
MASK_SMOOTH = 1.0
"""Added to numerator and denominator of a mask's Dice."""


class SetWeights(NamedTuple):
    """How much each part counts in matching; in the loss a tenth of it."""

    classes: float = 2.0
    cross_entropy: float = 5.0
    dice: float = 5.0


SET_WEIGHTS = SetWeights()
"""The reference's."""


class SetTargets(NamedTuple):
    """What is to be found in each sample."""

    masks: Tensor
    """(B, K, V), 1 where a voxel is of the class or region, 0 elsewhere; floating point."""
    counted: Tensor | None = None
    """(B, 1, V), whether a voxel counts; None where all do."""

    @property
    def voxels(self) -> Tensor | int:
        """Voxels that count, (B,) or one number for all."""
        return (
            self.masks.shape[2] if self.counted is None else self.counted.sum((1, 2)).clamp(min=1)
        )

    def of(self, mask_logits: Tensor) -> Tensor:
        """Return logits (B, Q, V) of which nothing is left where a voxel does not count."""
        if self.counted is None:
            return mask_logits
        return mask_logits.masked_fill(~self.counted, -1e4)  # sigmoid and softplus: 0


class MatchingCosts(NamedTuple):
    """What it costs to give a query (axis 1) a class (axis 2), each (B, Q, K)."""

    classes: Tensor
    cross_entropy: Tensor
    dice: Tensor

    def total(self, weights: SetWeights) -> Tensor:
        """Return the weighted sum."""
        return sum((w * cost for w, cost in zip(weights, self, strict=True)), torch.zeros(()))


@torch.no_grad()
def matching_costs(prediction: QueryPrediction, targets: SetTargets) -> MatchingCosts:
    """Return the costs of every query and class, whether the class is there or not."""
    logits = targets.of(prediction.masks.flatten(2))
    truth = targets.masks.transpose(1, 2)  # (B, V, K)
    sigmoid = logits.sigmoid()
    dice = (2 * (sigmoid @ truth) + MASK_SMOOTH) / (
        sigmoid.sum(2, keepdim=True) + truth.sum(1, keepdim=True) + MASK_SMOOTH
    )
    # Cross-entropy of x with t is softplus(x) - x t: the classes share the first part.
    voxels = targets.voxels
    voxels = voxels if isinstance(voxels, int) else voxels[:, None, None]
    cross_entropy = (F.softplus(logits).sum(2, keepdim=True) - logits @ truth) / voxels
    return MatchingCosts(-prediction.logits.softmax(-1)[..., :-1], cross_entropy, 1 - dice)


class Pairs(NamedTuple):
    """Matched queries and what each learns, as index tensors (N,)."""

    sample: Tensor
    query: Tensor
    label: Tensor


def match(costs: Tensor, targets: SetTargets, matching: Matching = "hungarian") -> Pairs:
    """Give each class that a sample shows one query, at the least total cost.

    Args:
        costs: (B, Q, K).
        targets: which classes are there.
        matching: "hungarian"; or "reference", where the matched queries, in their order, learn
            the classes in theirs, whatever they were matched to.
    """
    if costs.is_meta:  # where memory is counted: each class, of any sample, is a query's
        every = torch.ones_like(costs[:, 0], device="cpu").nonzero().to("meta")
        return Pairs(every[:, 0], every[:, 1], every[:, 1])
    # Imported here: it takes a second, which the training of every other network is spared.
    from scipy.optimize import linear_sum_assignment

    # A NaN shall be seen in the loss, where it is reported, not here.
    costs = torch.nan_to_num(costs.float()).cpu()
    present = (targets.masks.sum(2) > 0).cpu()
    pairs: list[tuple[int, int, int]] = []
    for sample, (cost, there) in enumerate(zip(costs, present, strict=True)):
        labels = there.nonzero().flatten().numpy()
        queries, columns = linear_sum_assignment(cost[:, there].numpy())
        if matching == "reference":
            # fidelity: a mistake. The order in which the assignment has the classes is dropped.
            columns = np.arange(len(columns))
        pairs += [(sample, int(q), int(k)) for q, k in zip(queries, labels[columns], strict=True)]
    table = torch.tensor(pairs, dtype=torch.int64, device=targets.masks.device).view(-1, 3)
    return Pairs(*table.unbind(1))


def set_loss(
    prediction: QueryPrediction,
    targets: SetTargets,
    pairs: Pairs,
    weights: SetWeights = SET_WEIGHTS,
    no_object_weight: float = 1.0,
    reduce: Reduce = no_reduce,
) -> Tensor:
    """Return the loss of one prediction whose queries have been matched, a scalar.

    Args:
        prediction: of the queries.
        targets: their samples'.
        pairs: which query learns which class; all others learn "no object".
        weights: of the parts; a tenth of each is taken.
        no_object_weight: weight of "no object" in the classes' cross-entropy.
        reduce: sums a tensor over the processes that share a batch, differentiably.
    """
    sample, query, label = pairs
    nothing = prediction.logits.shape[-1] - 1
    classes = torch.full(prediction.logits.shape[:2], nothing, device=label.device)
    classes[sample, query] = label
    counts = torch.ones_like(classes[:, :1], dtype=torch.bool)
    if targets.counted is not None:  # a sample that nobody labelled shows nothing, not "no object"
        counts = targets.counted.any(2)
    by_class = prediction.logits.new_ones(nothing + 1)
    by_class[nothing] = no_object_weight
    class_sum = F.cross_entropy(
        prediction.logits.flatten(0, 1),
        torch.where(counts, classes, -100).flatten(),
        by_class,
        reduction="sum",
    )
    logits = targets.of(prediction.masks.flatten(2))[sample, query]  # (N, V)
    truth = targets.masks[sample, label]
    voxels = targets.voxels
    voxels = voxels if isinstance(voxels, int) else voxels[sample]
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").sum(1)
    sigmoid = logits.sigmoid()
    dice = (2 * (sigmoid * truth).sum(1) + MASK_SMOOTH) / (
        sigmoid.sum(1) + truth.sum(1) + MASK_SMOOTH
    )
    sums = [class_sum, (cross_entropy / voxels).sum(), (1 - dice).sum()]
    numbers = [(by_class[classes] * counts).sum(), class_sum.new_tensor(len(sample))]
    *sums, weight, matched = reduce(torch.stack([*sums, *numbers])).unbind()
    matched = matched.clamp(min=1)  # a batch that shows nothing
    parts = [sums[0] / weight.clamp(min=1e-6), sums[1] / matched, sums[2] / matched]
    return torch.stack([w / 10 * part for w, part in zip(weights, parts, strict=True)]).sum()

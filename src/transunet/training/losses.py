"""What training minimises: terms such as cross-entropy and Dice, at one or more depths.

Every sum over the batch goes through `reduce`, so that several processes, each with its share of a
batch, see the loss of the whole batch: Dice is a ratio of sums, and a mean of ratios would be
another function.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMOOTH = 1e-5
"""Added to Dice's numerator and denominator, so that an absent class counts as found."""

Reduce = Callable[[Tensor], Tensor]


def cross_entropy_sums(logits: Tensor, labels: Tensor, ignored: int | None = None) -> Tensor:
    """Return the sum of the cross-entropy over pixels, and the number of them, as (2,)."""
    total = F.cross_entropy(
        logits, labels, reduction="sum", ignore_index=-100 if ignored is None else ignored
    )  # -100: torch's for "none"
    pixels = torch.full_like(total, labels.numel())
    if ignored is not None:
        pixels = (labels != ignored).sum().to(pixels)
    return torch.stack([total, pixels])


def weighted_cross_entropy(weight: float, sums: Tensor) -> Tensor:
    """Return `weight` times the mean cross-entropy, from (2,) sums."""
    total, pixels = sums.unbind()
    return weight * total / pixels.clamp(min=1)  # a batch that nobody labelled has the loss 0


def dice_sums(logits: Tensor, labels: Tensor, ignored: int | None = None) -> Tensor:
    """Return per class the sums that Dice is made of: p t, p p and t t, as (3, K)."""
    probabilities = logits.softmax(1)
    if ignored is not None:
        counted = labels != ignored
        probabilities, labels = probabilities * counted[:, None], labels * counted
    target = torch.zeros_like(probabilities).scatter_(1, labels[:, None], 1.0)
    if ignored is not None:
        target = target * counted[:, None]
    over = (0, *range(2, logits.ndim))
    intersection = (probabilities * target).sum(over)
    return torch.stack([intersection, probabilities.square().sum(over), target.sum(over)])


def weighted_dice(weight: float, sums: Tensor) -> Tensor:
    """Return `weight` times 1 - Dice averaged over classes, background too, from (3, K) sums."""
    intersection, predicted, present = sums.unbind()
    # fidelity: squared terms in the denominator, as in the paper's implementation.
    dice = (2 * intersection + SMOOTH) / (predicted + present + SMOOTH)
    return weight * torch.mean(1 - dice)


class LossTerm(NamedTuple):
    """A loss of a whole batch, from sums over what each process has of it."""

    sums: Callable[[Tensor, Tensor, int | None], Tensor]
    """From logits (B, K, *spatial), float32, labels (B, *spatial), int64 class indices below K or
    `ignored`, and `ignored`, the label of pixels that count in nothing (None: there are none)."""
    weighted: Callable[[float, Tensor], Tensor]
    """From a weight and the sums over all processes to the weighted loss, a scalar."""


LOSSES: Mapping[str, LossTerm] = {
    "ce_weight": LossTerm(cross_entropy_sums, weighted_cross_entropy),
    "dice_weight": LossTerm(dice_sums, weighted_dice),
}
"""The terms of the loss, by the recipe's setting that weighs each."""


def no_reduce(sums: Tensor) -> Tensor:
    """Return what a single process sums over all processes."""
    return sums


class SegmentationLoss(nn.Module):
    """Weighted sum of terms of the loss.

    Args:
        weights: key of `LOSSES` -> weight; the paper's 0.5 and 0.5 if not given.
        reduce: sums a tensor over the processes that share a batch, differentiably.
        ignored: the label of pixels that count in no term; None where there are none.
    """

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        reduce: Reduce = no_reduce,
        ignored: int | None = None,
    ) -> None:
        super().__init__()
        weights = {"ce_weight": 0.5, "dice_weight": 0.5} if weights is None else weights
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self.reduce, self.ignored = reduce, ignored

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss, float32: logits (B, K, *spatial), int64 labels (B, *spatial)."""
        logits = logits.float()  # half precision overflows in sums over a batch
        sums = [LOSSES[name].sums(logits, labels, self.ignored) for name in self.weights]
        # All sums in one message between the processes.
        together = self.reduce(torch.cat([part.flatten() for part in sums]))
        of_all = torch.split(together, [part.numel() for part in sums])
        terms = [
            LOSSES[name].weighted(weight, flat.reshape(part.shape))
            for (name, weight), flat, part in zip(self.weights.items(), of_all, sums, strict=True)
        ]
        return torch.stack(terms).sum()


class DeepSupervisionLoss(nn.Module):
    """The same loss at several depths of the decoder, each against labels at that depth's size.

    Args:
        loss: of one pair of logits and labels.
        weights: of the auxiliary outputs, relative to 1 for the network's own; they are scaled
            so that all sum to 1.
    """

    def __init__(self, loss: nn.Module, weights: Sequence[float]) -> None:
        super().__init__()
        self.loss = loss
        total = 1 + sum(weights)
        self.weights = [1 / total, *(weight / total for weight in weights)]

    def forward(self, outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Return the scalar loss of logits (B, K, ...) of every size and labels (B, *spatial)."""
        terms = [
            weight * self.loss(logits, nearest_labels(labels, logits.shape[2:]))
            for weight, logits in zip(self.weights, outputs, strict=True)
        ]
        return torch.stack(terms).sum()


def nearest_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Return labels (B, *spatial) resized to `size` without making up classes."""
    for axis, new in enumerate(size, start=1):
        old = labels.shape[axis]
        if new != old:  # the pixel under each new pixel's centre
            centres = (2 * torch.arange(new, device=labels.device) + 1) * old // (2 * new)
            labels = labels.index_select(axis, centres)
    return labels

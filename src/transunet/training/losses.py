"""What training minimises: cross-entropy and Dice, over the whole batch, at one or more depths.

Every sum over the batch goes through `reduce`, so that several processes, each with its share of a
batch, see the loss of the whole batch: Dice is a ratio of sums, and a mean of ratios would be
another function.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMOOTH = 1e-5
"""Added to Dice's numerator and denominator, so that an absent class counts as found."""

Reduce = Callable[[Tensor], Tensor]


def dice_sums(probabilities: Tensor, labels: Tensor, ignored: int | None = None) -> Tensor:
    """Return per class the sums that Dice is made of: p t, p p and t t, as (3, K).

    Args:
        probabilities: (B, K, H, W), floating point.
        labels: (B, H, W), int64 class indices below K, or `ignored`.
        ignored: the label of pixels that are left out; None where there are none.
    """
    if ignored is not None:
        counted = labels != ignored
        probabilities, labels = probabilities * counted[:, None], labels * counted
    target = torch.zeros_like(probabilities).scatter_(1, labels[:, None], 1.0)
    if ignored is not None:
        target = target * counted[:, None]
    over = (0, 2, 3)
    intersection = (probabilities * target).sum(over)
    return torch.stack([intersection, probabilities.square().sum(over), target.sum(over)])


def dice_from_sums(sums: Tensor) -> Tensor:
    """Return 1 - Dice averaged over classes, background included, from (3, K) sums."""
    intersection, predicted, present = sums.unbind()
    # fidelity: squared terms in the denominator, as in the paper's implementation.
    dice = (2 * intersection + SMOOTH) / (predicted + present + SMOOTH)
    return torch.mean(1 - dice)


def dice_loss(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the soft Dice loss over the whole batch, averaged over classes: a scalar in [0, 1].

    Args:
        probabilities: (B, K, H, W), floating point.
        labels: (B, H, W), int64 class indices below K.
    """
    return dice_from_sums(dice_sums(probabilities, labels))


def alone(sums: Tensor) -> Tensor:
    """Return what a single process sums over all processes."""
    return sums


class SegmentationLoss(nn.Module):
    """Weighted sum of cross-entropy and Dice: the paper's 0.5 and 0.5.

    Args:
        ce_weight: of the cross-entropy, averaged over the pixels of the whole batch.
        dice_weight: of the Dice loss.
        reduce: sums a tensor over the processes that share a batch, differentiably.
        ignored: the label of pixels that count in neither; None where there are none.
    """

    def __init__(
        self,
        ce_weight: float = 0.5,
        dice_weight: float = 0.5,
        reduce: Reduce = alone,
        ignored: int | None = None,
    ) -> None:
        super().__init__()
        self.ce_weight, self.dice_weight, self.reduce = ce_weight, dice_weight, reduce
        self.ignored = ignored

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the float32 scalar loss of logits (B, K, H, W) and int64 labels (B, H, W)."""
        logits = logits.float()  # half precision overflows in sums over a batch
        sums = dice_sums(logits.softmax(1), labels, self.ignored)
        ignored = -100 if self.ignored is None else self.ignored  # -100: torch's for "none"
        cross_entropy = F.cross_entropy(logits, labels, reduction="sum", ignore_index=ignored)
        pixels = torch.full_like(cross_entropy, labels.numel())
        if self.ignored is not None:
            pixels = (labels != self.ignored).sum().to(pixels)
        *flat, cross_entropy, pixels = self.reduce(
            torch.cat([sums.flatten(), cross_entropy[None], pixels[None]])
        ).unbind()
        dice = dice_from_sums(torch.stack(flat).reshape(sums.shape))
        pixels = pixels.clamp(min=1)  # a batch that nobody labelled has the loss 0
        return self.ce_weight * cross_entropy / pixels + self.dice_weight * dice


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
        """Return the scalar loss of every depth's logits (B, K, h, w) and labels (B, H, W)."""
        terms = [
            weight * self.loss(logits, nearest_labels(labels, logits.shape[-2:]))
            for weight, logits in zip(self.weights, outputs, strict=True)
        ]
        return torch.stack(terms).sum()


def nearest_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Return labels (B, H, W) resized to `size` without making up classes."""
    if tuple(labels.shape[-2:]) == tuple(size):
        return labels
    rows, columns = (
        # The pixel under each new pixel's centre.
        (2 * torch.arange(new, device=labels.device) + 1) * old // (2 * new)
        for new, old in zip(size, labels.shape[-2:], strict=True)
    )
    return labels[:, rows][:, :, columns]

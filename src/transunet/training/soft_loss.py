"""What a teacher adds to the loss: its probabilities, softened, as targets (Hinton et al. 2015)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transunet.models.transunet3d.network import QueryOutputs
from transunet.models.transunet3d.query_decoder import query_logits
from transunet.training.losses import Reduce, no_reduce, weighted_dice
from transunet.training.recipe import Distillation

LEVELS = 255
"""What a probability of 1 is stored as."""
_SMALLEST_SCORE = 1e-6  # of queries: single precision does not hold the gradients of smaller ones


class SoftTargetLoss(nn.Module):
    """A part of the labels' loss, and a part that asks for the teacher's probabilities.

    The teacher's is the Kullback-Leibler divergence of both at the temperature, times its square,
    so that the gradients are as large at every temperature; and Dice with the probabilities
    themselves in the labels' place. They are weighed as the recipe weighs cross-entropy and Dice.
    What nobody labelled is learned from the teacher alone.

    Args:
        hard: the loss of the labels.
        settings: temperature and weight.
        terms: weights of divergence and Dice.
        regions: whether classes are told apart one by one.
        reduce: sums a tensor over the processes that share a batch, differentiably.
    """

    def __init__(
        self,
        hard: nn.Module,
        settings: Distillation,
        terms: tuple[float, float],
        regions: bool = False,
        reduce: Reduce = no_reduce,
    ) -> None:
        super().__init__()
        self.hard, self.terms, self.regions, self.reduce = hard, terms, regions, reduce
        self.temperature, self.soft_weight = settings.temperature, settings.soft_weight

    def forward(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return the scalar loss.

        Args:
            outputs: of the network for a batch: logits (B, K, *spatial), or what `hard` takes,
                whose finest logits are compared with the teacher's.
            targets: (B, 1 + planes, *spatial), int64: the labels, and in 255ths the teacher's
                probabilities at the temperature: of the classes but the background, or of regions.
        """
        soft = self._soft(self._finest(outputs), targets[:, 1:].float() / LEVELS)
        hard: Tensor = self.hard(outputs, targets[:, 0])
        return (1 - self.soft_weight) * hard + self.soft_weight * soft

    def _finest(self, outputs: Any) -> Tensor:
        """Return the logits (B, K, *spatial), of regions those of both answers (B, K, 2, ...)."""
        if isinstance(outputs, QueryOutputs):
            outputs = query_logits(outputs.predictions[-1], self.regions, _SMALLEST_SCORE)
        logits: Tensor = (outputs if isinstance(outputs, Tensor) else outputs[0]).float()
        return torch.stack([torch.zeros_like(logits), logits], dim=2) if self.regions else logits

    def _soft(self, logits: Tensor, planes: Tensor) -> Tensor:
        over = 2 if self.regions else 1  # the answers that exclude each other
        if self.regions:
            teacher = torch.stack([1 - planes, planes], dim=2)
        else:  # rounded up, the others' sum may exceed 1
            rest = (1 - planes.sum(1, keepdim=True)).clamp(min=0)
            teacher = torch.cat([rest, planes], dim=1)
        teacher = teacher / teacher.sum(over, keepdim=True)
        student = F.log_softmax(logits / self.temperature, over)
        divergence = (torch.xlogy(teacher, teacher) - teacher * student).sum()
        asked = divergence.new_tensor(planes.numel() if self.regions else planes[:, 0].numel())

        as_sure = teacher**self.temperature  # what they were before they were softened
        as_sure = as_sure / as_sure.sum(over, keepdim=True)
        probabilities = logits.softmax(over)
        if self.regions:
            probabilities, as_sure = probabilities[:, :, 1], as_sure[:, :, 1]
        axes = (0, *range(2, probabilities.ndim))
        dice = [(probabilities * as_sure).sum(axes), probabilities.square().sum(axes)]
        dice.append(as_sure.square().sum(axes))

        sums = self.reduce(torch.cat([torch.stack([divergence, asked]), *dice]))
        of_divergence, of_dice = self.terms
        mean = self.temperature**2 * sums[0] / sums[1]
        return of_divergence * mean + weighted_dice(of_dice, sums[2:].reshape(3, -1))

"""The moving average of a network's weights, which predicts better than the last ones."""

import copy

import torch
from torch import nn

from transunet.models.transunet2d.network import TransUNet


class MovingAverage:
    """Exponential moving average of parameters and statistics of `model`.

    The first steps average over what there is (decay (1 + n) / (10 + n)), so that the random start
    is soon forgotten.
    """

    def __init__(self, model: TransUNet, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights of `model` after optimiser step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, values = self.model.state_dict(), model.state_dict()
        counters = [name for name, value in values.items() if not value.is_floating_point()]
        for name in counters:
            averages.pop(name).copy_(values.pop(name))
        # All tensors in a few kernels instead of one each, every step.
        torch._foreach_lerp_(list(averages.values()), list(values.values()), 1 - decay)

"""A 3D network for exporting: instance norm in operators that every runtime computes exactly.

OpenVINO's own norm, and its mean of a volume, add voxels one after another in single precision,
which moves logits by thousandths of their scale. Means of planes first, and then of those, keep
them within rounding and take the same time.
"""

import torch
from torch import Tensor, nn

from transunet.models.segmentation_network import SegmentationNetwork, evaluation_copy
from transunet.models.transunet3d.encoder import Unit


@torch.no_grad()
def exportable(model: SegmentationNetwork, any_size: bool = False) -> SegmentationNetwork:
    """Return a copy of `model` to be traced and exported; `model` stays as it is.

    Args:
        model: the network; in training mode or not.
        any_size: changes nothing: position embeddings are resized to the grid in any case.
    """
    copy = evaluation_copy(model)
    for unit in copy.modules():
        if isinstance(unit, Unit):
            unit.instnorm = PlanewiseNorm(unit.instnorm)  # type: ignore[assignment]
    return copy


class PlanewiseNorm(nn.Module):
    """Instance norm from means of every plane; (B, C, D, H, W) in and out."""

    def __init__(self, norm: nn.InstanceNorm3d) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight = nn.Parameter(norm.weight.detach()[:, None, None, None].clone())
        self.bias = nn.Parameter(norm.bias.detach()[:, None, None, None].clone())

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of each volume of `x`."""
        centred = x - _mean(x)
        scale = self.weight * torch.rsqrt(_mean(centred * centred) + self.eps)
        return centred * scale + self.bias


def _mean(x: Tensor) -> Tensor:
    """Average (B, C, D, H, W) over planes, then over their means, (B, C, 1, 1, 1)."""
    # Only the second keeps its axis: OpenVINO makes one mean of two that are alike.
    return x.mean((3, 4)).mean(2, keepdim=True)[..., None, None]

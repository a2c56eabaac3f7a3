"""The U-Net's way up: upsampled features and skips, convolved together."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from transunet.models.transunet3d.config import TransUNet3DConfig
from transunet.models.transunet3d.encoder import Unit, Units, run


def upsamplings(config: TransUNet3DConfig) -> nn.ModuleList:
    """Return a transposed convolution for each stage of the way up, the coarsest first."""
    widths = config.widths
    return nn.ModuleList(
        nn.ConvTranspose3d(widths[i + 1], widths[i], pooling, stride=pooling, bias=False)
        for i, pooling in reversed(list(enumerate(config.poolings)))
    )


class UpPath(nn.ModuleList):
    """Stages of two units, the coarsest first."""

    def __init__(self, config: TransUNet3DConfig) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        for i in reversed(range(len(config.poolings))):
            # fidelity: the kernel of the next coarser stage, so that the finest of the way up has
            # not the finest kernel of the way down; nnU-Net's too.
            width, kernel = config.widths[i], config.kernels[i + 1]
            self.append(
                nn.Sequential(
                    Units(Unit(2 * width, width, kernel)), Units(Unit(width, width, kernel))
                )
            )

    def forward(
        self, bottleneck: Tensor, skips: list[Tensor], upsample: nn.ModuleList
    ) -> Iterator[Tensor]:
        """Yield each stage's features, the coarsest first; `skips` are used up from their end."""
        x = bottleneck
        for up, stage in zip(upsample, self, strict=True):
            x = run(stage, torch.cat([up(x), skips.pop()], 1), self.gradient_checkpointing)
            yield x

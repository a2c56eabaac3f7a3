"""Deep supervision: logits from the decoder's earlier blocks, while training only."""

from typing import Any

from torch import Tensor, nn

from transunet.models.transunet import TransUNet


class DeeplySupervised(nn.Module):
    """A TransUNet that also returns coarser logits, through 1x1 heads of its own.

    The heads are trained and thrown away: the network inside has the published parameters, and a
    bundle of it costs nothing extra.

    Args:
        model: whose decoder is supervised, in place.
        depths: how many of the decoder's earlier blocks get a head, the last first (1 to 3).
    """

    def __init__(self, model: TransUNet, depths: int) -> None:
        super().__init__()
        self.model = model
        blocks = range(2, 2 - depths, -1)
        channels = model.config.decoder_channels
        self.heads = nn.ModuleList(
            nn.Conv2d(channels[i], model.config.num_classes, 1) for i in blocks
        )
        self._features: dict[int, Tensor] = {}
        for i in blocks:
            model.decoder.blocks[i].register_forward_hook(self._keep(i))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the logits (B, K, H, W), then those at 1/2, 1/4 and 1/8 of that size."""
        logits = self.model(x)
        coarser = [head(self._features.pop(2 - i)) for i, head in enumerate(self.heads)]
        return [logits, *coarser]

    def _keep(self, i: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if module.training:
                self._features[i] = output

        return hook

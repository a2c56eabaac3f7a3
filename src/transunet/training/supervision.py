"""Deep supervision: logits from the decoder's earlier blocks, while training only."""

from torch import Tensor, nn

from transunet.models.transunet2d.network import TransUNet


class DeeplySupervised(nn.Module):
    """A TransUNet that also returns coarser logits, through 1x1 heads of its own.

    The heads are trained and thrown away: the network inside has the published parameters, and a
    bundle of it costs nothing extra.

    Args:
        model: whose decoder is supervised.
        depths: how many of the decoder's earlier blocks get a head, the last first (1 to 3).
    """

    def __init__(self, model: TransUNet, depths: int) -> None:
        super().__init__()
        self.model = model
        channels = model.config.decoder_channels[2::-1][:depths]
        self.heads = nn.ModuleList(nn.Conv2d(c, model.config.num_classes, 1) for c in channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the logits (B, K, H, W), then those at 1/2, 1/4 and 1/8 of that size."""
        logits, features = self.model.forward_with_features(x)
        # The last block's features have logits already, the network's own.
        coarser = zip(self.heads, features[2::-1], strict=False)
        return [logits, *(head(feature) for head, feature in coarser)]

"""TransUNet: encoder, decoder, head (Chen et al. 2021)."""

from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transunet.errors import ConfigError
from transunet.models.segmentation_network import SegmentationNetwork
from transunet.models.transunet2d.config import TransUNetConfig
from transunet.models.transunet2d.decoder import DecoderCup, SegmentationHead, upsample
from transunet.models.transunet2d.embedding import Transformer


class TransUNet(SegmentationNetwork):
    """The network: an image (B, C, H, W) in, logits (B, num_classes, H, W) out.

    Any height and width: the input is padded with zeros at the bottom and right to whole patches,
    position embeddings follow the grid, and the logits are cropped to the input's size. State-dict
    names are the reference's, so its checkpoints load. Intensities are the caller's business.
    """

    config: TransUNetConfig
    head_names = ("segmentation_head.0.weight", "segmentation_head.0.bias")
    position_name = "transformer.embeddings.position_embeddings"

    def __init__(self, config: TransUNetConfig) -> None:
        super().__init__(config)
        self.transformer = Transformer(config)
        self.decoder = DecoderCup(config)
        self.segmentation_head = SegmentationHead(config.decoder_channels[-1], config.num_classes)
        if config.clicks:
            stem = self.get_submodule(self.stem_name.removesuffix(".weight"))
            assert isinstance(stem, nn.Conv2d)
            self.clicks = nn.Conv2d(
                config.guidance_channels,
                stem.out_channels,
                stem.kernel_size,  # type: ignore[arg-type]
                stem.stride,  # type: ignore[arg-type]
                stem.padding,  # type: ignore[arg-type]
                bias=False,
            )
            nn.init.zeros_(self.clicks.weight)

    @overload
    def forward(
        self, x: Tensor, return_attention: Literal[False] = False, guidance: Tensor | None = None
    ) -> Tensor: ...
    @overload
    def forward(
        self, x: Tensor, return_attention: Literal[True], guidance: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]: ...
    def forward(
        self, x: Tensor, return_attention: bool = False, guidance: Tensor | None = None
    ) -> Tensor | tuple[Tensor, tuple[Tensor, ...]]:
        """Return logits (B, num_classes, H, W) for `x` (B, C, H, W), both floating point.

        `guidance` (B, `config.guidance_channels`, H, W) is what clicks say of the image.

        With `return_attention`, return the same logits and every layer's attention probabilities,
        each (B, heads, N, N), N being the tokens of the padded input row by row.

        Raises:
            ConfigError: when `x` or `guidance` has another number of dimensions or channels than
                configured.
        """
        padded = self._to_patches(x)
        added = self._added(guidance, padded)
        if not return_attention:
            tokens, grid, skips = self.transformer(padded, added)
            return self._to_logits(self.decoder(tokens, grid, skips), padded, x)
        tokens, grid, skips, maps = self.transformer.forward_with_attention(padded, added)
        return self._to_logits(self.decoder(tokens, grid, skips), padded, x), maps

    @property
    def deepest(self) -> nn.Module:
        """The vision transformer's blocks."""
        return self.transformer.encoder

    @property
    def stem_name(self) -> str:
        """The backbone's root, or the patch embedding of a plain ViT."""
        stem = "hybrid_model.root.conv" if self.config.hybrid else "patch_embeddings"
        return f"transformer.embeddings.{stem}.weight"

    def auxiliary_heads(self, depths: int) -> nn.ModuleList:
        """Return a 1x1 head for each of the last `depths` (0 to 3) of the decoder's earlier blocks.

        The network keeps the published parameters, and a bundle of it costs nothing extra.
        """
        channels = self.config.decoder_channels[2::-1][:depths]
        return nn.ModuleList(nn.Conv2d(c, self.config.num_classes, 1) for c in channels)

    def training_outputs(
        self, images: Tensor, heads: nn.ModuleList, guidance: Tensor | None = None
    ) -> list[Tensor]:
        """Return the logits (B, K, H, W), then those at 1/2, 1/4 and 1/8 of that size.

        Raises:
            ConfigError: as `forward`.
        """
        padded = self._to_patches(images)
        added = self._added(guidance, padded)
        features = self.decoder.features(*self.transformer(padded, added))
        # The last block's features have logits already, the network's own.
        coarser = zip(heads, features[2::-1], strict=False)
        own = self._to_logits(features[-1], padded, images)
        return [own, *(head(feature) for head, feature in coarser)]

    def set_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Recompute transformer blocks and ResNet stages in the backward pass, to save memory.

        The decoder is left out: recomputing it would update BatchNorm's statistics twice.
        """
        self.transformer.encoder.gradient_checkpointing = enabled
        if self.transformer.embeddings.hybrid_model is not None:
            self.transformer.embeddings.hybrid_model.gradient_checkpointing = enabled

    def _to_patches(self, x: Tensor) -> Tensor:
        self._check(x)
        if x.shape[1] == 1:
            x = x.expand(-1, self.config.stem_channels, -1, -1)
        patch = self.config.patch_size
        x = F.pad(x, (0, -x.shape[3] % patch, 0, -x.shape[2] % patch))
        if self.training and x.is_cpu:  # convolutions and upsampling are up to ten times as fast
            x = x.contiguous(memory_format=torch.channels_last)
        return x

    def _to_logits(self, features: Tensor, padded: Tensor, x: Tensor) -> Tensor:
        logits = self.segmentation_head(features)
        if logits.shape[2:] != padded.shape[2:]:  # patches of 14 or 32 pixels, upsampled 16 times
            logits = upsample(logits, (padded.shape[2], padded.shape[3]))
        return logits[..., : x.shape[2], : x.shape[3]]  # type: ignore[no-any-return]

    def _check(self, x: Tensor) -> None:
        channels = self.config.in_channels
        if x.dim() != 4:
            raise ConfigError(f"Expected images (B, C, H, W), found shape {tuple(x.shape)}.")
        repeats = x.shape[1] == 1 and self.config.stem_channels == 3
        if x.shape[1] != channels and not repeats:
            raise ConfigError(
                f"Expected {channels} channels, found {x.shape[1]} in an input of shape "
                f"{tuple(x.shape)}. Build the model with in_channels={x.shape[1]} for such images."
            )

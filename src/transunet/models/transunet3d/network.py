"""3D TransUNet: U-Net, vision transformer, queries (Chen et al. 2024)."""

from typing import Literal, NamedTuple, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transunet.errors import ConfigError
from transunet.models.segmentation_network import SegmentationNetwork
from transunet.models.transunet3d.config import TransUNet3DConfig
from transunet.models.transunet3d.decoder import UpPath, upsamplings
from transunet.models.transunet3d.embedding import VisionTransformer
from transunet.models.transunet3d.encoder import SLOPE, DownPath
from transunet.models.transunet3d.query_decoder import QueryDecoder, QueryPrediction, query_logits


class QueryOutputs(NamedTuple):
    """What the loss of a network with queries takes."""

    predictions: tuple[QueryPrediction, ...]
    """Of the queries themselves and of each layer, the last layer's last."""
    maps: tuple[Tensor, ...]
    """The U-Net's logits (B, K, d, h, w) below full size, the finest first; may be none."""


class TransUNet3D(SegmentationNetwork):
    """The network: a volume (B, C, D, H, W) in, logits (B, num_classes, D, H, W) out.

    Any size: the volume is padded with zeros at the ends of its axes to whole strides, position
    embeddings follow the grid, and the logits are cropped to the input's size. State-dict names are
    the reference's, so its checkpoints load. Intensities are the caller's business.

    With queries, the logits are the logarithm of the class scores (`query_decoder.class_scores`):
    their arg max is the segmentation and their softmax the scores divided by their sum. For regions
    they are the logit of the score, cut off at 1: a region is where they are above 0.
    """

    config: TransUNet3DConfig

    def __init__(self, config: TransUNet3DConfig) -> None:
        super().__init__(config)
        widths = config.widths
        finest = len(config.poolings) - 1
        self.conv_blocks_context = DownPath(config)
        self.tu = upsamplings(config)
        self.conv_blocks_localization = UpPath(config)
        self.seg_outputs = nn.ModuleDict(
            {
                str(u): nn.Conv3d(widths[finest - u], config.num_classes, 1, bias=False)
                for u in config.supervised
            }
        )
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                nn.init.kaiming_normal_(module.weight, a=SLOPE)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if config.vit:
            self.transformer = VisionTransformer(widths[-1], config.grid, config.vit)
            self.conv_more = nn.Conv3d(config.vit.hidden_size, widths[-1], 1)
        if config.queries:
            size = config.queries.hidden_size
            self.input_proj = nn.ModuleList(
                nn.Sequential(nn.Conv3d(widths[i], size, 1), nn.GroupNorm(32, size))
                for i in (3, 2, 1)
            )
            self.linear_mask_features = nn.Conv3d(widths[0], size, 1)
            self.predictor = QueryDecoder(config.queries, config.num_classes)
            if config.deep_supervision:
                # The queries take the finest map's place; the reference keeps its head.
                self.seg_outputs[str(finest)].requires_grad_(False)
        if config.clicks:
            self.clicks = nn.Conv3d(config.guidance_channels, widths[0], 3, padding=1, bias=False)
            nn.init.zeros_(self.clicks.weight)

    @property
    def head_names(self) -> tuple[str, ...]:
        """The entries of the maps' heads and of the queries' classes."""
        names = [f"seg_outputs.{stage}.weight" for stage in self.config.supervised]
        if self.config.queries:
            names += ["predictor.class_embed.weight", "predictor.class_embed.bias"]
        return tuple(names)

    @property
    def position_name(self) -> str | None:
        """The entry of the vision transformer's; None where there is none."""
        return "transformer.embeddings.position_embeddings" if self.config.vit else None

    @property
    def deepest(self) -> nn.Module:
        """The vision transformer's blocks, or without such a transformer the coarsest stage."""
        return self.transformer.encoder if self.config.vit else self.conv_blocks_context[-1]

    @property
    def stem_name(self) -> str:
        """The entry of the finest stage's first convolution."""
        return "conv_blocks_context.0.blocks.0.conv.weight"

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
        """Return logits (B, num_classes, D, H, W) for `x` (B, C, D, H, W), both floating point.

        `guidance` (B, `config.guidance_channels`, D, H, W) is what clicks say of the volume.

        With `return_attention`, return the same logits and the attention probabilities of every
        layer of the vision transformer, each (B, heads, N, N), N being the voxels of the bottleneck
        plane by plane and row by row; none without such a transformer.

        Raises:
            ConfigError: when `x` or `guidance` has another number of dimensions or channels than
                configured, or `x` is a single voxel at the bottleneck.
        """
        self._check(x)
        sides = zip(reversed(x.shape[2:]), reversed(self.config.stride), strict=True)
        padded = F.pad(x, [pad for side, step in sides for pad in (0, -side % step)])
        features, maps = self.features(padded, return_attention, guidance)
        if self.config.queries is not None:
            logits = query_logits(self._predictions(features)[-1], bool(self.config.regions))
        else:
            logits = self.seg_outputs[str(len(self.config.poolings) - 1)](features[-1])
        logits = logits[..., : x.shape[2], : x.shape[3], : x.shape[4]]
        return (logits, maps) if return_attention else logits

    def features(
        self, x: Tensor, return_attention: bool = False, guidance: Tensor | None = None
    ) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Return the features of the bottleneck and of each stage of the way up, the finest last.

        With them the attention that `forward` returns, if it is wanted. The sides of `x`
        (B, C, D, H, W) are multiples of the stride.
        """
        skips = self.conv_blocks_context(x, self._added(guidance, x))
        x = skips.pop()
        maps: tuple[Tensor, ...] = ()
        if self.config.vit is not None:  # its truth would break a graph of torch.compile
            if return_attention:
                encoded, maps = self.transformer.forward_with_attention(x)
            else:
                encoded = self.transformer(x)
            x = self.conv_more(encoded)  # fidelity: in the bottleneck's place, not added to it
        return [x, *self.conv_blocks_localization(x, skips, self.tu)], maps

    def query_prediction(self, x: Tensor) -> QueryPrediction:
        """Return what the queries say of `x` (B, C, D, H, W), whose sides are whole strides."""
        features, _ = self.features(x)
        return self._predictions(features)[-1]

    def auxiliary_heads(self, depths: int) -> nn.ModuleList:
        """Return no heads: the network has its own, as many as its configuration says."""
        return nn.ModuleList()

    def training_outputs(
        self, images: Tensor, heads: nn.ModuleList, guidance: Tensor | None = None
    ) -> list[Tensor] | QueryOutputs:
        """Return logits of each supervised stage, the finest first; with queries, theirs too.

        Args:
            images: (B, C, D, H, W), the sides multiples of the stride.
            heads: none; the network has its own.
            guidance: what clicks say of them, (B, `config.guidance_channels`, D, H, W).

        Raises:
            ConfigError: when the sides are no such multiples, and as `forward`.
        """
        self._check(images)
        if any(
            side % step for side, step in zip(images.shape[2:], self.config.stride, strict=True)
        ):
            raise ConfigError(
                f"Patches of {tuple(images.shape[2:])} voxels cannot be trained on: along each "
                f"axis they must be multiples of {self.config.stride}, what the poolings make."
            )
        features, _ = self.features(images, guidance=guidance)
        supervised = reversed(self.config.supervised)
        if self.config.queries is None:
            return [self.seg_outputs[str(u)](features[u + 1]) for u in supervised]
        next(supervised, None)  # the queries take the finest map's place
        maps = tuple(self.seg_outputs[str(u)](features[u + 1]) for u in supervised)
        return QueryOutputs(tuple(self._predictions(features, every_layer=True)), maps)

    def set_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Recompute the U-Net's stages and the transformer's blocks in the backward pass."""
        self.conv_blocks_context.gradient_checkpointing = enabled
        self.conv_blocks_localization.gradient_checkpointing = enabled
        if self.config.vit:
            self.transformer.encoder.gradient_checkpointing = enabled

    def _predictions(
        self, features: list[Tensor], every_layer: bool = False
    ) -> list[QueryPrediction]:
        device = features[-1].device.type
        # Masks and their resizing want single precision; "meta" knows none.
        if device != "meta" and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self._predictions([x.float() for x in features], every_layer)
        levels = [project(x) for project, x in zip(self.input_proj, features[-4:-1], strict=True)]
        predictions: list[QueryPrediction] = self.predictor(
            levels, features[-1], self.linear_mask_features, every_layer
        )
        return predictions

    def _check(self, x: Tensor) -> None:
        if x.dim() != 5:
            raise ConfigError(f"Expected volumes (B, C, D, H, W), found shape {tuple(x.shape)}.")
        channels = self.config.in_channels
        if x.shape[1] != channels:
            raise ConfigError(
                f"Expected {channels} channels, found {x.shape[1]} in an input of shape "
                f"{tuple(x.shape)}. Build the model with in_channels={x.shape[1]} for such volumes."
            )
        stride = self.config.stride
        if all(side <= step for side, step in zip(x.shape[2:], stride, strict=True)):
            raise ConfigError(
                f"A volume of {tuple(x.shape[2:])} voxels is a single one at the bottleneck, which "
                f"cannot be normalised: one side must exceed {stride}. Pad it, or take a model "
                "with fewer poolings."
            )

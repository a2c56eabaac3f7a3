"""What a TransUNet is made of, as a frozen value, and the published variants. Imports no torch."""

from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from transunet.models.architecture import Architecture

_GROUPS = 32  # of every GroupNorm in the backbone but the projection's


class TransUNetConfig(Architecture):
    """Architecture of one TransUNet (Chen et al. 2021, sections 3.1 and 3.2).

    Raises:
        ConfigError: when the parts cannot fit together; the message says what would be possible.
    """

    family: Literal["transunet2d"] = "transunet2d"
    in_channels: PositiveInt = 1
    """Channels of the input image. One channel is repeated to three, as in the reference."""
    image_size: tuple[PositiveInt, PositiveInt] = (224, 224)
    """Height and width in pixels for which position embeddings are held; other sizes run too."""
    patch_size: PositiveInt = 16
    """Side in input pixels of what one token stands for."""
    resnet_units: tuple[PositiveInt, ...] = ()
    """Bottleneck units of the three ResNet stages; empty for a plain ViT."""
    resnet_width: PositiveFloat = 1.0
    """Multiplier of the backbone's channels (64 in the root)."""
    hidden_size: PositiveInt = 768
    mlp_size: PositiveInt = 3072
    num_heads: PositiveInt = 12
    num_layers: PositiveInt = 12
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """After the embeddings and inside the MLP."""
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    n_skip: int = 0
    """How many decoder blocks, the deepest first, get a skip feature from the backbone."""
    bridge_channels: PositiveInt = 512
    """Channels of the decoder's first convolution (`conv_more`)."""
    decoder_channels: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (256, 128, 64, 16)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.hidden_size % self.num_heads:
            divisors = [n for n in range(1, self.num_heads * 2) if self.hidden_size % n == 0]
            raise ValueError(
                f"num_heads={self.num_heads} does not divide hidden_size={self.hidden_size}; "
                f"possible: {', '.join(map(str, divisors))}"
            )
        skips = 3 if self.hybrid else 0
        if not 0 <= self.n_skip <= skips:
            backbone = "a ResNet" if self.hybrid else "no ResNet"
            raise ValueError(
                f"n_skip={self.n_skip} is impossible: {backbone} backbone gives {skips or 'no'} "
                f"skips; possible: 0 to {skips}"
            )
        if self.hybrid and len(self.resnet_units) != 3:
            raise ValueError(
                f"resnet_units={self.resnet_units} must name three stages, such as (3, 4, 9)"
            )
        if self.hybrid and self.patch_size != 16:
            raise ValueError(
                f"patch_size={self.patch_size} is impossible with a ResNet backbone; possible: 16"
            )
        root_channels = 64 * self.resnet_width
        if self.hybrid and root_channels % _GROUPS:
            raise ValueError(
                f"resnet_width={self.resnet_width} gives {root_channels:g} root channels; "
                f"they must be a multiple of {_GROUPS}: 0.5, 1, 1.5, 2, ..."
            )
        for side in self.image_size:
            if side % self.patch_size:
                below = side // self.patch_size * self.patch_size
                near = [n for n in (below, below + self.patch_size) if n]
                raise ValueError(
                    f"image_size={self.image_size}: {side} is not a multiple of the patch size "
                    f"{self.patch_size}; possible: {' or '.join(map(str, near))}"
                )
        return self

    @property
    def hybrid(self) -> bool:
        """Whether a ResNet stands before the transformer."""
        return bool(self.resnet_units)

    @property
    def stem_channels(self) -> int:
        """Channels that the first convolution sees: one input channel is repeated to three."""
        return 3 if self.in_channels == 1 else self.in_channels

    @property
    def root_channels(self) -> int:
        """Channels of the backbone's root convolution."""
        return int(64 * self.resnet_width)

    @property
    def stride(self) -> tuple[int, int]:
        """Height and width in pixels of what one token stands for."""
        return self.patch_size, self.patch_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens at `image_size`."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def layers(self) -> int:
        """The transformer's blocks."""
        return self.num_layers

    @property
    def heads(self) -> int:
        """Attention heads of each block."""
        return self.num_heads

    @property
    def patch_kernel(self) -> int:
        """Kernel and stride of the patch embedding: 1 on the backbone's 1/16 feature."""
        return 1 if self.hybrid else self.patch_size

    @property
    def embedding_channels(self) -> int:
        """Channels that the patch embedding sees."""
        return 16 * self.root_channels if self.hybrid else self.stem_channels

    @property
    def skip_channels(self) -> tuple[int, int, int, int]:
        """Channels of the skip that each decoder block gets, deepest first; 0 for none."""
        available = (8 * self.root_channels, 4 * self.root_channels, self.root_channels)
        first, second, third = (c if i < self.n_skip else 0 for i, c in enumerate(available))
        return first, second, third, 0


_VIT_B = {"hidden_size": 768, "mlp_size": 3072, "num_heads": 12, "num_layers": 12}
_VIT_L = {"hidden_size": 1024, "mlp_size": 4096, "num_heads": 16, "num_layers": 24}
_VIT_H = {"hidden_size": 1280, "mlp_size": 5120, "num_heads": 16, "num_layers": 32}
_VIT_S = {"hidden_size": 384, "mlp_size": 1536, "num_heads": 6, "num_layers": 12}
_VIT_TI = {"hidden_size": 192, "mlp_size": 768, "num_heads": 3, "num_layers": 8}
_R50 = {"resnet_units": (3, 4, 9), "n_skip": 3}
# Half the width everywhere but in the transformer, so that most of the parameters attend.
_R26_NARROW = {
    "resnet_units": (2, 2, 2),
    "resnet_width": 0.5,
    "n_skip": 3,
    "bridge_channels": 256,
    "decoder_channels": (128, 64, 32, 16),
}

_SETTINGS: dict[str, dict[str, Any]] = {
    "ViT-B_16": {**_VIT_B, "patch_size": 16},
    "ViT-B_32": {**_VIT_B, "patch_size": 32},
    "ViT-L_16": {**_VIT_L, "patch_size": 16},
    "ViT-L_32": {**_VIT_L, "patch_size": 32},
    "ViT-H_14": {**_VIT_H, "patch_size": 14},
    "R50-ViT-B_16": {**_VIT_B, **_R50},
    "R50-ViT-L_16": {**_VIT_L, **_R50},
    "testing": {"hidden_size": 1, "mlp_size": 1, "num_heads": 1, "num_layers": 1},
    # Not the authors': the same network for a laptop (25 M and 6 M parameters).
    "R26-ViT-S_16": {**_VIT_S, **_R26_NARROW},
    "R26-ViT-Ti_16": {**_VIT_TI, **_R26_NARROW},
}

TRANSUNET2D_VARIANTS = {
    name: TransUNetConfig(name=name, **settings) for name, settings in _SETTINGS.items()
}
"""The eight published configurations by their names, and two small ones of the same family."""

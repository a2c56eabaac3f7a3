"""What a 3D TransUNet is made of, as a frozen value, and its variants. Imports no torch."""

from collections.abc import Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, PositiveInt, model_validator

from transunet.models.architecture import Architecture
from transunet.settings import Configuration

_GROUPS = 32  # of the GroupNorm behind each level's projection
_LEVELS = 3  # feature maps that the queries look at

Triple = tuple[PositiveInt, PositiveInt, PositiveInt]
LayerScale = Literal["branch", "reference"]
"""Which part of a residual block the learned scale multiplies: what the block adds ("branch", as in
the paper that it comes from), or what the reference's code does."""


class ViTSettings(Configuration):
    """The vision transformer at the bottleneck: one token for each of its voxels."""

    num_layers: PositiveInt = 12
    hidden_size: PositiveInt = 768
    mlp_size: PositiveInt = 3072
    num_heads: PositiveInt = 12
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """After the embeddings and inside the MLP."""
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    layer_scale: LayerScale | None = None
    """"reference" multiplies the skip path, so that a fresh block forgets its input; None: none."""
    positions_of_2d: Literal["grid", "reference"] = "grid"
    """How position embeddings of an image's transformer become a volume's: interpolated on their
    grid and repeated along the first axis; or, by "reference", the row of tokens is resampled to
    the nearest as if it were a line."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.hidden_size % self.num_heads:
            divisors = [n for n in range(1, self.num_heads * 2) if self.hidden_size % n == 0]
            raise ValueError(
                f"vit.num_heads={self.num_heads} does not divide vit.hidden_size="
                f"{self.hidden_size}; possible: {', '.join(map(str, divisors))}"
            )
        return self


class QueriesSettings(Configuration):
    """The transformer decoder: learned queries that each find one class and its mask."""

    num_queries: PositiveInt = 20
    hidden_size: PositiveInt = 192
    mlp_size: PositiveInt = 1536
    num_heads: PositiveInt = 8
    num_layers: int = Field(default=3, ge=_LEVELS)
    """Each looks at one of three feature maps in turn, the coarsest first."""
    layer_scale: LayerScale | None = None
    """"reference" multiplies the sum of a feed-forward layer and its input, so that a fresh layer
    nearly erases the queries; None: none."""
    matching: Literal["hungarian", "reference"] = "hungarian"
    """Which class a matched query learns: the one that it was matched to, or ("reference") the
    classes in their order for the matched queries in theirs."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        # Three sine codes, each of as many sines as cosines; and groups of the GroupNorm.
        if self.hidden_size % 6 or self.hidden_size % _GROUPS or self.hidden_size % self.num_heads:
            possible = [n for n in (96, 192, 288, 384) if n % self.num_heads == 0]
            raise ValueError(
                f"queries.hidden_size={self.hidden_size} must be a multiple of 96 (three axes of "
                f"sine codes, {_GROUPS} groups) and of queries.num_heads={self.num_heads}; "
                f"possible: {', '.join(map(str, possible)) or 'none: take other heads'}"
            )
        return self


class TransUNet3DConfig(Architecture):
    """Architecture of one 3D TransUNet, or of the 3D U-Net that it is built on.

    With a `vit` it is the paper's encoder-only variant, with `queries` the decoder-only one, with
    both the full network; with neither nnU-Net's 3D U-Net.

    Raises:
        ConfigError: when the parts cannot fit together; the message says what would be possible.
    """

    family: Literal["transunet3d"] = "transunet3d"
    image_size: Triple = (48, 192, 192)
    """Depth, height and width of a patch in voxels, for which position embeddings are held; other
    sizes run too."""
    poolings: tuple[Triple, ...] = Field(
        default=((1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)), min_length=1
    )
    """Stride of each downsampling along each axis, the finest first."""
    kernels: tuple[Triple, ...] = ((1, 3, 3), *((3, 3, 3),) * 5)
    """Kernel of each stage along each axis, 1 or 3: one more than `poolings`, the bottleneck's."""
    width: PositiveInt = 32
    """Channels of the finest stage; each stage doubles them."""
    max_width: PositiveInt = 320
    """Channels that no stage exceeds."""
    deep_supervision: bool = True
    """Whether coarser stages of the up path get logits, and a loss, of their own."""
    vit: ViTSettings | None = None
    """The transformer in the encoder; None for none."""
    queries: QueriesSettings | None = None
    """The transformer decoder; None for none."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        stages = len(self.poolings) + 1
        if len(self.kernels) != stages:
            raise ValueError(
                f"kernels: {len(self.poolings)} poolings make {stages} stages, found kernels for "
                f"{len(self.kernels)}; give one for each stage, the bottleneck included"
            )
        if odd := [kernel for kernel in self.kernels if not set(kernel) <= {1, 3}]:
            raise ValueError(f"kernels: {odd[0]} is impossible; possible along each axis: 1 or 3")
        for side, step in zip(self.image_size, self.stride, strict=True):
            if side % step:
                near = [n for n in (side // step * step, side // step * step + step) if n]
                raise ValueError(
                    f"image_size={self.image_size}: {side} is not a multiple of {step}, which the "
                    f"poolings along that axis make; possible: {' or '.join(map(str, near))}, or "
                    "other poolings"
                )
        if self.tokens == 1:
            raise ValueError(
                f"image_size={self.image_size}: the poolings leave a single voxel at the "
                f"bottleneck, which cannot be normalised; possible: a side twice as long, or fewer "
                "poolings"
            )
        if self.queries and len(self.poolings) < _LEVELS:
            raise ValueError(
                f"image_size={self.image_size}: queries look at {_LEVELS} feature maps coarser "
                f"than the patch, and its poolings ({len(self.poolings)}) make fewer; possible: "
                f"{_LEVELS} poolings or more (a larger patch), or queries=None"
            )
        if self.queries and self.queries.num_queries < self.num_classes:
            raise ValueError(
                f"queries: {self.queries.num_queries} of them cannot see {self.num_classes} "
                f"classes, one each; possible: {self.num_classes} or more"
            )
        return self

    @property
    def stride(self) -> tuple[int, ...]:
        """Voxels along each axis that one voxel of the bottleneck stands for."""
        return strides_of(self.poolings)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage, the finest first, the bottleneck last."""
        return tuple(
            min(self.width * 2**stage, self.max_width) for stage in range(len(self.kernels))
        )

    @property
    def supervised(self) -> tuple[int, ...]:
        """Which stages of the up path, counted from the coarsest, have a head for logits."""
        stages = range(len(self.poolings))
        if self.deep_supervision:
            return tuple(stages)
        return () if self.queries else (stages[-1],)

    @property
    def layers(self) -> int:
        """Layers of the vision transformer; 0 where there is none."""
        return self.vit.num_layers if self.vit else 0

    @property
    def heads(self) -> int:
        """Attention heads of each of those layers."""
        return self.vit.num_heads if self.vit else 0

    @property
    def num_queries(self) -> int:
        """Queries of the transformer decoder; 0 where there is none."""
        return self.queries.num_queries if self.queries else 0


class TrunkPlan(NamedTuple):
    """What of a 3D U-Net follows from the size and the spacing of what it sees."""

    image_size: tuple[int, ...]
    """The patch, rounded up to what the poolings divide."""
    poolings: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]

    @property
    def stride(self) -> tuple[int, ...]:
        """Voxels along each axis that one voxel of the bottleneck stands for."""
        return strides_of(self.poolings)


def strides_of(poolings: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return what poolings make of one voxel together, along each of three axes."""
    return tuple(prod(steps) for steps in zip(*poolings, strict=True)) or (1, 1, 1)


def plan_trunk(
    image_size: Sequence[int], spacing_mm: Sequence[float] = (1, 1, 1), smallest: int = 4
) -> TrunkPlan:
    """Return poolings and kernels for patches of `image_size` voxels of `spacing_mm`.

    The rule is nnU-Net's (Isensee et al. 2021): an axis is halved while at least `smallest` voxels
    remain, but only together with axes of less than twice its resolution, so that voxels become
    equally long along all axes; and an axis is convolved along once that is so.

    Args:
        image_size: depth, height and width of a patch.
        spacing_mm: millimetres from voxel to voxel along each.
        smallest: voxels along an axis that no pooling undercuts.
    """
    sides, spacing = list(image_size), list(spacing_mm)
    kernel = [1, 1, 1]
    poolings: list[tuple[int, ...]] = []
    kernels: list[tuple[int, ...]] = []
    while True:
        halvable = [axis for axis in range(3) if sides[axis] >= 2 * smallest]
        finest = min((spacing[axis] for axis in halvable), default=min(spacing))
        # Once convolved along, an axis stays so.
        kernel = [
            3 if old == 3 or mm < 2 * min(spacing) else 1
            for old, mm in zip(kernel, spacing, strict=True)
        ]
        kernels.append(tuple(kernel))
        halved = [axis for axis in halvable if spacing[axis] < 2 * finest]
        if not halved or (len(halved) == 1 and sides[halved[0]] < 3 * smallest):
            break
        steps = [2 if axis in halved else 1 for axis in range(3)]
        poolings.append(tuple(steps))
        sides = [-(-side // step) for side, step in zip(sides, steps, strict=True)]
        spacing = [mm * step for mm, step in zip(spacing, steps, strict=True)]
    strides = strides_of(poolings)
    rounded = [-(-side // step) * step for side, step in zip(image_size, strides, strict=True)]
    return TrunkPlan(tuple(rounded), tuple(poolings), tuple(kernels))


# The authors' widths, on the plan that the rule above gives for their abdominal CT (48 x 192 x 192
# voxels of 3 x 0.76 x 0.76 mm): the defaults.
_VIT_B = {"layer_scale": "branch"}
_QUERIES = {"layer_scale": "branch"}
# For a laptop: 7.6 M parameters where both transformers are there.
_SMALL = {"width": 16, "max_width": 160} | plan_trunk((64, 64, 64))._asdict()
_SMALL_VIT = {"num_layers": 6, "hidden_size": 192, "mlp_size": 768, "num_heads": 3}
_SMALL_QUERIES = {"hidden_size": 96, "mlp_size": 768, **_QUERIES}

_SETTINGS: dict[str, dict[str, Any]] = {
    "TransUNet3D-encoder": {"vit": _VIT_B},
    "TransUNet3D-decoder": {"queries": _QUERIES, "deep_supervision": False},
    "TransUNet3D": {"vit": _VIT_B, "queries": _QUERIES},
    "UNet3D": {},
    "TransUNet3D-encoder-S": {**_SMALL, "vit": {**_SMALL_VIT, **_VIT_B}},
    "TransUNet3D-decoder-S": {**_SMALL, "queries": _SMALL_QUERIES, "deep_supervision": False},
    "TransUNet3D-S": {**_SMALL, "vit": {**_SMALL_VIT, **_VIT_B}, "queries": _SMALL_QUERIES},
    # Somewhat smaller than TransUNet3D-S: CPUs compute channels in blocks of 16, so that 20 take
    # twice the time.
    "UNet3D-S": {**_SMALL, "max_width": 320},
}

TRANSUNET3D_VARIANTS: Mapping[str, TransUNet3DConfig] = MappingProxyType(
    {name: TransUNet3DConfig(name=name, **settings) for name, settings in _SETTINGS.items()}
)
"""The paper's three variants, the U-Net that they are built on, and small ones of each."""

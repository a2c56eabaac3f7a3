"""How a network is trained, as a frozen value; the presets are files in `recipes/`."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from transunet.data.regions import Region
from transunet.data.sampling import Sampling
from transunet.data.sampling.patches import Patches
from transunet.data.sampling.slices import Slices
from transunet.errors import ConfigError
from transunet.models.architecture import Architecture
from transunet.models.variants import VARIANTS, variant
from transunet.settings import Configuration
from transunet.training.losses import LOSSES
from transunet.weights.catalog import SOURCES
from transunet.weights.load import network_settings
from transunet.weights.origin import local_origin

PRESETS = ("paper", "modern", "paper3d", "modern3d")
"""For slices, and for volumes."""

# Setting of a configuration of 3D TransUNet -> what the reference's code does instead.
_MISTAKES = {
    "matching": ("queries", "matching"),
    "query_layer_scale": ("queries", "layer_scale"),
    "vit_layer_scale": ("vit", "layer_scale"),
    "positions": ("vit", "positions_of_2d"),
}

Share = float
"""A number from 0 to 1."""


class Augmentation(Configuration):
    """What is done to batches on the training device; a `p_...` is a probability per sample."""

    p_mirror: Share = Field(default=0.0, ge=0, le=1)
    """Flips along each axis of `mirror_axes`. Only where both sides mean the same."""
    mirror_axes: tuple[Literal[0, 1, 2], ...] = (0, 1)
    """Of an image's axes from the first on: of slices, 0 for rows and 1 for columns."""
    spared_axis: Literal[0, 1, 2, "auto"] | None = None
    """Of patches, the axis across which planes are neither mixed nor moved against each other;
    `auto`: one that is 3 times coarser than each of the others."""
    p_affine: Share = Field(default=0.0, ge=0, le=1)
    """Rotation, zoom and shift together."""
    p_rotation: Share = Field(default=0.0, ge=0, le=1)
    """Rotation where there was no `p_affine`."""
    p_scale: Share = Field(default=0.0, ge=0, le=1)
    """Zoom where there was no `p_affine`."""
    rotation: NonNegativeFloat = 30.0
    """Largest angle in degrees."""
    scale: tuple[PositiveFloat, PositiveFloat] = (0.7, 1.4)
    """Smallest and largest zoom."""
    shift: Share = Field(default=0.1, ge=0, le=1)
    """Largest translation as a share of the image's side."""
    p_elastic: Share = Field(default=0.0, ge=0, le=1)
    elastic: NonNegativeFloat = 0.04
    """Largest displacement as a share of the image's side."""
    p_noise: Share = Field(default=0.0, ge=0, le=1)
    noise: NonNegativeFloat = 0.1
    """Largest standard deviation of the noise, in standard deviations of the slice."""
    p_blur: Share = Field(default=0.0, ge=0, le=1)
    blur: tuple[PositiveFloat, PositiveFloat] = (0.5, 1.0)
    """Smallest and largest sigma in pixels."""
    p_brightness: Share = Field(default=0.0, ge=0, le=1)
    brightness: NonNegativeFloat = 0.25
    """Largest relative change."""
    p_contrast: Share = Field(default=0.0, ge=0, le=1)
    contrast: NonNegativeFloat = 0.25
    """Largest relative change of the distance to the slice's mean."""
    p_gamma: Share = Field(default=0.0, ge=0, le=1)
    p_inverted_gamma: Share = Field(default=0.0, ge=0, le=1)
    """The same with dark and bright exchanged."""
    gamma: tuple[PositiveFloat, PositiveFloat] = (0.7, 1.5)
    """Smallest and largest exponent, applied to the slice scaled to [0, 1]."""
    p_low_resolution: Share = Field(default=0.0, ge=0, le=1)
    low_resolution: tuple[PositiveFloat, PositiveFloat] = (0.5, 1.0)
    """Smallest and largest factor by which a slice is made coarse before it is enlarged again."""

    @field_validator("scale", "blur", "gamma", "low_resolution")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(f"the smallest comes first (got {list(value)})")
        return value


class Distillation(Configuration):
    """What a teacher adds to training: its probabilities of every voxel, beside the labels."""

    teachers: tuple[str, ...] = Field(min_length=1)
    """Bundles, whose mean probabilities teach; or a folder of label maps or probabilities."""
    mirror: bool = False
    """Whether the bundles look at mirror images too."""
    images: str | None = None
    """A folder of images that nobody labelled, of which the teacher alone teaches."""
    temperature: PositiveFloat = 2.0
    """By which the logits of both are divided: above 1 it shows what else the teacher thinks of."""
    soft_weight: Share = Field(default=0.5, ge=0, le=1)
    """Share of the teacher's loss in the whole; the labels' has the rest."""
    fingerprint: str = ""
    """SHA-256 of the teachers, once they have taught."""


class Recipe(Configuration):
    """Everything that decides what a training run computes, besides the data.

    Raises:
        ConfigError: for settings that cannot work, naming each.
    """

    name: str = "custom"

    # The network.
    model: str = "R50-ViT-B_16"
    image_size: tuple[int, ...] | Literal["auto"] = (224, 224)
    """Height and width in pixels to which slices are resized; of a network of three axes planes,
    rows and columns of its patches in voxels. `auto` asks data and memory."""
    architecture: dict[str, Any] = Field(default_factory=dict)
    """Other values than the variant's for its configuration, such as `vit.num_layers`."""
    mistakes: tuple[
        Literal["matching", "query_layer_scale", "vit_layer_scale", "positions"], ...
    ] = ()
    """Of the code of 3D TransUNet, which shall be repeated where the network has such parts."""
    context: int = Field(default=0, ge=0)
    """Neighbours on each side that the network sees with each slice: 1, 2 or 3 make it 2.5D."""
    n_skip: int | None = Field(default=None, ge=0)
    """Skip connections; None for the variant's own number."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """None for the variant's own."""
    clicks: bool = False
    """Whether the network also learns to follow a person's clicks, simulated for half of the
    samples; the other half, and whoever gives none, is computed as without."""
    weights: str = "auto"
    """`imagenet21k`, a file, bundle or run, or `none`; `auto`: imagenet21k where published."""

    # How long.
    epochs: PositiveInt | None = None
    """Passes over the training slices, or over as many patches as cover the volumes."""
    iterations: PositiveInt | None = None
    """Optimiser steps, instead of epochs."""
    minutes: PositiveFloat | None = None
    """Wall-clock limit; the learning rate reaches its end with whichever budget ends first."""
    batch_size: PositiveInt | Literal["auto"] = 24
    """Slices or patches per optimiser step, over all processes; `auto` keeps 24 slices, or takes 2
    patches and more, and finds `accumulate`."""
    memory_gib: PositiveFloat | None = None
    """What `auto` sizes are planned for; None for the memory that is free, and on this device's
    time for a step."""
    accumulate: PositiveInt = 1
    """Pieces in which a batch is computed, one after the other, to save memory."""

    # The optimiser.
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: PositiveFloat = 0.01
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 1e-4
    decayed: Literal["all", "matrices"] | None = None
    """All parameters, or the weights of linear layers and convolutions; None: all by SGD, the
    latter by AdamW."""
    schedule: Literal["poly", "cosine", "cosine_epochs"] = "poly"
    """`cosine_epochs`: the cosine of 3D TransUNet's code, one rate for every 250 steps."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of training in which the rate rises from 0 (not of poly)."""
    clip_norm: PositiveFloat | None = None
    """Largest norm of the gradient; longer ones are shortened to it."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay per step of the moving average of the weights, which is what is validated and kept."""

    # The loss: a weight for each of `losses.LOSSES`. Of 3D TransUNet they weigh the terms of the
    # U-Net's maps; its queries have a loss of their own.
    ce_weight: NonNegativeFloat = 0.5
    dice_weight: NonNegativeFloat = 0.5
    deep_supervision: tuple[NonNegativeFloat, ...] = Field(default=(), max_length=3)
    """Weights, relative to the network's own output, of outputs after the decoder's earlier blocks,
    the last of them first."""

    distillation: Distillation | None = None
    """A teacher, if there is one (`transunet distill`)."""

    # The samples.
    paper_augmentation: bool = False
    """The paper's quarter-turns, flips and small rotations, before resizing."""
    augmentation: Augmentation = Augmentation()
    foreground: Share = Field(default=0.0, ge=0, le=1)
    """Share of samples drawn for holding a class drawn at random; 0: each slice once per epoch,
    patches from anywhere."""

    # The arithmetic.
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    """`auto`: bf16 on a GPU that has it, else fp32."""
    compile: bool = False
    gradient_checkpointing: bool = False

    # What is watched and kept.
    holdout: Share | None = Field(default=None, ge=0, lt=1)
    """Share of the cases held out for validation; None: the data set's own split, or 0.2."""
    folds: int | None = Field(default=None, ge=2)
    """Folds of a cross-validation; None for one split."""
    fold: int | None = Field(default=None, ge=0)
    validations: PositiveInt = 15
    """How often, evenly over training and at its end, the held-out cases are predicted."""
    patience: PositiveInt | None = None
    """Validations without improvement after which training stops."""
    checkpoint_minutes: NonNegativeFloat = 10.0
    """How much work an interruption may cost; 0 saves after every step."""
    calibrate: bool = False
    """At the end, let the best network learn on the held-out cases how far to trust it."""
    loggers: tuple[Literal["wandb", "mlflow"], ...] = ()
    seed: int = Field(default=1234, ge=0)

    @property
    def axes(self) -> int:
        """Axes of a sample: 2 for slices, 3 for patches."""
        if self.model in VARIANTS:
            return VARIANTS[self.model].axes
        return 2 if self.image_size == "auto" else len(self.image_size)

    @property
    def size(self) -> tuple[int, ...]:
        """Sides of a sample in pixels, once they have been derived."""
        assert self.image_size != "auto"
        return self.image_size

    @property
    def batch(self) -> int:
        """Samples per step, once they have been derived."""
        assert self.batch_size != "auto"
        return self.batch_size

    @property
    def sampling(self) -> Sampling:
        """What the network takes of a working volume, where its image size is known."""
        if self.axes == 3:
            planes, rows, columns = self.size
            return Patches(size=(planes, rows, columns))
        height, width = self.size
        return Slices(size=(height, width), context=self.context)

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """Axes of a sample along which training shows mirror images, too."""
        if self.paper_augmentation:
            return 0, 1
        return self.augmentation.mirror_axes if self.augmentation.p_mirror else ()

    def network(
        self,
        num_classes: int = 2,
        in_channels: int = 1,
        regions: Sequence[Region] = (),
    ) -> Architecture:
        """Return the configuration of the network, of the variant's own size where it is `auto`.

        With `regions` the network tells those apart, and not classes.

        Raises:
            ConfigError: for an unknown model or impossible settings.
        """
        base = variant(self.model)
        values = base.model_dump()
        own = {
            "image_size": None if self.image_size == "auto" else self.image_size,
            "n_skip": self.n_skip,
            "dropout": self.dropout,
            "num_classes": len(regions) or num_classes,
            "regions": [region.members for region in regions],
            "in_channels": in_channels,
            "clicks": self.clicks or None,
        }
        values |= {name: value for name, value in own.items() if value is not None}
        values = _merged(values, self.architecture)
        for part, field in (_MISTAKES[name] for name in self.mistakes):
            if values.get(part):
                values[part] |= {field: "reference"}
        return type(base)(**values)

    @property
    def taken_over(self) -> dict[str, Any]:
        """What the bundle that training begins from decides; {} where it begins from no file."""
        if self.weights in {"auto", "none", *SOURCES}:
            return {}
        names = ("model", "image_size", "context", "n_skip", "architecture", "clicks")
        return {name: getattr(self, name) for name in names}

    @model_validator(mode="before")
    @classmethod
    def _equal_sides(cls, values: Any) -> Any:
        size = values.get("image_size") if isinstance(values, dict) else None
        if not isinstance(size, int):
            return values
        known = VARIANTS.get(values.get("model", cls.model_fields["model"].default))
        return {**values, "image_size": (size,) * (known.axes if known else 2)}

    @field_validator("weights", mode="before")
    @classmethod
    def _no_weights(cls, value: Any) -> Any:
        return "none" if value is None else value  # as --set reads the word

    @field_validator("image_size", mode="before")
    @classmethod
    def _sides(cls, value: Any) -> Any:
        sides = value if isinstance(value, list | tuple) else ()
        positive = all(isinstance(side, int) and side > 0 for side in sides)
        if value != "auto" and not (positive and len(sides) in (2, 3)):
            raise ValueError(
                f"{value!r} is no size; give one side in pixels, such as 224, or two or three, the "
                "first axis first, such as 48x192x192, or auto"
            )
        return value

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self._check_axes()
        if self.epochs and self.iterations:
            raise ValueError("epochs and iterations are two names of one budget; give one of them")
        if not (self.epochs or self.iterations or self.minutes):
            raise ValueError("no budget: give epochs, iterations or minutes")
        if self.warmup and self.schedule == "poly":
            raise ValueError("warmup needs schedule = 'cosine'; the paper's poly has none")
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum):
            raise ValueError("nesterov is a kind of momentum of sgd: leave it out without them")
        if isinstance(self.batch_size, int) and self.accumulate > self.batch_size:
            samples = "slices" if self.axes == 2 else "patches"
            raise ValueError(
                f"accumulate={self.accumulate} is more than the {self.batch_size} {samples} of a "
                "batch"
            )
        if not any(getattr(self, name) for name in LOSSES):
            raise ValueError(f"{' and '.join(LOSSES)} are all 0: nothing would be learned")
        if self.clicks and self.distillation:
            raise ValueError(
                "clicks and distillation exclude each other: the teacher was told of no clicks"
            )
        if self.folds and self.holdout is not None:
            raise ValueError("holdout and folds are two ways to split; give one of them")
        if self.fold is not None and (self.folds is None or self.fold >= self.folds):
            raise ValueError(f"fold={self.fold} needs folds larger than it (got {self.folds})")
        return self

    def _check_axes(self) -> None:
        """Refuse what is for slices of a network that takes patches, and the reverse."""
        kind = "slices" if self.axes == 2 else "patches"
        takes = f"{self.model} takes {kind}"
        if self.image_size != "auto" and len(self.image_size) != self.axes:
            sides = "height and width" if self.axes == 2 else "planes, rows and columns"
            raise ValueError(
                f"image_size={list(self.image_size)}: {takes}, which have {self.axes} sides: "
                f"{sides}; give as many, one number for all, or auto"
            )
        if self.axes == 2:
            if 2 in self.augmentation.mirror_axes:
                raise ValueError(
                    f"augmentation.mirror_axes: {takes}, which have 0 (rows) and 1 (columns), no "
                    "2; --recipe modern3d and paper3d are for a --model with 3D in its name"
                )
            if self.augmentation.spared_axis in (0, 1, 2):
                raise ValueError(
                    f"augmentation.spared_axis={self.augmentation.spared_axis} is for patches, and "
                    f"{takes}, whose planes are never mixed: leave it out"
                )
            return
        remedies = {
            "context": "whose planes all are seen together: leave it out",
            "paper_augmentation": "and this is for slices: take --recipe paper3d or modern3d",
            "deep_supervision": "and has heads of its own for coarser outputs "
            "(architecture.deep_supervision): leave it out, as --recipe paper3d and modern3d do",
            "n_skip": "and always has all its skip connections: leave it out",
            "dropout": "and has dropout in its transformer only: architecture.vit.dropout",
        }
        for name, remedy in remedies.items():
            value = getattr(self, name)
            if value not in (None, 0, ()):
                raise ValueError(f"{name}={value} makes no sense here: {takes}, {remedy}")


def usual_recipe(model: str | None) -> str:
    """Return the preset that is taken for a model where nobody names one: the paper's for slices.

    For patches it is `modern3d`, since the reference's recipe is made for eight GPUs.
    """
    known = VARIANTS.get(model) if model else None
    return "modern3d" if known and known.axes == 3 else "paper"


def load_recipe(
    source: str | Path | None = "paper",
    overrides: Mapping[str, Any] | None = None,
    inherited: Mapping[str, Any] | None = None,
) -> Recipe:
    """Return a preset, or the recipe in a TOML or JSON file, with `overrides` applied.

    Args:
        source: a preset's name or a file. A file may name a recipe to start from: `base = "paper"`.
            None for the preset that is usual for the model (`usual_recipe`).
        overrides: setting -> value; `augmentation.rotation` reaches into the table `augmentation`.
            A budget given here replaces the preset's.
        inherited: settings that the weights decide where neither a file nor `overrides` does; by
            default, of a bundle or run, its model, image size and skip connections; of a file,
            what its shapes tell.

    Raises:
        ConfigError: for an unknown recipe or setting, with the nearest known one, or a value that
            cannot work.
        WeightsError: when the file of weights, or its bundle's configuration, cannot be read.
    """
    overrides = overrides or {}
    values = {} if source is None else _read(source)
    if inherited is None:
        weights = overrides.get("weights", values.get("weights"))
        origin = local_origin(weights) if isinstance(weights, str) else None
        inherited = network_settings(origin) if origin else {}
        if inherited and inherited.get("n_skip") == getattr(
            VARIANTS[inherited["model"]], "n_skip", None
        ):
            inherited["n_skip"] = None  # the variant's own, as a preset says it
    if source is None:
        source = usual_recipe(overrides.get("model", inherited.get("model")))
        values = _read(source)
    decided = {*overrides, *(() if str(source) in PRESETS else _parsed(Path(source)))}
    model = {**values, **overrides}.get("model")
    if "model" in decided and inherited.get("model", model) != model:
        inherited = {}  # another network's: `check_weights` says so
    values |= {key: value for key, value in inherited.items() if key not in decided}
    return Recipe.from_json(_overridden(values, overrides), f"Recipe {str(source)!r}")


def changed_recipe(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """Return `recipe` with `overrides` applied, as `load_recipe` applies them.

    Raises:
        ConfigError: for an unknown setting, with the nearest known one, or a value that cannot
            work.
    """
    return Recipe(**_overridden(recipe.model_dump(), overrides))


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Return `key=value` texts as overrides; values are TOML, or else plain text.

    Raises:
        ConfigError: for a text without `=`.
    """
    overrides: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or not key:
            raise ConfigError(f"--set takes key=value, such as --set lr=0.001 (got {setting!r}).")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = None if text.lower() == "none" else text
        overrides[key] = value
    return overrides


def _read(source: str | Path) -> dict[str, Any]:
    """Return the settings of a preset or a file, on those of the recipe that it is based on."""
    if str(source) in PRESETS:
        text = (files(__package__) / "recipes" / f"{source}.toml").read_text(encoding="utf-8")
        return tomllib.loads(text)
    values = _parsed(Path(source))
    if "base" not in values:
        return values
    base = _read(values.pop("base"))
    return _with_one_budget(_merged(base, values), values)


def _parsed(path: Path) -> dict[str, Any]:
    if not path.is_file():
        close = get_close_matches(str(path), PRESETS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"No recipe or file is called {str(path)!r}.{hint} Known: {', '.join(PRESETS)}, or a "
            "file.toml."
        )
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a recipe in TOML (or JSON): {error}.") from None
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: expected settings of a recipe, found a {type(values).__name__}."
        )
    return values


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with `changes`, tables within tables too."""
    merged = dict(values)
    for key, change in changes.items():
        before = values.get(key)
        nested = isinstance(before, Mapping) and isinstance(change, Mapping)
        merged[key] = _merged(before, change) if nested else change  # type: ignore[arg-type]
    return merged


def _overridden(values: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in overrides.items():
        # An unknown table becomes an unknown setting, which the Recipe then refuses by name.
        *tables, field = key.split(".")
        change = {field: value}
        for table in reversed(tables):
            change = {table: change}
        values = _merged(values, change) if tables else values | change
    return _with_one_budget(values, overrides)


def _with_one_budget(values: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Let a budget that is `given` replace the other one that `values` may hold."""
    for budget, other in (("epochs", "iterations"), ("iterations", "epochs")):
        if given.get(budget) and not given.get(other):
            values[other] = None
    return values

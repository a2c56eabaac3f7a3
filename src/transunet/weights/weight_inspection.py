"""What a weight file is, and whether it is complete, without a model to load it into."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from transunet.models.families import build
from transunet.models.transunet2d.config import TRANSUNET2D_VARIANTS, TransUNetConfig
from transunet.weights.fit import EntryMismatch, adapted, mismatches
from transunet.weights.identify import (
    classes_of,
    skips_of,
    square_grid_of,
    stem_channels_of,
    traits_of,
    variant_of,
)
from transunet.weights.load import renamed_by_scheme
from transunet.weights.origin import origin_of
from transunet.weights.reading import read_entries
from transunet.weights.schemes import official3d


@dataclass(frozen=True)
class Inspection:
    """What a weight file is."""

    path: Path
    container: str
    """npz, pth or safetensors, by content."""
    scheme: str
    """Whose names it uses."""
    variant: str | None
    """The variant that it fits, None when it is none of the known ones."""
    traits: str
    """Its architecture in words."""
    whole: bool
    """Whether it is of a whole TransUNet; otherwise of the encoder alone."""
    entries: int
    parameters: int
    """Numbers in all entries, those without use included."""
    grid: tuple[int, ...] | None
    """Rows and columns of its position embeddings, None when they fill no square."""
    grid_told: bool
    """Whether its bundle tells that grid; otherwise it is assumed to be a square."""
    stem_channels: int | None
    """Channels that its first convolution sees."""
    labels: Mapping[int, str] | None
    """What its bundle calls the classes."""
    channels: tuple[str, ...] | None
    """What its bundle calls the image's channels."""
    classes: int | None
    n_skip: int | None
    unused: tuple[str, ...]
    """Entries that TransUNet has no use for."""
    mismatches: tuple[EntryMismatch, ...]
    """What is missing, extra or misshapen for that variant; () when there is no variant."""


def inspect(path: Path) -> Inspection:
    """Tell what the weight file `path` is, and whether it is complete.

    Raises:
        ConfigError: when there is nothing at `path`.
        WeightsError: when it is damaged, or its entries have nobody's names.
    """
    origin = origin_of(path)
    container, entries = read_entries(origin.file)
    config = origin.config
    of_volumes = False
    if config is None or isinstance(config, TransUNetConfig):
        renamed = renamed_by_scheme(entries, container, origin.file)
        of_volumes = config is None and renamed.scheme == official3d.SCHEME
        variant = None if of_volumes else variant_of(renamed.state)
        traits = official3d.described(entries) if of_volumes else str(traits_of(renamed.state))
    else:
        renamed = renamed_by_scheme(entries, container, origin.file, config.family)
        variant, traits = config.name, f"a network of the family {config.family}"
    state = renamed.state
    grid = config.grid if config else None if of_volumes else square_grid_of(state)
    classes = classes_of(state) or (config.num_classes if config else None)
    skips, channels = skips_of(state), stem_channels_of(state)
    if config is None and variant:  # with what a file may differ in and still be of the variant
        usual = TRANSUNET2D_VARIANTS[variant]
        config = usual.replace(
            image_size=tuple(n * usual.patch_size for n in grid) if grid else usual.image_size,
            num_classes=classes or usual.num_classes,
            n_skip=usual.n_skip if skips is None else min(skips, 3 if usual.hybrid else 0),
            in_channels=channels or usual.in_channels,
        )
    differing: list[EntryMismatch] = []
    if config and variant:
        with torch.device("meta"):  # names and shapes alone
            model = build(config)
        differing = mismatches(adapted(renamed, model), renamed, model)
    return Inspection(
        path=origin.file,
        container=container,
        scheme=renamed.scheme,
        variant=variant,
        traits=traits,
        whole=renamed.whole,
        entries=len(entries),
        parameters=sum(value.numel() for value in entries.values()),
        grid=grid,
        grid_told=origin.config is not None,
        stem_channels=channels,
        labels=origin.labels,
        channels=origin.channels,
        classes=classes,
        n_skip=skips,
        unused=renamed.unused,
        mismatches=tuple(differing),
    )

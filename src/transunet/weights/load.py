"""The entry: weights from the catalogue or from files into a model, all or nothing."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from transunet.errors import ConfigError, WeightsError
from transunet.models.transunet2d.config import VARIANTS, TransUNetConfig
from transunet.models.transunet2d.network import TransUNet
from transunet.weights.catalog import PARTS, RETIRED, SOURCES, files_for
from transunet.weights.download import fetch
from transunet.weights.fit import Shapes, about_positions, doubt_about_positions, fit
from transunet.weights.identify import skips_of, variant_of
from transunet.weights.origin import Origin, origin_of
from transunet.weights.partial import Rows, fitted
from transunet.weights.reading import read_entries
from transunet.weights.renaming import BACKBONE, EMBEDDINGS, PATCHES, Remapped
from transunet.weights.schemes import google, official, timm

Source = str | Path | Sequence[str | Path]
"""A name of the catalogue ("imagenet21k"), a file, or one file each for backbone and blocks."""

_LOGGER = logging.getLogger(__name__)
_SCHEMES = {"google": google, "timm": timm, "official": official}
_FRESH = (PATCHES, f"{EMBEDDINGS}.patch_embeddings.bias")  # between the parts of two files


@dataclass(frozen=True)
class Loaded:
    """What a model took from a file, and what it did not."""

    source: str
    entries: int
    """Entries of the model that were taken."""
    of: int
    """Entries that the model has."""
    notes: tuple[str, ...]
    """What became of head, first convolution and positions, in a sentence each."""
    rows: Rows | None = None
    """Which class took which class's weights; None where no head was taken."""

    @property
    def anew(self) -> bool:
        """Whether anything starts fresh of what the file holds for other classes."""
        return self.rows is not None and len(self.rows.taken) < self.rows.classes

    def __str__(self) -> str:
        return "\n".join(
            [f"Weights from {self.source}: {self.entries} of {self.of} entries"]
            + [f"  {note}" for note in self.notes]
        )


def load_weights(
    model: TransUNet,
    source: Source,
    *,
    partial: bool = False,
    labels: Mapping[int, str] | Sequence[str] | None = None,
    channels: Sequence[str] | None = None,
    offline: bool | None = None,
) -> Loaded:
    """Load `source` into `model`, or leave the model as it is and say why.

    Published ImageNet-21k weights fill the encoder; decoder and head keep their initialisation. A
    `.pth` of the reference or a file of this project fills everything. Content tells the format.

    Args:
        model: The model to fill, on any device; values are cast to its dtype.
        source: "imagenet21k" (the hub), the path of a `.npz`, `.pth` or `.safetensors` file, of a
            bundle or of a run; or two paths, in any order: one file for the ResNet backbone, one
            for the transformer (R50-ViT-L_16 was published in no other way).
        partial: Take also a TransUNet for other classes or channels: classes and channels of one
            name keep their weights, what has no counterpart keeps the model's initialisation.
        labels: What the model's classes are called, background first; for `partial`.
        channels: What the image's channels are called; for `partial`.
        offline: Use no network; None follows TRANSUNET_OFFLINE and HF_HUB_OFFLINE.

    Returns:
        What was taken and what was not; `str` of it says so in a few lines.

    Raises:
        ConfigError: when there is no such file, or no such weights for this variant.
        WeightsError: when a file cannot be had, is damaged, or does not fit; it names the entries.
    """
    config = model.config
    origins = _origins(config, source, offline)
    remapped, own = _remapped(config, origins), model.state_dict()
    rows: Rows | None = None
    notes: list[str] = []
    if remapped.whole and partial:
        named = labels if labels is None or isinstance(labels, Mapping) else dict(enumerate(labels))
        remapped, rows, notes = fitted(remapped, origins[0], config, own, named, channels)
    expected = {name: tuple(value.shape) for name, value in own.items()}
    state = _fit(remapped, config, expected, [origin.file for origin in origins])
    if doubt := doubt_about_positions(remapped, config):
        _LOGGER.warning("%s: %s", origins[0].file, doubt)
    model.load_state_dict(state, strict=False)
    notes += [] if remapped.whole else ["an encoder: decoder and head start fresh"]
    notes.append(about_positions(remapped, config))
    where = " with ".join(str(origin.bundle or origin.file) for origin in origins)
    return Loaded(where, len(state), len(expected), tuple(notes), rows)


def read_state(
    config: TransUNetConfig, expected: Shapes, paths: Sequence[Path]
) -> dict[str, Tensor]:
    """Return what the one or two files at `paths` give to a model of `config`.

    Args:
        config: The model's.
        expected: The shape of each entry of its state dict.
        paths: One file, or one for the backbone and one for the blocks, in any order.

    Raises:
        ConfigError, WeightsError: as `load_weights`.
    """
    return _fit(_remapped(config, [origin_of(path) for path in paths]), config, expected, paths)


def _remapped(config: TransUNetConfig, origins: Sequence[Origin]) -> Remapped:
    if len(origins) == 1:
        return read_remapped(origins[0])
    return _joined(config, origins)


def _fit(
    remapped: Remapped, config: TransUNetConfig, expected: Shapes, paths: Sequence[Path]
) -> dict[str, Tensor]:
    if len(paths) == 1:
        return fit(remapped, config, expected, str(paths[0]), _hint(config))
    expected = {name: shape for name, shape in expected.items() if name not in _FRESH}
    return fit(remapped, config, expected, " with ".join(map(str, paths)))


def read_remapped(origin: Origin) -> Remapped:
    """Return what the weight file of `origin` holds, under our names.

    Raises:
        WeightsError: when it is damaged, or its entries have nobody's names.
    """
    container, entries = read_entries(origin.file)
    remapped = remap(entries, container, origin.file)
    return replace(remapped, grid=origin.config.grid) if origin.config else remapped


def network_settings(origin: Origin) -> dict[str, Any]:
    """Return what `origin` tells of its network: model, n_skip and image_size, each where known.

    A bundle tells all three; of a bare file the shapes tell the variant, and of a whole TransUNet
    the skip connections. {} for none of the known variants.

    Raises:
        WeightsError: when the file is damaged, or its entries have nobody's names.
    """
    if config := origin.config:
        whole = {"model": config.name, "n_skip": config.n_skip, "image_size": config.image_size}
        return whole if config.name in VARIANTS else {}
    state = read_remapped(origin).state
    name, skips = variant_of(state), skips_of(state)
    if name is None:
        return {}
    return {"model": name} | ({} if skips is None else {"n_skip": skips})


def remap(entries: Mapping[str, Tensor], container: str, path: Path) -> Remapped:
    """Return `entries` of the file `path` under our names.

    Raises:
        WeightsError: when their names are nobody's.
    """
    for scheme in _SCHEMES.values():
        if scheme.recognises(entries):
            remapped: Remapped = scheme.remap(entries)
            # The reference writes no safetensors.
            return replace(remapped, ours=remapped.whole and container == "safetensors")
    some = ", ".join(f"{name} {tuple(value.shape)}" for name, value in list(entries.items())[:5])
    raise WeightsError(
        f"{path}: holds {len(entries)} entries whose names are neither TransUNet's, nor Google's, "
        f"nor timm's: {some}. Expected one of the files that `transunet weights list` shows, or a "
        "checkpoint of a TransUNet."
    )


def _origins(config: TransUNetConfig, source: Source, offline: bool | None) -> list[Origin]:
    if isinstance(source, str) and source in (*SOURCES, *RETIRED):
        files = files_for(config.name, source)
        return [Origin(fetch(file, offline=offline)) for file in files]
    chosen = [source] if isinstance(source, str | Path) else list(source)
    if not 1 <= len(chosen) <= 2:
        raise ConfigError(f"Expected one weight file or two, found {len(chosen)}.")
    return [origin_of(Path(path)) for path in chosen]


def _joined(config: TransUNetConfig, origins: Sequence[Origin]) -> Remapped:
    if not config.hybrid:
        raise ConfigError(f"{config.name} has no backbone, so it takes one weight file, not two.")
    paths, parts = [o.file for o in origins], [read_remapped(origin) for origin in origins]
    hybrid = [any(name.startswith(BACKBONE) for name in part.state) for part in parts]
    if sorted(hybrid) != [False, True]:
        held = "both" if all(hybrid) else "neither"
        raise WeightsError(
            f"{paths[0]} and {paths[1]}: {held} of them hold a ResNet backbone. Expected one that "
            "does (such as R50+ViT-B_16) and one that does not (such as ViT-L_16)."
        )
    backbone, blocks = parts if hybrid[0] else reversed(parts)
    return replace(
        blocks,
        whole=False,
        state={n: v for n, v in backbone.state.items() if n.startswith(BACKBONE)}
        | {n: v for n, v in blocks.state.items() if _is_block(n)},
        origin=backbone.origin | blocks.origin,
        unknown=backbone.unknown | blocks.unknown,
    )


def _is_block(name: str) -> bool:
    return name.startswith("transformer.") and name not in _FRESH


def _hint(config: TransUNetConfig) -> str:
    parts = PARTS.get(config.name, ())
    if len(parts) < 2:
        return ""
    return (
        f"{config.name} was published in two files: give both, {' and '.join(parts)}, one for the "
        "backbone and one for the blocks."
    )

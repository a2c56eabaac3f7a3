"""The entry: weights from the catalogue or from files into a model, all or nothing."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from transunet.errors import ConfigError, WeightsError
from transunet.models.architecture import Architecture
from transunet.models.segmentation_network import SegmentationNetwork
from transunet.models.transunet2d.config import TransUNetConfig
from transunet.models.transunet3d.config import TransUNet3DConfig
from transunet.models.variants import VARIANTS
from transunet.weights.catalog import PARTS, SOURCES, files_for
from transunet.weights.download import fetch
from transunet.weights.fit import about_positions, doubt_about_positions, fit
from transunet.weights.identify import skips_of, variant_of
from transunet.weights.origin import Origin, origin_of
from transunet.weights.partial import Rows, fitted
from transunet.weights.reading import read_entries
from transunet.weights.renaming import BACKBONE, EMBEDDINGS, PATCHES, RenamedState
from transunet.weights.schemes import google, official, official3d, timm

Source = str | Path | Sequence[str | Path]
"""A name of the catalogue ("imagenet21k"), a file, or one file each for backbone and blocks."""

_LOGGER = logging.getLogger(__name__)
_SCHEMES: Mapping[str, tuple[Any, ...]] = {
    "transunet2d": (google, timm, official),
    "transunet3d": (official3d, google, timm, official),
}
"""Family of networks -> how files name its weights; of other families files have its own names."""
_FRESH = (PATCHES, f"{EMBEDDINGS}.patch_embeddings.bias")  # between the parts of two files


@dataclass(frozen=True)
class LoadedWeights:
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
    model: SegmentationNetwork,
    source: Source,
    *,
    partial: bool = False,
    labels: Mapping[int, str] | Sequence[str] | None = None,
    channels: Sequence[str] | None = None,
    offline: bool | None = None,
) -> LoadedWeights:
    """Load `source` into `model`, or leave the model as it is and say why.

    Published ImageNet-21k weights fill the encoder; decoder and head keep their initialisation. A
    `.pth` of the reference or a file of this project fills everything. Content tells the format.

    Args:
        model: The model to fill, on any device; values are cast to its dtype.
        source: "imagenet21k" (the hub), the path of a `.npz`, `.pth` or `.safetensors` file, of a
            bundle or of a run; or two paths, in any order: one file for the ResNet backbone, one
            for the transformer (R50-ViT-L_16 was published in no other way).
        partial: Take also a network for other classes or channels: classes and channels of one
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
    if isinstance(source, str) and source in SOURCES:
        origins = [Origin(fetch(file, offline=offline)) for file in files_for(config.name, source)]
    else:
        paths = [source] if isinstance(source, str | Path) else list(source)
        if not 1 <= len(paths) <= 2:
            raise ConfigError(f"Expected one weight file or two, found {len(paths)}.")
        origins = [origin_of(Path(path)) for path in paths]
    single = len(origins) == 1
    renamed = (
        read_renamed(origins[0], config.family) if single else _backbone_and_blocks(config, origins)
    )
    rows: Rows | None = None
    notes: list[str] = []
    if renamed.whole and partial:
        named = labels if labels is None or isinstance(labels, Mapping) else dict(enumerate(labels))
        renamed, rows, notes = fitted(renamed, origins[0], model, named, channels)
    hint = ""
    if single and len(parts := PARTS.get(config.name, ())) == 2:
        hint = (
            f"{config.name} was published in two files: give both, {' and '.join(parts)}, one for "
            "the backbone and one for the blocks."
        )
    files = " with ".join(str(origin.file) for origin in origins)
    fresh: Sequence[str] = () if single else _FRESH
    if isinstance(config, TransUNet3DConfig):
        if not renamed.whole:
            fresh = official3d.fresh_beside_blocks(model.state_dict())
        elif not (renamed.ours or origins[0].config):
            official3d.check_layer_scale(renamed, config, files)
    state = fit(renamed, model, fresh, files, hint)
    if doubt := doubt_about_positions(renamed, model):
        _LOGGER.warning("%s: %s", origins[0].file, doubt)
    model.load_state_dict(state, strict=False)
    notes += [] if renamed.whole else ["an encoder: decoder and head start fresh"]
    if model.position_name:
        notes.append(about_positions(renamed, model))
    where = " with ".join(str(origin.bundle or origin.file) for origin in origins)
    return LoadedWeights(where, len(state), len(model.state_dict()), tuple(notes), rows)


def read_renamed(origin: Origin, family: str | None = None) -> RenamedState:
    """Return what the weight file of `origin` holds, under the names of networks of `family`.

    Raises:
        WeightsError: as `renamed_by_scheme`, and when it is damaged.
    """
    container, entries = read_entries(origin.file)
    renamed = renamed_by_scheme(entries, container, origin.file, family)
    return replace(renamed, grid=origin.config.grid) if origin.config else renamed


def network_settings(origin: Origin) -> dict[str, Any]:
    """Return what `origin` tells of its network: model, n_skip, image_size and so on, where known.

    A bundle tells all (no context means none), of a 3D network in `architecture` in what it differs
    from its variant, too; of a bare file the shapes tell the variant, and of a whole TransUNet the
    skip connections. {} for none of the known variants.

    Raises:
        WeightsError: when the file is damaged, or its entries have nobody's names.
    """
    if config := origin.config:
        whole = {
            "model": config.name,
            "n_skip": getattr(config, "n_skip", None),
            "image_size": config.image_size,
        }
        whole |= {"context": origin.context} if origin.context else {}
        whole |= {"clicks": True} if config.clicks else {}
        if isinstance(config, TransUNet3DConfig) and config.name in VARIANTS:
            own, usual = config.model_dump(), VARIANTS[config.name].model_dump()
            names = own.keys() - {"image_size", "num_classes", "regions", "in_channels", "clicks"}
            # The plan in any case, or another would be made for the size of the patches.
            changed = [n for n in names if own[n] != usual[n] or n in ("poolings", "kernels")]
            whole["architecture"] = {name: own[name] for name in sorted(changed)}
        return whole if config.name in VARIANTS else {}
    renamed = read_renamed(origin)
    name, skips = variant_of(renamed.state), skips_of(renamed.state)
    if name is None or renamed.scheme == official3d.SCHEME:
        return {}
    return {"model": name} | ({} if skips is None else {"n_skip": skips})


def renamed_by_scheme(
    entries: Mapping[str, Tensor], container: str, path: Path, family: str | None = None
) -> RenamedState:
    """Return `entries` of the file `path` under the names of networks of `family`.

    None stands for the family that the entries are of.

    Raises:
        WeightsError: when their names are nobody's, or of volumes where images are wanted.
    """
    of_volumes = official3d.recognises(entries)
    if of_volumes and family == "transunet2d":
        raise WeightsError(
            f"{path}: the weights of {official3d.described(entries)}; the model takes images. Give "
            "those of a 2D network, or load them into a 3D one, such as TransUNet3D."
        )
    family = family or ("transunet3d" if of_volumes else "transunet2d")
    if family not in _SCHEMES:
        return RenamedState("the network's own names", True, dict(entries), ours=True)
    for scheme in _SCHEMES[family]:
        if scheme.recognises(entries):
            renamed: RenamedState = scheme.renamed(entries)
            if family == "transunet3d" and scheme is not official3d:
                return official3d.blocks_of_2d(renamed, entries)
            # The reference writes no safetensors.
            return replace(renamed, ours=renamed.whole and container == "safetensors")
    some = ", ".join(f"{name} {tuple(value.shape)}" for name, value in list(entries.items())[:5])
    raise WeightsError(
        f"{path}: holds {len(entries)} entries whose names are neither TransUNet's, nor Google's, "
        f"nor timm's: {some}. Expected one of the files that `transunet weights list` shows, or a "
        "checkpoint of a TransUNet."
    )


def _backbone_and_blocks(config: Architecture, origins: Sequence[Origin]) -> RenamedState:
    if not (isinstance(config, TransUNetConfig) and config.hybrid):
        raise ConfigError(f"{config.name} has no backbone, so it takes one weight file, not two.")
    paths, parts = [o.file for o in origins], [read_renamed(origin) for origin in origins]
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
        | {
            name: value
            for name, value in blocks.state.items()
            if name.startswith("transformer.") and name not in _FRESH
        },
        origin=backbone.origin | blocks.origin,
        unknown=backbone.unknown | blocks.unknown,
    )

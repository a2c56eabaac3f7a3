"""The entry: weights from the catalogue or from files into a model, all or nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from transunet.errors import ConfigError, WeightsError
from transunet.models.config import TransUNetConfig
from transunet.models.transunet import TransUNet
from transunet.weights import google, official, timm
from transunet.weights.catalog import PARTS, SOURCES, files_for
from transunet.weights.download import Progress, fetch
from transunet.weights.fit import Shapes, fit
from transunet.weights.reading import read_entries
from transunet.weights.remapped import BACKBONE, EMBEDDINGS, PATCHES, Remapped

Source = str | Path | Sequence[str | Path]
"""A name of the catalogue ("imagenet21k"), a file, or one file each for backbone and blocks."""

_SCHEMES = {"google": google, "timm": timm, "official": official}
_FRESH = (PATCHES, f"{EMBEDDINGS}.patch_embeddings.bias")  # between the parts of two files


def load_weights(
    model: TransUNet,
    source: Source,
    *,
    offline: bool | None = None,
    progress: Progress | None = None,
) -> None:
    """Load `source` into `model`, or leave the model as it is and say why.

    Published ImageNet-21k weights fill the encoder; decoder and head keep their initialisation. A
    `.pth` of the reference or a file of this project fills everything. Content tells the format.

    Args:
        model: The model to fill, on any device; values are cast to its dtype.
        source: "imagenet21k" (the hub), "imagenet21k-google", the path of a `.npz`, `.pth` or
            `.safetensors` file or of a bundle; or two paths, in any order: one file for the ResNet
            backbone, one for the transformer (R50-ViT-L_16 was published in no other way).
        offline: Use no network; None follows TRANSUNET_OFFLINE and HF_HUB_OFFLINE.
        progress: Told about every piece of a download that arrives.

    Raises:
        ConfigError: when there is no such file, or no such weights for this variant.
        WeightsError: when a file cannot be had, is damaged, or does not fit; it names the entries.
    """
    paths = _paths(model.config, source, offline, progress)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state = read_state(model.config, expected, paths)
    model.load_state_dict(state, strict=False)


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
    if len(paths) == 1:
        return fit(read_remapped(paths[0]), config, expected, str(paths[0]), _hint(config))
    both = _joined(config, paths)
    expected = {name: shape for name, shape in expected.items() if name not in _FRESH}
    return fit(both, config, expected, " with ".join(map(str, paths)))


def read_remapped(path: Path) -> Remapped:
    """Return what the weight file `path` holds, under our names.

    Raises:
        ConfigError: when there is nothing at `path`.
        WeightsError: when it is damaged, or its entries have nobody's names.
    """
    container, entries = read_entries(path)
    return remap(entries, container, path)


def remap(entries: Mapping[str, Tensor], container: str, path: Path) -> Remapped:
    """Return `entries` of the file `path` under our names.

    Raises:
        WeightsError: when their names are nobody's.
    """
    for scheme in _SCHEMES.values():
        if scheme.recognises(entries):
            remapped: Remapped = scheme.remap(entries)
            # The reference writes no safetensors, and this project trains grids of any shape.
            ours = remapped.whole and container == "safetensors"
            return replace(remapped, square=not ours)
    some = ", ".join(f"{name} {tuple(value.shape)}" for name, value in list(entries.items())[:5])
    raise WeightsError(
        f"{path}: holds {len(entries)} entries whose names are neither TransUNet's, nor Google's, "
        f"nor timm's: {some}. Expected one of the files that `transunet weights list` shows, or a "
        "checkpoint of a TransUNet."
    )


def _paths(
    config: TransUNetConfig, source: Source, offline: bool | None, progress: Progress | None
) -> list[Path]:
    if isinstance(source, str) and source in SOURCES:
        files = files_for(config.name, source)
        return [fetch(file, offline=offline, progress=progress) for file in files]
    chosen = [source] if isinstance(source, str | Path) else list(source)
    if not 1 <= len(chosen) <= 2:
        raise ConfigError(f"Expected one weight file or two, found {len(chosen)}.")
    return [_existing(Path(path).expanduser()) for path in chosen]


def _existing(path: Path) -> Path:
    if path.exists():
        return path
    raise ConfigError(
        f"{path}: there is no such file, and no published weights are called that. Give the path "
        f"of a .npz, .pth or .safetensors file, or one of: {', '.join(SOURCES)}."
    )


def _joined(config: TransUNetConfig, paths: Sequence[Path]) -> Remapped:
    if not config.hybrid:
        raise ConfigError(f"{config.name} has no backbone, so it takes one weight file, not two.")
    parts = [read_remapped(path) for path in paths]
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

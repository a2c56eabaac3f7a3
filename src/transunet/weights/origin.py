"""Where weights come from: the file that holds them, and what a bundle says of them besides."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from transunet.errors import ConfigError
from transunet.files import read_json
from transunet.models.architecture import Architecture
from transunet.models.families import architecture_of
from transunet.weights.catalog import SOURCES

CHECKPOINT = "checkpoint.pt"
"""The name of a run's checkpoint."""
_MODEL, _CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True)
class Origin:
    """A weight file, and its bundle where it has one."""

    file: Path
    bundle: Path | None = None
    """The folder whose `config.json` describes the file: its own bundle, or another of its run."""
    config: Architecture | None = None
    """The architecture that the bundle names."""
    labels: Mapping[int, str] | None = None
    """Class index -> name, as the bundle names them; of a network of regions theirs, from 1."""
    channels: tuple[str, ...] | None = None
    """The names of the image's channels."""
    context: int = 0
    """Neighbours on each side that the bundle's network sees with each slice."""


def origin_of(path: Path) -> Origin:
    """Return what `path` stands for: a weight file, a bundle's folder, or a run's (its best).

    Raises:
        ConfigError: when there is nothing of the kind.
        DataError: when the bundle's configuration cannot be read.
    """
    path = path.expanduser()
    if path.is_dir():
        return _described(*_in_folder(path))
    if not path.exists():
        raise ConfigError(
            f"{path}: there is no such file, and no published weights are called that. Give the "
            "path of a .npz, .pth or .safetensors file, of a bundle or of a run, or one of: "
            f"{', '.join(SOURCES)}.{about_hub(path)}"
        )
    if path.name == CHECKPOINT and (path.parent / "run.json").is_file():
        return _described(path, path.parent / "last")
    return _described(path, path.parent if path.name == _MODEL else None)


def local_origin(weights: str | Path) -> Origin | None:
    """Return what `weights` stand for on this machine.

    None for a name of the catalogue, and where there is nothing of the kind.

    Raises:
        ConfigError, DataError: as `origin_of`.
    """
    if str(weights) in {"auto", "none", *SOURCES} or not Path(weights).expanduser().exists():
        return None
    return origin_of(Path(weights))


def about_hub(weights: str | Path) -> str:
    """Return how to begin from a bundle of the hub, where `weights` may name one; "" otherwise."""
    name = re.fullmatch(r"(?:hf:/+)?([\w-][\w.-]*/[\w.-]+)", str(weights))
    if name is None or Path(name[1]).suffix in {".npz", ".pth", ".pt", ".ckpt", ".safetensors"}:
        return ""
    return (
        f" If this is a bundle's id on the hub, get it first: hf download {name[1]} --local-dir "
        "FOLDER; then give FOLDER."
    )


def _in_folder(folder: Path) -> tuple[Path, Path | None]:
    for bundle in (folder, folder / "best", folder / "last"):
        if (bundle / _MODEL).is_file():
            return bundle / _MODEL, bundle
    if (folder / CHECKPOINT).is_file():
        return folder / CHECKPOINT, None
    folds = sorted(fold.name for fold in folder.glob("fold-*") if fold.is_dir())
    hint = f" It holds folds: give one of them, {', '.join(folds)}." if folds else ""
    raise ConfigError(
        f"{folder / _MODEL}: there is no such file, and no best or last beside it either. Expected "
        f"the folder of a bundle or of a run.{hint}"
    )


def _described(file: Path, bundle: Path | None) -> Origin:
    if bundle is None or not (bundle / _CONFIG).is_file():
        return Origin(file)
    path = bundle / _CONFIG
    values = read_json(path, "Restore the bundle's configuration.")
    if not isinstance(values, dict) or not isinstance(values.get("architecture"), dict):
        return Origin(file)  # of another library: the hub's folders of timm hold one, too
    labels: dict[int, str] | None = None
    channels: tuple[str, ...] | None = None
    with suppress(AttributeError, KeyError, TypeError, ValueError):
        labels = {int(index): str(name) for index, name in values["labels"].items()}
        if regions := values.get("regions"):
            labels = {number: str(each["name"]) for number, each in enumerate(regions, 1)}
    with suppress(TypeError, KeyError):
        channels = tuple(str(channel["name"]) for channel in values["preprocessing"]["channels"])
    try:
        config = architecture_of(values["architecture"])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    sampling = values.get("sampling")
    context = sampling.get("context") if isinstance(sampling, dict) else 0
    return Origin(file, bundle, config, labels, channels, context or 0)

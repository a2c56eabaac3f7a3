"""The model folder: `model.safetensors` and `config.json`, all that predicting needs."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import model_validator
from safetensors.torch import save_file

from transunet.atomic import atomic_path, writable_folder
from transunet.configuration import Configuration
from transunet.data.preprocessing import Preprocessing
from transunet.errors import ConfigError, DataError
from transunet.hub import download_file, upload_folder
from transunet.models.config import TransUNetConfig
from transunet.models.transunet import TransUNet
from transunet.weights.load import load_weights

CONFIG = "config.json"
MODEL = "model.safetensors"


class BundleConfig(Configuration):
    """Everything but the weights: architecture, preprocessing, what the labels are called.

    Raises:
        ConfigError: when the parts contradict each other.
    """

    format_version: Literal[1] = 1
    architecture: TransUNetConfig
    preprocessing: Preprocessing
    labels: Mapping[int, str]
    """Class index -> name; 0 is the background."""
    versions: Mapping[str, str] = {}
    """Packages that wrote the bundle."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        classes, channels = self.architecture.num_classes, self.architecture.in_channels
        if sorted(self.labels) != list(range(classes)):
            found = ", ".join(map(str, sorted(self.labels)))
            raise ValueError(f"labels {found} do not number the model's {classes} classes from 0")
        if len(self.preprocessing.channels) != channels:
            raise ValueError(
                f"preprocessing describes {len(self.preprocessing.channels)} channels, "
                f"the model takes {channels}"
            )
        return self


def save_pretrained(model: TransUNet, config: BundleConfig, folder: Path | str) -> Path:
    """Write a bundle to `folder`, each file beside its place and then renamed; return `folder`.

    Raises:
        ConfigError: when the folder cannot be written to.
    """
    folder = writable_folder(Path(folder))
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_path(folder / MODEL) as path:
        path.touch()
        mode = path.stat().st_mode
        save_file(state, path, metadata={"format": "pt"})
        path.chmod(mode)  # safetensors makes files that only their owner can read
    config = config.replace(architecture=model.config, versions=_versions())
    with atomic_path(folder / CONFIG) as path:
        path.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return folder


def from_pretrained(
    source: Path | str, device: torch.device | str = "cpu"
) -> tuple[TransUNet, BundleConfig]:
    """Load a bundle from a folder or from the hub (`user/name`): the model in evaluation mode.

    Raises:
        ConfigError: when there is no such bundle, or its configuration cannot work.
        DataError: when its configuration is not readable.
        WeightsError: when its weights are damaged or belong to another architecture.
    """
    config = read_config(source)
    with torch.device("meta"):  # the weights are about to be read: do not draw others first
        model = TransUNet(config.architecture)
    model.to_empty(device=device)
    load_weights(model, _file(source, MODEL))
    return model.eval(), config


def read_config(source: Path | str) -> BundleConfig:
    """Read the configuration of the bundle `source`, a folder or a hub id, without its weights.

    Raises:
        ConfigError, DataError: as `from_pretrained`.
    """
    path = _file(source, CONFIG)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read as JSON ({error}). Restore the bundle's configuration."
        ) from None
    return BundleConfig.from_json(values, str(path))


def push_to_hub(model: TransUNet, config: BundleConfig, repository: str) -> str:
    """Upload a bundle to the hub as `user/name` and return its address.

    Raises:
        ConfigError: without a network or permission; the message says what to do.
    """
    return upload_folder(repository, lambda folder: save_pretrained(model, config, folder))


def _file(source: Path | str, name: str) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        if (folder / name).is_file():
            return folder / name
        raise ConfigError(
            f"{folder} is not a bundle: it has no {name}. Expected a folder with {MODEL} and "
            f"{CONFIG}, such as RUN/best after `transunet train`."
        )
    if (
        isinstance(source, str)
        and source.count("/") == 1
        and not source.startswith((".", "~", "/"))
    ):
        return download_file(source, name)
    raise ConfigError(
        f"There is no bundle {source}. Expected a folder with {MODEL} and {CONFIG}, or a hub id "
        "such as user/name."
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("transunet", "torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found

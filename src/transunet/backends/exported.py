"""An exported file in place of a bundle: `.onnx`, `.xml` (with its `.bin`) or `.pt2`."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from transunet.backends.engines import Choice, best_device, check_names, installed
from transunet.backends.exported_metadata import Metadata
from transunet.backends.exported_texts import READERS, read_metadata
from transunet.backends.onnxruntime import OnnxNetwork
from transunet.backends.openvino import OpenVinoNetwork
from transunet.backends.protocol import Network
from transunet.bundle.bundle_config import BundleConfig
from transunet.errors import ConfigError
from transunet.files import sha256_of


@dataclass(frozen=True)
class File:
    """An exported file and what it says of itself."""

    path: Path
    metadata: Metadata
    fingerprint: str

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the slices the network gets."""
        return self.metadata.config.architecture.image_size


Open = Callable[[File, Choice], Network]


def _onnxruntime(file: File, choice: Choice) -> Network:
    return OnnxNetwork(file.path, file.image_size, file.fingerprint)


def _openvino(file: File, choice: Choice) -> Network:
    return OpenVinoNetwork(file.path, file.image_size, file.fingerprint, choice.precision)


def _torch(file: File, choice: Choice) -> Network:
    from transunet.backends.pytorch import program_network

    compiled = choice.engine == "compiled"
    return program_network(
        file.path, file.image_size, file.fingerprint, choice.device, compiled=compiled
    )


OPENERS: Mapping[str, Mapping[str, Open]] = MappingProxyType(
    {
        ".onnx": {"onnxruntime": _onnxruntime, "openvino": _openvino},
        ".xml": {"openvino": _openvino},
        ".pt2": {"eager": _torch, "compiled": _torch},
    }
)
"""Suffix -> the engines that read such a file, the usual one first."""


def is_exported(source: Path | str) -> bool:
    """Whether `source` names an exported file and not a bundle."""
    path = Path(source).expanduser()
    return path.suffix in READERS and not path.is_dir()


def open_exported(
    path: Path,
    engine: str = "auto",
    precision: str = "auto",
    device: str | None = None,
    trust: bool = False,
) -> tuple[Network, BundleConfig, Choice]:
    """Return the network of the exported file at `path`, its configuration, and what computes it.

    Args:
        path: the file, as `transunet export` wrote it.
        engine: one that reads such files; "auto" takes the usual one, or one that is installed.
        precision: the file's own, "fp32" or "int8"; its operators are chosen for that.
        device: for `.pt2` any; the others compute on the CPU.
        trust: load a `.pt2`, which can run any code that is in it.

    Raises:
        ConfigError: when there is no such file or it is none of ours, for an engine that does not
            read it or is not installed, for a precision it does not have, or without trust.
        DataError: when it is damaged.
    """
    check_names(engine, precision)
    path = path.expanduser()
    if path.suffix == ".pt2" and not trust:
        raise ConfigError(
            f"{path}: loading a .pt2 runs whatever code is in it (PyTorch unpickles parts of it). "
            "If you made it yourself or trust who did, add --trust (in Python: trust=True); a "
            ".onnx or .xml file needs no trust."
        )
    metadata = read_metadata(path)
    choice = _chosen(path, metadata.precision, engine, precision, device)
    file = File(path, metadata, _identity(path, metadata))
    return OPENERS[path.suffix][choice.engine](file, choice), metadata.config, choice


def _chosen(path: Path, own: str, engine: str, precision: str, device: str | None) -> Choice:
    able = OPENERS[path.suffix]
    if engine == "auto":
        engine = next(
            (name for name in able if installed(name, to_convert=False)), next(iter(able))
        )
    if engine not in able:
        raise ConfigError(
            f"{path}: the engine {engine} does not read {path.suffix} files; possible: "
            f"{', '.join(able)}."
        )
    if precision not in ("auto", own):
        raise ConfigError(
            f"{path}: holds a network for {own}, not for {precision}. Leave the precision out, or "
            "give the bundle itself."
        )
    return Choice(engine, own, _place(path, engine, device))


def _place(path: Path, engine: str, device: str | None) -> str:
    if path.suffix == ".pt2":
        return best_device(device)
    if device not in (None, "auto", "cpu"):
        raise ConfigError(
            f"{path}: the engine {engine} computes on cpu, not on {device}. Give the bundle "
            "itself, or a .pt2 file."
        )
    return "cpu"


def _identity(path: Path, metadata: Metadata) -> str:
    """SHA-256 of what the results depend on: what int8 makes of the weights is in the file only."""
    if metadata.precision == "fp32":
        return metadata.fingerprint
    beside = path.with_suffix(".bin")
    files = [path, beside] if path.suffix == ".xml" and beside.is_file() else [path]
    found = [sha256_of(file) for file in files]
    return hashlib.sha256("\n".join([metadata.fingerprint, *found]).encode()).hexdigest()

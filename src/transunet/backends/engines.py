"""The engines: what computes a network, each a file of this folder and an entry of `ENGINES`.

All give the same call (`Network`). Their names, precisions and files are written here only: the
command line's choices, the formats of `transunet export` and what `auto` takes follow from them.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transunet.backends.exported import AXES, FILE_PRECISIONS
from transunet.backends.protocol import Network
from transunet.bundle.bundle_config import BundleConfig
from transunet.errors import ConfigError

if TYPE_CHECKING:
    from transunet.models.segmentation_network import SegmentationNetwork


Open = Callable[[Path | str, tuple[int, ...], str, str, str], Network]
"""From a bundle or a file, sides of the samples, fingerprint, device and precision."""
Write = Callable[["SegmentationNetwork", BundleConfig, Path, str], None]
"""Writes a model with its bundle's configuration to a file, to be computed in a precision; for int8
the configuration has ranges."""


@dataclass(frozen=True)
class Engine:
    """One way to compute a network, and the file that it writes of one."""

    open: Open
    write: Write
    texts: Callable[[Path], Mapping[str, str]]
    """Reads the metadata of a file."""
    packages: tuple[str, ...]
    """What has to be installed: the engine itself first, then what converts a bundle for it."""
    precisions: Mapping[str, tuple[str, ...]]
    """Kind of device -> the precisions in which it computes a bundle there."""
    reads: tuple[str, ...]
    """Suffixes of exported files that it opens."""
    extra: str = ""
    """The extra that brings the packages; empty for what every installation has."""
    auto: bool = True
    """Whether `auto` may take it."""
    converts: bool = False
    """Whether a bundle is written as a file first, which is then opened."""
    format: str = ""
    """Of its files, in `transunet export --format`; empty where another engine writes the same."""
    suffix: str = ""
    weights_suffix: str = ""
    """Of the file with the weights beside it."""
    free_axes: tuple[str, ...] = ("batch",)
    """Axes of the input that may have any length."""
    opset: int | None = None
    runs_code: bool = False
    """Whether loading a file runs code that is in it."""

    @property
    def int8(self) -> bool:
        """Whether it writes and computes int8."""
        return "int8" in self.precisions.get("cpu", ())


def _in(module: str, function: str) -> Callable[..., Any]:
    """Return a function of an engine's file, which is imported when it is called.

    torch takes seconds to import, and is missing where exported files alone are computed.
    """

    def call(*arguments: Any) -> Any:
        return getattr(import_module(f"transunet.backends.{module}"), function)(*arguments)

    return call


ENGINES: dict[str, Engine] = {
    "openvino": Engine(
        open=_in("openvino", "OpenVinoNetwork"),
        write=_in("openvino", "write"),
        texts=_in("openvino", "texts_of"),
        packages=("openvino",),
        precisions={"cpu": ("fp32", "bf16", "fp16", "int8")},
        reads=(".xml", ".onnx"),
        extra="openvino",
        converts=True,
        format="openvino",
        suffix=".xml",
        weights_suffix=".bin",
    ),
    "onnxruntime": Engine(
        open=_in("onnxruntime", "OnnxNetwork"),
        write=_in("onnxruntime", "write"),
        texts=_in("onnxruntime", "texts_of"),
        packages=("onnxruntime", "onnx", "onnxscript"),
        precisions={"cpu": ("fp32", "int8")},
        reads=(".onnx",),
        extra="onnx",
        converts=True,
        format="onnx",
        suffix=".onnx",
        free_axes=("batch", *AXES),
        opset=20,
    ),
    "eager": Engine(
        open=_in("pytorch", "open_pytorch"),
        write=_in("pytorch", "write"),
        texts=_in("pytorch", "texts_of"),
        packages=("torch",),
        precisions={
            "cpu": ("fp32", "bf16"),
            "cuda": ("fp32", "bf16", "fp16"),
            "mps": ("fp32", "fp16"),
        },
        reads=(".pt2",),
        format="torch-export",
        suffix=".pt2",
        runs_code=True,
    ),
    "compiled": Engine(
        open=_in("pytorch", "open_compiled"),
        write=_in("pytorch", "write"),
        texts=_in("pytorch", "texts_of"),
        packages=("torch",),
        precisions={"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16")},
        reads=(".pt2",),
        auto=False,
        runs_code=True,
    ),
}
"""Name -> engine, the fastest first (docs/how-to/engines.md)."""


def names_of(kind: str) -> list[str]:
    """Return what may be asked for as an "engine", or as a "precision"."""
    if kind == "engine":
        return ["auto", *ENGINES]
    computed = [able for engine in ENGINES.values() for able in engine.precisions.values()]
    return list(dict.fromkeys(["auto", *chain(*computed), *FILE_PRECISIONS]))


def check_name(kind: str, name: str) -> None:
    """Refuse a name that is no "engine", or no "precision".

    Raises:
        ConfigError: naming those that there are.
    """
    if name not in names_of(kind):
        raise ConfigError(f"There is no {kind} {name!r}; known: {', '.join(names_of(kind))}.")


def is_installed(name: str, to_convert: bool = True) -> bool:
    """Whether the engine `name` can be found, and all that it needs to convert a bundle."""
    packages = ENGINES[name].packages
    needed = packages if to_convert else packages[:1]
    return all(find_spec(package) is not None for package in needed)


def device_for(name: str, device: str | None, source: Path | str) -> str:
    """Return where the engine `name` computes `source`: on `device`, or the best one if None.

    Raises:
        ConfigError: for a device that is not here, or on which this engine does not compute.
    """
    kinds = ENGINES[name].precisions
    if device is None or device == "auto":
        device = "cpu" if set(kinds) == {"cpu"} else best_device(None)
    elif device.partition(":")[0] in kinds:
        device = best_device(device)
    if device.partition(":")[0] not in kinds:
        raise ConfigError(
            f"{source}: the engine {name} computes on {', '.join(kinds)}, not on {device}. Choose "
            "another engine or device."
        )
    return device


def best_device(name: str | None) -> str:
    """Return the device called `name`, or the best one there is; without torch where that is sure.

    Raises:
        ConfigError: for a device that is not here.
    """
    if name == "cpu" or (name in (None, "auto") and not _may_have_accelerator()):
        return "cpu"
    from transunet.device import choose_device

    return str(choose_device(name))


def own_device(name: str | None) -> str | None:
    """Return the device of this process: `name`, or under torchrun each process's own GPU."""
    if name is not None or "LOCAL_RANK" not in os.environ or not _may_have_accelerator():
        return name
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{int(os.environ['LOCAL_RANK']) % count}" if count else name


def _may_have_accelerator() -> bool:
    """Whether asking torch, which takes seconds to import, could find more than a CPU."""
    if find_spec("torch") is None:
        return False
    if not sys.platform.startswith("linux"):
        return True
    # NVIDIA's driver, that of its small boards, AMD's, and Windows' below WSL.
    return any(list(Path("/dev").glob(name)) for name in ("nvidia*", "nvmap", "kfd", "dxg"))

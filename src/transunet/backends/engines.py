"""What computes a network: which engines there are, what each can do, and which one is taken.

All give the same call (`Network`). The fastest that is at hand and exact comes first; another
precision than fp32 only where it is asked for, since labels may change with it.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from transunet.backends.protocol import Network
from transunet.bundle.bundle_config import MODEL, BundleConfig, locate
from transunet.errors import ConfigError
from transunet.optional import require

EngineName = Literal["auto", "eager", "compiled", "onnxruntime", "openvino"]
Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]

Open = Callable[[Path | str, BundleConfig, str, str], Network]
"""From a bundle, its configuration, a device and a precision to a network."""


@dataclass(frozen=True)
class Engine:
    """One way to compute a bundle's network."""

    precisions: Mapping[str, tuple[str, ...]]
    """Kind of device -> the precisions it computes there."""
    packages: tuple[str, ...]
    """What has to be installed: the engine itself first, then what converts a bundle for it."""
    extra: str
    """The extra that brings them; empty for what every installation has."""
    open: Open


@dataclass(frozen=True)
class Choice:
    """An engine with all that was left open decided."""

    engine: str
    precision: str
    device: str


def _eager(source: Path | str, config: BundleConfig, device: str, precision: str) -> Network:
    return _in_torch(source, device, precision)


def _compiled(source: Path | str, config: BundleConfig, device: str, precision: str) -> Network:
    return _in_torch(source, device, precision, compiled=True)


def _in_torch(source: Path | str, device: str, precision: str, compiled: bool = False) -> Network:
    from transunet.backends.pytorch import fused_network
    from transunet.bundle.io import from_pretrained

    return fused_network(from_pretrained(source)[0], device, precision, compiled)


def _onnxruntime(source: Path | str, config: BundleConfig, device: str, precision: str) -> Network:
    from transunet.backends.conversion import converted
    from transunet.backends.onnxruntime import OnnxNetwork

    path, fingerprint = converted(source, config, "onnxruntime")
    return OnnxNetwork(path, config.architecture.image_size, fingerprint)


def _openvino(source: Path | str, config: BundleConfig, device: str, precision: str) -> Network:
    from transunet.backends.conversion import converted
    from transunet.backends.openvino import OpenVinoNetwork, check_precision

    check_precision(precision)
    kind = "openvino" if precision == "fp32" else f"openvino-{precision}"
    path, fingerprint = converted(source, config, kind)
    return OpenVinoNetwork(path, config.architecture.image_size, fingerprint, precision)


ENGINES: Mapping[str, Engine] = MappingProxyType(
    {
        "eager": Engine(
            {
                "cpu": ("fp32", "bf16"),
                "cuda": ("fp32", "bf16", "fp16"),
                "mps": ("fp32", "fp16"),
            },
            ("torch",),
            "",
            _eager,
        ),
        "compiled": Engine(
            {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16")}, ("torch",), "", _compiled
        ),
        "onnxruntime": Engine(
            {"cpu": ("fp32",)}, ("onnxruntime", "onnx", "onnxscript"), "onnx", _onnxruntime
        ),
        "openvino": Engine({"cpu": ("fp32", "bf16", "fp16")}, ("openvino",), "openvino", _openvino),
    }
)

FASTEST: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"cpu": ("openvino", "onnxruntime", "eager"), "cuda": ("eager",), "mps": ("eager",)}
)
"""Kind of device -> engines that `auto` tries, the fastest first (docs/how-to/engines.md)."""
_LEAST_BYTES = 8 << 20
"""Of weights: `auto` converts no smaller network, since converting takes longer than it saves."""


def candidates(source: Path | str, engine: str, precision: str, device: str | None) -> list[Choice]:
    """Return what may compute the bundle `source`, best first.

    Args:
        source: a bundle, which is there.
        engine: one of `ENGINES`, or "auto".
        precision: "fp32", "bf16", "fp16", or "auto" for fp32.
        device: "cpu", "cuda", "cuda:1", "mps"; the best one there is if None.

    Raises:
        ConfigError: for what no engine can do, or an engine that is not installed; the message says
            what can be had.
    """
    check_names(engine, precision)
    if precision == "int8":
        raise ConfigError(
            f"{source}: a bundle has no int8 weights, since they depend on images to calibrate "
            "with. Make a file with `transunet export --int8` and predict with that."
        )
    precision = "fp32" if precision == "auto" else precision
    if engine != "auto":
        return [_asked_for(engine, precision, device)]
    place = best_device(device)
    found = [
        Choice(name, precision, place)
        for name in FASTEST[_kind(place)]
        if precision in ENGINES[name].precisions[_kind(place)] and _worth_it(name, source)
    ]
    if not found:
        able = [p for name in FASTEST[_kind(place)] for p in ENGINES[name].precisions[_kind(place)]]
        raise ConfigError(
            f"Nothing computes in {precision} on {place}; possible there: "
            f"{', '.join(dict.fromkeys(able))}."
        )
    return found


def check_names(engine: str, precision: str) -> None:
    """Refuse what is no engine or precision.

    Raises:
        ConfigError: naming those that there are.
    """
    known = {"engine": ("auto", *ENGINES), "precision": ("auto", "fp32", "bf16", "fp16", "int8")}
    for what, name in (("engine", engine), ("precision", precision)):
        if name not in known[what]:
            raise ConfigError(f"There is no {what} {name!r}; known: {', '.join(known[what])}.")


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


def installed(name: str, to_convert: bool = True) -> bool:
    """Whether the engine `name` can be found, and all that it needs to convert a bundle."""
    packages = ENGINES[name].packages
    needed = packages if to_convert else packages[:1]
    return all(find_spec(package) is not None for package in needed)


def _asked_for(engine: str, precision: str, device: str | None) -> Choice:
    able = ENGINES[engine]
    for package in able.packages if able.extra else ():
        require(package, able.extra)
    only_cpu = device in (None, "auto") and set(able.precisions) == {"cpu"}
    place = "cpu" if only_cpu else best_device(device)
    if _kind(place) not in able.precisions:
        raise ConfigError(
            f"The engine {engine} computes on {', '.join(able.precisions)}, not on {place}. "
            "Choose another engine or device."
        )
    if precision not in able.precisions[_kind(place)]:
        raise ConfigError(
            f"The engine {engine} does not compute in {precision} on {place}; possible: "
            f"{', '.join(able.precisions[_kind(place)])}. {_who_can(precision, _kind(place))}"
        )
    return Choice(engine, precision, place)


def _who_can(precision: str, kind: str) -> str:
    able = [name for name, one in ENGINES.items() if precision in one.precisions.get(kind, ())]
    return f"Engines that do: {', '.join(able)}." if able else "No engine does."


def _worth_it(name: str, source: Path | str) -> bool:
    if not ENGINES[name].extra:
        return True
    return installed(name) and locate(source, MODEL).stat().st_size >= _LEAST_BYTES


def _may_have_accelerator() -> bool:
    """Whether asking torch, which takes seconds to import, could find more than a CPU."""
    if find_spec("torch") is None:
        return False
    if not sys.platform.startswith("linux"):
        return True
    # NVIDIA's driver, that of its small boards, AMD's, and Windows' below WSL.
    patterns = ("nvidia*", "nvmap", "kfd", "dxg")
    return any(True for pattern in patterns for _ in Path("/dev").glob(pattern))


def _kind(device: str) -> str:
    return device.partition(":")[0]

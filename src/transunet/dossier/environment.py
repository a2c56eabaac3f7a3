"""The machine and the packages that a dossier was made with."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

import torch

from transunet.optional import DISTRIBUTION, require

DEVELOPMENT = frozenset({"dev", "docs", "notebook"})
"""Extras of this package that serve its making, and not its use."""


class Installed(NamedTuple):
    """A package that is installed, and the names of those that it asks for and has."""

    package: Distribution
    needs: frozenset[str]


def environment_text(written_with: Mapping[str, str]) -> str:
    """Return `environment.txt`: the machine here, what wrote the network, installed packages.

    Args:
        written_with: package -> version, as the bundle tells them.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    lines = [
        "# The machine on which this dossier was made",
        f"platform: {platform.platform()}",
        f"processor: {_processor()}, {os.cpu_count()} logical cores, {capability} in PyTorch",
        f"threads of PyTorch: {torch.get_num_threads()}",
        *(
            f"GPU: {torch.cuda.get_device_name(index)}, CUDA {torch.version.cuda}"
            for index in range(torch.cuda.device_count())
        ),
        "",
        "# What wrote the network",
        *(f"{name}=={version}" for name, version in written_with.items()),
        "",
        "# Installed here of what transunet and its extras need",
        f"python=={platform.python_version()}",
        *(f"{name}=={each.package.version}" for name, each in installed_closure().items()),
    ]
    return "\n".join(lines) + "\n"


def installed_closure() -> dict[str, Installed]:
    """Return what this package stands on and is installed, itself first; its extras' packages too.

    Raises:
        ConfigError: without the package that reads requirements.
    """
    packaging = require("packaging.requirements", "dossier")
    found: dict[str, Installed] = {}
    waiting: list[tuple[str, frozenset[str]]] = [(DISTRIBUTION, frozenset())]
    while waiting:
        name, extras = waiting.pop(0)
        if name in found:
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        if name == DISTRIBUTION:
            extras = frozenset(package.metadata.get_all("Provides-Extra") or ()) - DEVELOPMENT
        needed = {}
        for text in package.requires or ():
            requirement = packaging.Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *extras)):
                needed[_canonical(requirement.name)] = frozenset(requirement.extras)
        found[name] = Installed(package, frozenset(needed) - {name})
        waiting += needed.items()
    return {name: each._replace(needs=each.needs & found.keys()) for name, each in found.items()}


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()

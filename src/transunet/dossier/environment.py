"""The machine and the packages that a dossier was made with."""

import os
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

import torch

from transunet.optional import DISTRIBUTION, require

DEVELOPMENT = frozenset({"dev", "docs", "notebook"})
"""Extras of this package that serve its making, and not its use."""
_LONGEST_LICENCE = 80  # characters of a name; packages also put whole licences there


class Installed(NamedTuple):
    """A package that is installed."""

    version: str
    summary: str | None
    licence: str | None
    """As it says itself: an SPDX expression, a name, or its classifier's."""
    needs: frozenset[str]
    """Names of the packages that it asks for and that are installed."""


def environment_text(written_with: Mapping[str, str]) -> str:
    """Return `environment.txt`: the machine here, what wrote the network, installed packages.

    Args:
        written_with: package -> version, as the bundle tells them.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    lines = [
        "# The machine on which this dossier was made",
        f"platform: {platform.system()} {platform.release()} {platform.machine()}",
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
        *(f"{name}=={each.version}" for name, each in installed_closure().items()),
    ]
    return "\n".join(lines) + "\n"


@cache
def installed_closure() -> Mapping[str, Installed]:
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
            metadata = distribution(name).metadata
        except PackageNotFoundError:
            continue
        if name == DISTRIBUTION:
            extras = frozenset(metadata.get_all("Provides-Extra") or ()) - DEVELOPMENT
        needed = {}
        for text in metadata.get_all("Requires-Dist") or ():
            requirement = packaging.Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *extras)):
                needed[_canonical(requirement.name)] = frozenset(requirement.extras)
        needs = frozenset(needed) - {name}
        licence = _licence_of(metadata)
        found[name] = Installed(metadata["Version"], metadata["Summary"], licence, needs)
        waiting += needed.items()
    return {name: each._replace(needs=each.needs & found.keys()) for name, each in found.items()}


def _licence_of(metadata: Any) -> str | None:
    stated = metadata["License-Expression"] or metadata["License"]
    if stated and len(stated) <= _LONGEST_LICENCE and "\n" not in stated:
        return str(stated)
    classifiers = metadata.get_all("Classifier") or ()
    named = [each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License ::")]
    return named[0] if named else None


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()

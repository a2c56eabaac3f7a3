"""Optional packages, imported where they are used with an error that names the extra; versions."""

import platform
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType, ModuleType

from transunet.errors import ConfigError

DISTRIBUTION = "transunet-torch"
"""What pip calls this package. `transunet` on PyPI is somebody else's, written for TensorFlow."""
_SPIES: Mapping[str, str] = MappingProxyType({"openvino": "openvino_telemetry"})
"""Package -> what it would report its use with, to Google Analytics, as soon as it is imported. It
does without where that is not installed."""


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, which the extra `extra` brings; it reports to nobody that it was.

    Raises:
        ConfigError: when it is not installed; the message gives the command that installs it.
    """
    if module in _SPIES:
        sys.modules.setdefault(_SPIES[module], None)  # type: ignore[arg-type]  # "there is none"
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"This needs the package {error.name!r}, which is not installed. "
            f"Install it with: pip install '{DISTRIBUTION}[{extra}]'"
        ) from error


def version_of(package: str) -> str | None:
    """Return the version of `package` that is installed, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def own_version() -> str:
    """Return this package's version; "unknown" where its source is used without installing it."""
    return version_of(DISTRIBUTION) or "unknown"


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of those `packages` that are installed."""
    found = {package: version_of(package) for package in packages}
    installed = {package: number for package, number in found.items() if number is not None}
    return {"python": platform.python_version(), **installed}

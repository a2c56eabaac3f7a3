"""Optional packages: imported where they are used, with an error that names the extra."""

from importlib import import_module
from types import ModuleType

from transunet.errors import ConfigError


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, which the extra `extra` brings.

    Raises:
        ConfigError: when it is not installed; the message gives the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"This needs the package {error.name!r}, which is not installed. "
            f"Install it with: pip install 'transunet[{extra}]'"
        ) from error

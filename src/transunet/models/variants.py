"""The variants of all families, as configurations. Imports no torch."""

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from transunet.errors import ConfigError
from transunet.models.architecture import Architecture
from transunet.models.transunet2d.config import TRANSUNET2D_VARIANTS
from transunet.models.transunet3d.config import TRANSUNET3D_VARIANTS

VARIANTS: Mapping[str, Architecture] = MappingProxyType(
    {**TRANSUNET2D_VARIANTS, **TRANSUNET3D_VARIANTS}
)
"""Name of each variant, whatever its family -> its configuration."""


def variant(name: str, **changes: Any) -> Architecture:
    """Return the configuration called `name` with `changes` (a value of None changes nothing).

    Raises:
        ConfigError: for an unknown name or impossible settings.
    """
    if name not in VARIANTS:
        close = get_close_matches(name, VARIANTS, n=1, cutoff=0.3)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"No model is called {name!r}.{hint} Known: {', '.join(VARIANTS)}.")
    return VARIANTS[name].replace(**{k: v for k, v in changes.items() if v is not None})

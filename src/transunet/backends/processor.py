"""What of this processor multiplies 8-bit integers."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

_FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "amx_int8": "AMX",
        "avx512_vnni": "VNNI",
        "avx_vnni": "VNNI",
        "i8mm": "I8MM",
        "asimddp": "DOTPROD",
    }
)
"""What Linux calls it -> its name, the fastest first; both engines take the fastest there is."""


@cache
def integer_unit() -> str:
    """Return its name; empty where there is none, or the system does not tell."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # macOS, Windows
        return ""
    words = {*told.split()}
    return next((name for flag, name in _FLAGS.items() if flag in words), "")

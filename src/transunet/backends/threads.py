"""How many threads an engine gets that does not find out by itself."""

import os
from pathlib import Path

_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/core_cpus_list"


def threads() -> int | None:
    """Return OMP_NUM_THREADS, else the cores this process may run on; None to leave it open.

    Two hardware threads of one core count once: they share the units that multiply matrices.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if wanted.isdigit() and int(wanted):
        return int(wanted)
    if not hasattr(os, "sched_getaffinity"):  # macOS, Windows
        return None
    return len({_core(cpu) for cpu in os.sched_getaffinity(0)})


def spinning() -> bool:
    """Whether threads that wait for work may keep their core busy: OMP_WAIT_POLICY."""
    return os.environ.get("OMP_WAIT_POLICY", "").upper() != "PASSIVE"


def _core(cpu: int) -> str:
    try:
        return Path(_TOPOLOGY.format(cpu)).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return str(cpu)

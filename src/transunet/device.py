"""Which device a model runs on, and how much memory it has left."""

import os
import sys
from pathlib import Path

import torch

from transunet.errors import ConfigError


def choose_device(name: str | torch.device | None = None) -> torch.device:
    """Return the device called `name` ("cpu", "cuda", "cuda:1", "mps"), or the best one there is.

    One of PyTorch's own is taken as it is.

    Raises:
        ConfigError: when there is no such device here; the message names those that there are.
    """
    if isinstance(name, torch.device):
        return name
    available = _available()
    if name is None or name == "auto":
        return torch.device(available[0])
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in available:
        raise ConfigError(f"The device {name!r} is not here; available: {', '.join(available)}.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"The device {name!r} is not here: {torch.cuda.device_count()} GPUs.")
    return device


def _available() -> list[str]:
    accelerators = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [name for name, there in accelerators.items() if there] + ["cpu"]


def free_memory(device: torch.device) -> int:
    """Return the bytes of memory that `device` can still give, within a container's limit."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    left = sys.maxsize
    if limit.exists() and limit.read_text().strip() != "max":
        left = int(limit.read_text()) - int(used.read_text())
    return min(left, _available_main_memory())


def used_memory() -> int:
    """Return the most bytes of main memory that this process has taken; 0 on Windows."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def _available_main_memory() -> int:
    """Return the bytes of main memory that are free; 8 GiB where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvail"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 8 << 30

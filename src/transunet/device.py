"""Which device a model runs on."""

import torch

from transunet.errors import ConfigError


def choose_device(name: str | None = None) -> torch.device:
    """Return the device called `name` ("cpu", "cuda", "cuda:1", "mps"), or the best one there is.

    Raises:
        ConfigError: when there is no such device here; the message names those that there are.
    """
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

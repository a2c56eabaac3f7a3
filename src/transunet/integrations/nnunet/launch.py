"""Running nnU-Net's own commands so that they find the trainers of this package."""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

from transunet.errors import ConfigError
from transunet.optional import require

SEARCHED = "nnUNet_extTrainer"
"""The environment variable with the folders in which nnU-Net looks for more trainers."""
_NEEDS_TIMM = "nnunetv2.training.nnUNetTrainer.primus.primus_trainers"


def trainer_folder() -> Path:
    """Return the folder that belongs into `nnUNet_extTrainer`."""
    return Path(__file__).with_name("external")


def run(command: str, arguments: Sequence[str]) -> None:
    """Run one of nnU-Net's commands in this process.

    Args:
        command: such as "nnUNetv2_train".
        arguments: what would be typed after it.

    Raises:
        ConfigError: when nnU-Net is not installed or has no such command.
    """
    require("nnunetv2", "nnunet")
    scripts = {entry.name: entry for entry in entry_points(group="console_scripts")}
    known = sorted(name for name in scripts if name.startswith("nnUNetv2_"))
    if command not in known:
        raise ConfigError(f"nnU-Net has no command {command!r}; it has: {', '.join(known)}")
    folders = [str(trainer_folder()), os.environ.get(SEARCHED, "")]
    os.environ[SEARCHED] = os.pathsep.join(folder for folder in folders if folder)
    # Before other folders nnU-Net imports every trainer of its own, and some need timm and with it
    # torchvision, which has no build for PyTorch without CUDA in every package index. A module that
    # is not there is passed over.
    try:
        import timm  # noqa: F401
    except Exception:  # a torchvision of another build raises RuntimeError, not ImportError
        sys.modules[_NEEDS_TIMM] = None  # type: ignore[assignment]
    sys.argv = [command, *arguments]
    scripts[command].load()()

"""What resuming needs, in one file that is either whole or not there.

Randomness needs no saving: samples, augmentation and dropout follow from the seed and the step.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from transunet.errors import ConfigError, DataError, TransUNetError, first_line, is_full_disk
from transunet.files import atomic_path

FORMAT = 1


@dataclass
class State:
    """How far a run has come."""

    step: int = 0
    """Optimiser steps done."""
    seconds: float = 0.0
    """Time spent, over all resumptions."""
    data_seconds: float = 0.0
    """Of it, how long steps waited until their batch was read and augmented."""
    validation_seconds: float = 0.0
    """Of it, how long validations took."""
    validations: int = 0
    best: float | None = None
    """Largest mean Dice on the held-out cases, of the classes that occur in them."""
    best_step: int = 0
    stale: int = 0
    """Validations since the best one."""
    validated: int = -1
    """Step of the last validation."""
    data: str = ""
    """Stamp of the data that was trained on."""


def save_checkpoint(path: Path, state: State, parts: dict[str, Any]) -> None:
    """Write `state` and the state dicts of `parts` to `path`, atomically.

    Args:
        path: the file; what stood there stays whole until the new one is.
        state: how far the run has come.
        parts: name -> anything with `state_dict()`.

    Raises:
        TransUNetError: when the disk is full or not writable; the previous checkpoint is untouched.
    """
    contents = {name: part.state_dict() for name, part in parts.items()}
    try:
        with atomic_path(path) as partial, partial.open("wb") as file:
            torch.save({"format": FORMAT, "state": asdict(state), **contents}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        reason = "no space left on the disk" if is_full_disk(error) else first_line(error)
        raise TransUNetError(
            f"Could not write the checkpoint {path} at step {state.step}: {reason}. The previous "
            f"checkpoint is untouched. Make room, then: transunet train --resume {path.parent}"
        ) from error


def load_checkpoint(path: Path, parts: dict[str, Any]) -> State:
    """Restore `parts` in place from `path` and return how far the run had come.

    Raises:
        DataError: when the file is damaged.
        ConfigError: when another version wrote it, or it holds other parts.
    """
    contents = read_checkpoint(path)
    if contents.get("format") != FORMAT:
        raise ConfigError(
            f"{path} has checkpoint format {contents.get('format')!r}; this version reads "
            f"{FORMAT}. Resume with the version that wrote it, or start a new run with --weights "
            f"{path.parent / 'last'}."
        )
    for name, part in parts.items():
        try:
            part.load_state_dict(contents[name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise ConfigError(f"{path} does not fit this run ({name}): {error}") from None
    return State(**contents["state"])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what the checkpoint `path` holds, on the CPU.

    Raises:
        DataError: when the file is damaged.
    """
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes the unpickler say
        raise DataError(
            f"The checkpoint {path} cannot be read: {error}. Start a new run; --weights "
            f"{path.parent / 'last'} takes over what was learned."
        ) from None
    if not isinstance(contents, dict):
        raise DataError(f"{path} is not a checkpoint.")
    return contents

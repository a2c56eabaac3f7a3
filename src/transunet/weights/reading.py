"""Weight files to named tensors. Nothing is ever unpickled, whatever the file claims to be."""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from transunet.errors import ConfigError, WeightsError, first_line

_WRAPPED_UNDER = ("state_dict", "model_state_dict", "model", "net")  # where trainers put it
_KINDS = "a .npz, .pth or .safetensors file, or a bundle folder"


def read_entries(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Return the container's name and the tensors of the weight file `path`, on the CPU.

    The container is told by what the file holds, not by its suffix. A folder is read as a bundle.

    Raises:
        ConfigError: when there is nothing at `path`.
        WeightsError: when it is no weight file, is damaged, or asks to be unpickled.
    """
    path = _existing_file(path)
    container = _container(path)
    readers = {"npz": _read_npz, "pth": _read_pth, "safetensors": _read_safetensors}
    entries = readers[container](path)
    if not entries:
        raise WeightsError(f"{path}: the file holds no weights at all. Expected {_KINDS}.")
    return container, entries


def _existing_file(path: Path) -> Path:
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"{file}: there is no such file. Give {_KINDS}.")
    return file


def _container(path: Path) -> str:
    with path.open("rb") as stream:
        start = stream.read(9)
    if start.startswith(b"PK"):
        return _zip_container(path)
    if start[8:] == b"{":  # a length of eight bytes, then JSON
        return "safetensors"
    if start.startswith(b"\x80"):  # a pickle; checkpoints of before 2020 are bare ones
        return "pth"
    raise WeightsError(f"{path}: not a weight file, or damaged at its start. Expected {_KINDS}.")


def _zip_container(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    return "npz" if any(name.endswith(".npy") for name in names) else "pth"


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: _from_array(path, name, archive[name]) for name in archive.files}
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise _damaged(path, error) from error
        raise WeightsError(
            f"{path}: an entry is not an array but a pickled Python object, which could run any "
            "program. Nothing in it was executed, and no setting makes it load. Get the file from "
            "its publisher again."
        ) from None
    except WeightsError:
        raise
    except Exception as error:  # an untrusted archive can fail in zipfile, zlib, struct and more
        raise _damaged(path, error) from error


def _from_array(path: Path, name: str, array: Any) -> Tensor:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        found = array.dtype if isinstance(array, np.ndarray) else "raw bytes"
        raise WeightsError(f"{path}: the entry {name!r} holds {found}, expected numbers.")
    return torch.from_numpy(np.require(array, np.float32, ["C", "W"]))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _read_pth(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(_refusal(path, str(error))) from None
    except Exception as error:  # a damaged checkpoint fails in zip, pickle or tensor code
        raise _damaged(path, error) from error
    return _state_dict(path, content)


def _refusal(path: Path, reason: str) -> str:
    wanted = re.search(r"GLOBAL ([\w.]+)", reason)
    what = f" (it asks for {wanted.group(1)})" if wanted else ""
    return (
        f"{path}: the checkpoint is damaged, or holds more than tensors{what}. Nothing in it was "
        "executed, and no setting makes it load. Where you trust it, save its state dict alone: "
        "torch.save(model.state_dict(), path)."
    )


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    for key in _WRAPPED_UNDER:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, expected a state dict.")
    strange = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise WeightsError(
            f"{path}: expected a state dict, or one under {', '.join(_WRAPPED_UNDER)}; found "
            f"{', '.join(map(repr, strange[:5]))}, which are no tensors."
        )
    return {str(name): value.detach() for name, value in content.items()}


def _damaged(path: Path, error: Exception) -> WeightsError:
    reason = first_line(error)
    return WeightsError(
        f"{path}: the file is damaged or cut short ({path.stat().st_size} bytes; {reason}). "
        "Copy or download it again."
    )

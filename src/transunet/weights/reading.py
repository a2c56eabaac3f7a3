"""Weight files to named tensors. Nothing is ever unpickled, whatever the file claims to be."""

import argparse
import datetime
import pickle
import re
import threading
import types
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from transunet.data.text import some
from transunet.errors import ConfigError, WeightsError, first_line
from transunet.weights.content import looks_like

_KINDS = "a .npz, .pth or .safetensors file, or a bundle folder"

_PREFERRED = (
    # Averages first: where a trainer keeps one, it is what it validates and publishes.
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "average"),
    *("network_weights", "state_dict", "model_state_dict", "model", "network", "net", "weights"),
)
"""Where trainers put the network: nnU-Net, Lightning, timm, MONAI, this project."""
_DEPTH = 4  # of mappings within mappings that are looked through
_LISTED = 5  # things asked for that a refusal names

_TENSORS_ALONE = """\
  import torch
  def keep(x): return x if torch.is_tensor(x) else (
      {{k: keep(v) for k, v in dict(x.state_dict() if hasattr(x, "state_dict") else x).items()}}
      if hasattr(x, "state_dict") or isinstance(x, dict) else None)
  torch.save(keep(torch.load({!r}, map_location="cpu", weights_only=False)), "weights.pth")"""


class _PlainDictionary:
    """Stands for dictionaries of other types, of which only the contents are of use here."""

    def __new__(cls, *_: Any) -> Any:
        return {}


class _Inert:
    """Stands for an object of which nothing is of use here; none of its own code is run."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


_NUMPY_CORE = ("core", "_core")  # before and since NumPy 2
_DICTIONARIES = (
    "collections.defaultdict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
_PATHS = {
    f"{module}.{pure}{name}Path": kind
    for module in ("pathlib", "pathlib._local")  # before and in Python 3.13
    for pure in ("", "Pure")
    for name, kind in (("Posix", PurePosixPath), ("Windows", PureWindowsPath))
}
_HARMLESS: tuple[Any, ...] = (
    # Values without behaviour, which trainers keep beside the tensors: numbers, times, settings.
    *(argparse.Namespace, types.SimpleNamespace, torch.torch_version.TorchVersion),
    *(list, dict, tuple, int, float, str, bool, frozenset, slice),
    *(datetime.datetime, datetime.date, datetime.timedelta, datetime.timezone),
    *(np.ndarray, np.dtype, *{type(np.dtype(code)) for code in "?bBhHiIlLqQefdgFDUSO"}),
    *((np.empty(0).__reduce__()[0], f"numpy.{c}.multiarray._reconstruct") for c in _NUMPY_CORE),
    *((np.float64().__reduce__()[0], f"numpy.{c}.multiarray.scalar") for c in _NUMPY_CORE),
    # A path becomes one that touches no file: Windows' cannot be made elsewhere.
    *((kind, name) for name, kind in _PATHS.items()),
    *((_PlainDictionary, name) for name in _DICTIONARIES),
)
_INERT = (
    *("torch.nn.modules.loss.", "torch.optim.", "monai.losses.", "omegaconf.", "typing."),
    *("lightning.", "lightning_fabric.", "pytorch_lightning."),
)
"""What objects of settings, losses and schedules are called, of which nothing is of use here."""
_one_at_a_time = threading.Lock()  # torch's list of what is allowed is the process's


def read_entries(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Return the container's name and the tensors of the weight file `path`, on the CPU.

    The container is told by what the file holds, not by its suffix. Of a trainer's checkpoint the
    network's state dict is returned, the average where it holds one.

    Raises:
        ConfigError: when there is nothing at `path`.
        WeightsError: when it is no weight file, is damaged, or asks to be unpickled.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file. Give {_KINDS}.")
    container = _container(path)
    if container == "npz":
        entries = _read_npz(path)
    elif container == "pth":
        entries = _read_pth(path)
    else:
        try:
            entries = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise _damaged(path, error) from error
    if not entries:
        raise WeightsError(f"{path}: the file holds no weights at all. Expected {_KINDS}.")
    return container, entries


def _container(path: Path) -> str:
    with path.open("rb") as stream:
        start = stream.read(512)
    if start.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name.replace("\\", "/") for name in archive.namelist()]
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise _damaged(path, error) from error
        if any(name.endswith(".npy") for name in names):
            return "npz"
        if any(name.endswith("/constants.pkl") for name in names):
            raise WeightsError(
                f"{path}: a TorchScript program, which is not run here. Where it was made, and "
                f"only if you trust it, keep its weights: torch.save(torch.jit.load({path.name!r}, "
                '"cpu").state_dict(), "weights.pth").'
            )
        if not any(name.endswith("data.pkl") for name in names):
            raise WeightsError(
                f"{path}: a zip archive of {', '.join(names[:3]) or 'nothing'}. Unpack it and give "
                f"the file that is in it; expected {_KINDS}."
            )
        return "pth"
    if start[4:9] == b"\0\0\0\0{":  # a length of eight bytes, then JSON
        return "safetensors"
    if start.startswith(b"\x80"):  # a pickle; checkpoints of before 2020 are bare ones
        return "pth"
    if what := looks_like(start):
        raise WeightsError(
            f"{path}: not a weight file, or damaged at its start: it holds {what}. Delete it and "
            f"download it again; expected {_KINDS}."
        )
    raise WeightsError(f"{path}: not a weight file, or damaged at its start. Expected {_KINDS}.")


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        entries = {}
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                array = archive[name]
                if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
                    what = array.dtype if isinstance(array, np.ndarray) else "raw bytes"
                    raise WeightsError(
                        f"{path}: the entry {name!r} holds {what}, expected numbers."
                    )
                numbers = np.require(array, np.float32, ["C", "W"])
                entries[name.replace("\\", "/")] = torch.from_numpy(numbers)
        return entries
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


def _read_pth(path: Path) -> dict[str, Tensor]:
    try:
        with _one_at_a_time, torch.serialization.safe_globals(_allowed(path)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(_refusal(path, str(error))) from None
    except Exception as error:  # a damaged checkpoint fails in zip, pickle or tensor code
        raise _damaged(path, error) from error
    return _state_dict(path, content)


def _allowed(path: Path) -> list[Any]:
    """Return what is allowed here and was not before: the rest is not ours to take away again."""
    before = torch.serialization.get_safe_globals()
    others = [name for name in _asked_for(path) if name not in _DICTIONARIES]
    inert = [(_Inert, name) for name in others if name.startswith(_INERT)]
    return [*(one for one in _HARMLESS if one not in before), *inert]


def _refusal(path: Path, reason: str) -> str:
    with torch.serialization.safe_globals(_allowed(path)):
        asked = _asked_for(path) or re.findall(r"GLOBAL ([\w.]+)", reason)
    what = (
        "holds more than tensors and plain values"
        if asked
        else "is damaged, or holds what is not built here"
    )
    if asked:
        what += f" (it asks for {some(asked, _LISTED)})"
    return (
        f"{path}: the checkpoint {what}. Nothing in it was executed, and no setting makes it "
        "load. Where it was made, and only where you trust it, this keeps its tensors alone:\n"
        + _TENSORS_ALONE.format(path.name)
    )


def _asked_for(path: Path) -> list[str]:
    """Return what the pickle in `path` asks for in vain; [] where that cannot be told."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # of before 2020, or damaged
        return []


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    """Return the network's tensors in a checkpoint, wherever a trainer has put them."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, expected a state dict.")
    held = dict(_state_dicts(content))
    if not held:
        if not content:
            return {}
        raise WeightsError(
            f"{path}: expected a state dict, or one under {', '.join(_PREFERRED)}; found "
            f"{', '.join(repr(name) for name in list(content)[:5])}, which are no tensors."
        )
    most = max(map(len, held.values()))
    whole = {keys: tensors for keys, tensors in held.items() if 2 * len(tensors) >= most}
    for name in _PREFERRED:
        for keys, tensors in whole.items():
            if name in keys:
                return tensors
    if len(whole) > 1:
        raise WeightsError(
            f"{path}: holds several networks: {', '.join('.'.join(keys) for keys in whole)}. Keep "
            "the one that you mean in a file of its own: torch.save(checkpoint[NAME], "
            '"weights.pth").'
        )
    return next(iter(whole.values()))


def _state_dicts(
    content: Mapping[Any, Any], keys: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yield every mapping of names to tensors, and the keys that it lies under."""
    tensors = {name: _tensor(value) for name, value in content.items() if isinstance(name, str)}
    if here := {name: value for name, value in tensors.items() if value is not None}:
        yield keys, here
    for name, value in content.items():
        if isinstance(value, Mapping) and len(keys) < _DEPTH:
            yield from _state_dicts(value, (*keys, str(name)))


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        return torch.from_numpy(np.require(value, requirements=["C", "W"]))
    return value.detach() if isinstance(value, Tensor) else None


def _damaged(path: Path, error: Exception) -> WeightsError:
    reason = first_line(error)
    return WeightsError(
        f"{path}: the file is damaged or cut short ({path.stat().st_size} bytes; {reason}). "
        "Copy or download it again."
    )

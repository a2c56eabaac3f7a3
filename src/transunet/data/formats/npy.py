"""Plain arrays (`.npy`): images and label maps as numpy saves them.

(X, Y, Z) is a volume, (C, X, Y, Z) one with channels, its axes in RAS as arrays given to a
predictor; (H, W) is one slice, (H, W, 3) of bytes a photograph. An array tells no spacing: a voxel
counts as one millimetre, unless `NAME.npy.json` beside it holds `{"spacing_mm": [x, y, z]}` or
`{"affine": [4 x 4]}`, voxels to millimetres in RAS.
"""

import json
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from transunet.data.checks.problems import Problem
from transunet.data.formats.file_format import FileFormat
from transunet.data.volume import Grid, Volume
from transunet.errors import TransUNetError

# What numpy raises on damaged headers; it parses them as a Python literal.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    SyntaxError,
    TokenError,
    struct.error,
    OverflowError,
    RecursionError,
    MemoryError,
)
_SIDECAR_BYTES = 1 << 16


@dataclass(frozen=True)
class Plane:
    """The header of an image with two axes, so that its label map has two as well."""


def read(path: Path) -> Volume:
    """Read an image in its own dtype.

    Raises:
        DataError: when the file is damaged, holds something else than real numbers, or has another
            number of axes; also for a sidecar that is no such JSON.
        GeometryError: when the sidecar's spacing or affine cannot be.
    """
    array = _array(path)
    if _is_photograph(array):
        return Volume(np.moveaxis(array, -1, 0)[..., None], _affine(path), str(path), Plane())
    return _volume(path, array)


def read_labels(path: Path) -> Volume:
    """Read a label map: (X, Y, Z) or (H, W), also of bytes.

    Raises:
        As `read`.
    """
    return _volume(path, _array(path))


def read_grid(path: Path) -> Grid:
    """Read where the voxels lie, without reading them.

    Raises:
        As `read`.
    """
    array = _mapped(path)
    spatial = (
        (*array.shape[:2], 1)
        if _is_photograph(array)
        else (*array.shape, 1)[:3]
        if array.ndim < 4
        else array.shape[1:]
    )
    return Grid((int(spatial[0]), int(spatial[1]), int(spatial[2])), _affine(path), str(path))


def write(volume: Volume, path: Path) -> None:
    """Write (X, Y, Z), (H, W) where the image was one, (C, X, Y, Z) for several channels.

    Beside it the sidecar with the affine, unless that is the identity.
    """
    if not np.array_equal(volume.affine, np.eye(4)):
        text = json.dumps({"affine": volume.affine.tolist()})
        sidecar_of(path).write_text(text + "\n", encoding="utf-8")
    array = volume.array if volume.channels > 1 else volume.array[0]
    plane = isinstance(volume.header, Plane) and volume.array.shape[::3] == (1, 1)
    np.save(path, array[:, :, 0] if plane else array, allow_pickle=False)


def sidecar_of(path: Path) -> Path:
    """Return the file beside `path` that tells the place of its voxels, where there is one."""
    return path.with_name(path.name + ".json")


def _array(path: Path) -> NDArray[Any]:
    """The whole array, read from the map: a header that claims too much never costs memory."""
    return np.array(_mapped(path))


def _mapped(path: Path) -> NDArray[Any]:
    try:
        with warnings.catch_warnings(action="ignore"):  # about headers that Python 2 wrote
            array = open_memmap(path, mode="r")
    except _DAMAGE as error:
        reason = " ".join(str(error).replace(str(path), "").split()) or type(error).__name__
        raise _problem(path, f"it cannot be read as an array ({reason[:200]})", _COPY) from None
    if array.dtype.kind not in "buif":
        raise _problem(path, f"its values are of type {array.dtype}; expected real numbers", _REAL)
    if not 2 <= array.ndim <= 4:
        raise _problem(path, f"it has the shape {array.shape}; expected {_SHAPES}", _ONE)
    return array


def _is_photograph(array: NDArray[Any]) -> bool:
    # No volume of bytes is three slices thin; a network's input of three floats is (C, X, Y, Z).
    return array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8


def _volume(path: Path, array: NDArray[Any]) -> Volume:
    plane = array.ndim == 2
    volume = array[..., None] if plane else array
    channels = volume if volume.ndim == 4 else volume[None]
    return Volume(channels, _affine(path), str(path), Plane() if plane else None)


def _affine(path: Path) -> NDArray[np.float64]:
    sidecar = sidecar_of(path)
    if not sidecar.exists():
        return np.eye(4)
    told = _told(sidecar)
    key = next(iter(told)) if isinstance(told, dict) and len(told) == 1 else None
    if key not in _KEYS:
        raise _problem(sidecar, f"expected one of {', '.join(_KEYS)}", _SIDECAR)
    try:
        numbers = np.array(told[key], dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        numbers = np.empty(0)
    if numbers.shape != _KEYS[key] or not np.isfinite(numbers).all():
        sizes = " x ".join(map(str, _KEYS[key]))
        raise _problem(sidecar, f"its {key} is not {sizes} finite numbers", _SIDECAR)
    if key == "affine":
        return numbers
    if numbers.min() <= 0:
        found = f"its spacing_mm is {numbers.tolist()}; expected more than 0"
        raise _problem(sidecar, found, _SIDECAR, geometry=True)
    return np.diag([*numbers, 1.0])


def _told(sidecar: Path) -> Any:
    try:
        with sidecar.open(encoding="utf-8") as file:
            return json.loads(file.read(_SIDECAR_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).replace(str(sidecar), "").split())
        raise _problem(sidecar, f"it cannot be read as JSON ({reason[:200]})", _SIDECAR) from None


_KEYS = {"spacing_mm": (3,), "affine": (4, 4)}
_SHAPES = "(X, Y, Z), (C, X, Y, Z), (H, W), or (H, W, 3) of bytes"
_COPY = "The file is damaged, cut short or of another format: save it again with numpy.save"
_REAL = "Save numbers of one real type, such as float32 (of complex ones the magnitude)"
_ONE = "Save one image per file"
_SIDECAR = 'Write {"spacing_mm": [x, y, z]} or {"affine": [4 rows of 4]}, or remove the file'


def _problem(path: Path, found: str, remedy: str, geometry: bool = False) -> TransUNetError:
    return Problem("unreadable", str(path), found, remedy, geometry=geometry).error()


FORMAT = FileFormat(
    read=read,
    read_labels=read_labels,
    read_grid=read_grid,
    channels_in=lambda path: read(path).channels,
    write=write,
    space="unknown",
    tells_space=lambda path: sidecar_of(path).exists(),
    rank=2,  # beside label maps they are probabilities
    companion=sidecar_of,
    magic={".npy": rb"\x93NUMPY"},
)

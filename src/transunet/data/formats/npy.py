"""Plain arrays (`.npy`): images and label maps as numpy saves them.

(X, Y, Z) is a volume, (C, X, Y, Z) one with channels, its axes in RAS as arrays given to a
predictor; (H, W) is one slice, (H, W, 3) of bytes a photograph. An array tells no spacing: a voxel
counts as one millimetre, unless `NAME.npy.json` beside it holds `{"spacing_mm": [x, y, z]}` or
`{"affine": [4 x 4]}`, voxels to millimetres in RAS.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from transunet.data.checks.problems import Problem
from transunet.data.formats.volume_format import VolumeFormat, reading, unreadable
from transunet.data.text import extents
from transunet.data.volume import Grid, Volume

_SIDECAR_BYTES = 1 << 16
_KEYS = {"spacing_mm": (3,), "affine": (4, 4)}
_SIDECAR = 'Write {"spacing_mm": [x, y, z]} or {"affine": [4 rows of 4]}, or remove the file'


@dataclass(frozen=True)
class PlaneHeader:
    """The header of an image with two axes, so that its label map has two as well."""


def read(path: Path) -> Volume:
    """Read an image in its own dtype.

    Raises:
        DataError: when the file is damaged, holds something else than real numbers, or has another
            number of axes; also for a sidecar that is no such JSON.
        GeometryError: when the sidecar's spacing or affine cannot be.
    """
    array = _mapped(path)
    if _is_photograph(array):
        channels = np.array(np.moveaxis(array, -1, 0)[..., None])
        return Volume(channels, _affine(path), str(path), PlaneHeader())
    return read_labels(path)


def read_labels(path: Path) -> Volume:
    """Read a label map: (X, Y, Z) or (H, W), also of bytes; as an array, (C, X, Y, Z), too."""
    array = np.array(_mapped(path))  # from the map: a header that claims too much costs no memory
    header = PlaneHeader() if array.ndim == 2 else None
    volume = array[..., None] if header else array
    channels = volume if volume.ndim == 4 else volume[None]
    return Volume(channels, _affine(path), str(path), header)


def read_grid(path: Path) -> Grid:
    """Read where the voxels lie, without reading them."""
    array = _mapped(path)
    shape = array.shape[:2] if _is_photograph(array) else array.shape[-3:]
    x, y, z = (*map(int, shape), 1)[:3]
    return Grid((x, y, z), _affine(path), str(path))


def channels_in(path: Path) -> int:
    """Return how many channels the array has."""
    array = _mapped(path)
    return 3 if _is_photograph(array) else int(array.shape[0]) if array.ndim == 4 else 1


def write(volume: Volume, path: Path) -> None:
    """Write (X, Y, Z), (H, W) where the image was one, (C, X, Y, Z) for several channels.

    Beside it the sidecar with the affine, unless that is the identity.
    """
    if not np.array_equal(volume.affine, np.eye(4)):
        text = json.dumps({"affine": volume.affine.tolist()})
        sidecar_of(path).write_text(text + "\n", encoding="utf-8")
    array = volume.array if volume.channels > 1 else volume.array[0]
    plane = isinstance(volume.header, PlaneHeader) and volume.array.shape[::3] == (1, 1)
    np.save(path, array[:, :, 0] if plane else array, allow_pickle=False)


def sidecar_of(path: Path) -> Path:
    """Return the file beside `path` that tells the place of its voxels, where there is one."""
    return path.with_name(path.name + ".json")


def _mapped(path: Path) -> NDArray[Any]:
    remedy = "The file is damaged, cut short or of another format: save it again with numpy.save"
    # numpy warns about headers that Python 2 wrote.
    with reading(path, "an array", remedy), warnings.catch_warnings(action="ignore"):
        array = open_memmap(path, mode="r")
    if array.dtype.kind not in "buif":
        remedy = "Save numbers of one real type, such as float32 (of complex ones the magnitude)"
        found = f"its values are of type {array.dtype}; expected real numbers"
        raise unreadable(path, found, remedy)
    if not 2 <= array.ndim <= 4:
        shapes = "(X, Y, Z), (C, X, Y, Z), (H, W), or (H, W, 3) of bytes"
        found = f"it has the shape {array.shape}; expected {shapes}"
        raise unreadable(path, found, "Save one image per file")
    return array


def _is_photograph(array: NDArray[Any]) -> bool:
    # No volume of bytes is three slices thin; a network's input of three floats is (C, X, Y, Z).
    return array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8


def _affine(path: Path) -> NDArray[np.float64]:
    sidecar = sidecar_of(path)
    if not sidecar.exists():
        return np.eye(4)
    with reading(sidecar, "JSON", _SIDECAR), sidecar.open(encoding="utf-8") as file:
        content = json.loads(file.read(_SIDECAR_BYTES))
    key = next(iter(content)) if isinstance(content, dict) and len(content) == 1 else None
    if key not in _KEYS:
        raise unreadable(sidecar, f"expected one of {', '.join(_KEYS)}", _SIDECAR)
    try:
        numbers = np.array(content[key], dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        numbers = np.empty(0)
    if numbers.shape != _KEYS[key] or not np.isfinite(numbers).all():
        found = f"its {key} is not {extents(_KEYS[key])} finite numbers"
        raise unreadable(sidecar, found, _SIDECAR)
    if key == "affine":
        return numbers
    if numbers.min() <= 0:
        found = f"its spacing_mm is {numbers.tolist()}; expected more than 0"
        raise Problem("unreadable", str(sidecar), found, _SIDECAR, geometry=True).error()
    return np.diag([*numbers, 1.0])


FORMAT = VolumeFormat(
    read=read,
    read_labels=read_labels,
    read_grid=read_grid,
    channels_in=channels_in,
    write=write,
    space="unknown",
    tells_space=lambda path: sidecar_of(path).exists(),
    rank=2,  # beside label maps they are probabilities
    companion=sidecar_of,
    magic={".npy": rb"\x93NUMPY"},
)

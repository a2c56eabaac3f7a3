"""Arrays `image` and `label` in one file, as the authors prepared Synapse: `.npz` and HDF5.

A slice (H, W) becomes a volume (1, H, W, 1), slices (S, H, W) become (1, H, W, S). Label maps that
were predicted as `.npz` have the array `affine`, too. Other files tell no spacing: a pixel and a
slice count as one millimetre.
"""

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from tokenize import TokenError
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from transunet.data.checks.problems import Problem
from transunet.data.formats.file_format import FileFormat
from transunet.data.volume import Grid, Volume
from transunet.errors import ConfigError, TransUNetError
from transunet.optional import require

# TypeError, AttributeError: an HDF5 group where an array should be. TokenError: numpy reads
# headers as Python.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    MemoryError,
    TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def read(path: Path) -> Volume:
    """Read the array `image`.

    Raises:
        ConfigError: for HDF5 without h5py.
        DataError: when the file is damaged or holds no such array of two or three axes.
    """
    return _volume(path, "image")


def read_labels(path: Path) -> Volume:
    """Read the array `label`.

    Raises:
        As `read`.
    """
    return _volume(path, "label")


def read_grid(path: Path) -> Grid:
    """Read where the voxels of `image` lie, or of `label` where there is no image.

    Raises:
        As `read`.
    """
    key = "label" if _undamaged(path, _holds_labels_alone) else "image"
    shape = _undamaged(path, lambda arrays: tuple(arrays[key].shape), key)
    _check(path, key, shape)
    slices, height, width = (1, *shape)[-3:]
    return Grid((height, width, slices), _affine(path), str(path))


def has_affine(path: Path) -> bool:
    """Whether the file tells where its voxels lie, as label maps that were predicted do.

    Raises:
        As `read`.
    """
    return bool(_undamaged(path, lambda arrays: "affine" in arrays, "affine"))


def write(volume: Volume, path: Path) -> None:
    """Refuse: these files hold an image and its label together, and are not made here.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(
        f"Cannot write {path}: volumes are not written in this format. Use NIfTI (.nii.gz)."
    )


def _volume(path: Path, key: str) -> Volume:
    array = _undamaged(path, lambda arrays: np.asarray(arrays[key][()]), key)
    _check(path, key, array.shape)
    if array.dtype.kind not in "buif":
        raise _problem(path, f"its array {key!r} is of type {array.dtype}; expected numbers")
    stack = array if array.ndim == 3 else array[None]
    return Volume(stack.transpose(1, 2, 0)[None], _affine(path), str(path))


def _holds_labels_alone(arrays: Any) -> bool:
    return "label" in arrays and "image" not in arrays


def _affine(path: Path) -> NDArray[np.float64]:
    def stored(arrays: Any) -> NDArray[np.float64]:
        return np.array(arrays["affine"][()] if "affine" in arrays else np.eye(4), np.float64)

    return cast("NDArray[np.float64]", _undamaged(path, stored, "affine"))


def _undamaged(path: Path, use: Callable[[Any], Any], key: str = "image") -> Any:
    try:
        if path.name.lower().endswith(".npz"):
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return use(arrays)
        with require("h5py", extra="images").File(path, "r") as file:
            return use(file)
    except TransUNetError:
        raise
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _problem(path, f"its array {key!r} cannot be read ({reason[:200]})") from None


def _check(path: Path, key: str, shape: tuple[int, ...]) -> None:
    if len(shape) not in (2, 3):
        raise _problem(
            path, f"its array {key!r} has the shape {shape}; expected (H, W) or (slices, H, W)"
        )


def _problem(path: Path, found: str) -> TransUNetError:
    remedy = "Expected a file with the arrays 'image' and 'label': copy or export it again"
    return Problem("unreadable", str(path), found, remedy).error()


FORMAT = FileFormat(
    read=read,
    read_labels=read_labels,
    read_grid=read_grid,
    channels_in=lambda _: 1,
    write=write,
    space="unknown",
    oriented=False,
    tells_space=has_affine,
    stands_alone=False,
    rank=2,
    label_suffixes=dict.fromkeys((".npz", ".h5", ".npy.h5"), ".nii.gz"),
    zipped=frozenset({".npz"}),
    refers_anywhere=frozenset({".h5", ".npy.h5"}),
)

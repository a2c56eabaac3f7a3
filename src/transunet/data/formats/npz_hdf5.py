"""Arrays `image` and `label` in one file, as the authors prepared Synapse: `.npz` and HDF5.

A slice (H, W) becomes a volume (1, H, W, 1), slices (S, H, W) become (1, H, W, S). Label maps that
were predicted as `.npz` have the array `affine`, too. Other files tell no spacing: a pixel and a
slice count as one millimetre.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.data.formats.volume_format import VolumeFormat, reading, unreadable
from transunet.data.volume import Grid, Volume
from transunet.optional import require

_EXPECTED = "Expected a file with the arrays 'image' and 'label': copy or export it again"


def read(path: Path) -> Volume:
    """Read the array `image`.

    Raises:
        ConfigError: for HDF5 without h5py.
        DataError: when the file is damaged or holds no such array of two or three axes.
    """
    return _volume(path, "image")


def read_labels(path: Path) -> Volume:
    """Read the array `label`."""
    return _volume(path, "label")


def read_grid(path: Path) -> Grid:
    """Read where the voxels of `image` lie, or of `label` where there is no image."""
    with _arrays(path) as arrays:
        key = "label" if "label" in arrays and "image" not in arrays else "image"
        shape, affine = _checked(path, key, tuple(arrays[key].shape)), _affine(arrays)
    slices, height, width = (1, *shape)[-3:]
    return Grid((height, width, slices), affine, str(path))


def has_affine(path: Path) -> bool:
    """Whether the file tells where its voxels lie, as label maps that were predicted do."""
    with _arrays(path) as arrays:
        return "affine" in arrays


def _volume(path: Path, key: str) -> Volume:
    with _arrays(path) as arrays:
        array, affine = np.asarray(arrays[key][()]), _affine(arrays)
    _checked(path, key, array.shape)
    if array.dtype.kind not in "buif":
        found = f"its array {key!r} is of type {array.dtype}; expected numbers"
        raise unreadable(path, found, _EXPECTED)
    stack = array if array.ndim == 3 else array[None]
    return Volume(stack.transpose(1, 2, 0)[None], affine, str(path))


@contextmanager
def _arrays(path: Path) -> Iterator[Any]:
    with reading(path, "arrays 'image' and 'label'", _EXPECTED):
        if path.name.lower().endswith(".npz"):
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                yield arrays
        else:
            with require("h5py", extra="images").File(path, "r") as file:
                yield file


def _affine(arrays: Any) -> NDArray[np.float64]:
    return np.array(arrays["affine"][()] if "affine" in arrays else np.eye(4), np.float64)


def _checked(path: Path, key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) not in (2, 3):
        found = f"its array {key!r} has the shape {shape}; expected (H, W) or (slices, H, W)"
        raise unreadable(path, found, _EXPECTED)
    return shape


FORMAT = VolumeFormat(
    read=read,
    read_labels=read_labels,
    read_grid=read_grid,
    channels_in=lambda _: 1,
    space="unknown",
    oriented=False,
    tells_space=has_affine,
    stands_alone=False,
    rank=2,
    label_suffixes=dict.fromkeys((".npz", ".h5", ".npy.h5"), ".nii.gz"),
    zipped=frozenset({".npz"}),
    refers_anywhere=frozenset({".h5", ".npy.h5"}),
)

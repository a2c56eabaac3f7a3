"""Probabilities and uncertainty on the volume's own grid, streamed to disk slice by slice.

The probabilities of a CT with nine classes are many times the CT: they are written to their place
in a memory-mapped file as they come, and the pages are let go.
"""

import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nibabel
import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from transunet.data.preprocessing import Preprocessing
from transunet.data.resize import nearest
from transunet.data.volume import Volume
from transunet.errors import ConfigError
from transunet.files import atomic_path, writing

nib: Any = nibabel  # its functions carry no types

_NIFTI_HEADER = 352  # bytes before the voxels, as every NIfTI-1 file without extensions has


@contextmanager
def probability_file(
    path: Path, channels: int, volume: Volume, preprocessing: Preprocessing
) -> Iterator[Callable[[slice, NDArray[np.float32]], None]]:
    """Yield what stores values (S, channels, H, W) of some slices; the file appears when complete.

    Args:
        path: `.npy` for float16 (channels, X, Y, Z), `.nii` for float32 (X, Y, Z, channels).
        channels: values per voxel.
        volume: whose grid they lie on.
        preprocessing: how the volume is cut into slices.

    Raises:
        ConfigError: for another suffix, or where there is no room.
    """
    if path.suffix not in _OPENERS:
        raise ConfigError(f"{path}: maps are written as {' or '.join(_OPENERS)}.")
    plane_axis = preprocessing.plane_axis(volume)
    with atomic_path(path) as scratch:
        with writing(path):
            stored = _OPENERS[path.suffix](scratch, channels, volume, plane_axis)
        planes = preprocessing.oriented(replace(volume, array=stored)).swapaxes(0, 1)
        height, width = planes.shape[2:]

        def store(part: slice, values: NDArray[np.float32]) -> None:
            planes[part] = nearest(values, (height, width), edge="kept")
            stored.flush()
            _release_pages(stored)

        yield store
        stored.flush()


def _open_npy(path: Path, channels: int, volume: Volume, plane_axis: int) -> Any:
    shape = (channels, *volume.spatial_shape)
    # Each slice in one piece: spread over the whole file, every one would touch every page of it.
    last = plane_axis == 2
    stored = open_memmap(path, mode="w+", dtype=np.float16, shape=shape, fortran_order=last)
    _reserve(path, stored.offset + stored.nbytes)
    return stored


def _open_nifti(path: Path, channels: int, volume: Volume, _plane_axis: int) -> Any:
    header = nib.Nifti1Header()
    shape = (*volume.spatial_shape, channels)
    header.set_data_shape(shape[:3] if channels == 1 else shape)
    header.set_data_dtype(np.float32)
    header.set_qform(volume.affine, code=1)
    header.set_sform(volume.affine, code=1)
    header.set_xyzt_units("mm")
    header["vox_offset"] = _NIFTI_HEADER
    header["magic"] = b"n+1"
    header.set_slope_inter(1, 0)
    with path.open("wb") as file:
        file.write(header.binaryblock.ljust(_NIFTI_HEADER, b"\0"))
    _reserve(path, _NIFTI_HEADER + 4 * int(np.prod(shape)))
    stored = np.memmap(path, header.get_data_dtype(), "r+", _NIFTI_HEADER, shape, order="F")
    return np.moveaxis(stored, -1, 0)


_OPENERS: Mapping[str, Any] = MappingProxyType({".npy": _open_npy, ".nii": _open_nifti})


def _reserve(path: Path, size: int) -> None:
    # A page of a mapped file for which the disk has no room would kill the process when written.
    with path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def _release_pages(array: Any) -> None:
    """Let go of the memory behind a mapped array, a view of one too; the file keeps the values."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    if array is not None and hasattr(mmap, "MADV_DONTNEED"):
        array.madvise(mmap.MADV_DONTNEED)

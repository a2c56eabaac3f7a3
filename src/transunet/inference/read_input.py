"""What a prediction may start from: a volume, files, or an array and its spacing."""

from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.data.cases import Case
from transunet.data.formats import open_volume, read_volume
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError

Image = Volume | Path | str | Sequence[Path] | NDArray[Any]


def as_volume(image: Image, spacing_mm: Sequence[float] | None = None) -> Volume:
    """Return `image` as a volume, reading or wrapping it.

    Raises:
        ConfigError: for an array without its spacing, or a spacing without an array.
        ConfigError, DataError, GeometryError: as `read_volume` and `Volume`.
    """
    if isinstance(image, np.ndarray):
        return _wrapped(image, spacing_mm)
    if spacing_mm is not None:
        raise ConfigError("spacing_mm is for arrays; a volume or a file brings its own.")
    if isinstance(image, Volume):
        return image
    return read_volume(Path(image) if isinstance(image, str) else image)


def read_image(paths: Sequence[Path], series: str | int | None = None) -> Volume:
    """Read a case's files, and refuse what holds nothing to segment.

    Args:
        paths: one file, one per channel, or the slices of a DICOM series.
        series: which of several DICOM series.

    Raises:
        DataError: for voxels that are all the same.
        ConfigError, DataError, GeometryError: as `read_volume`.
    """
    return _worth(read_volume(paths, series))


def open_image(case: Case) -> tuple[int, Callable[[], Volume]]:
    """Return how many voxels a case's image has, and what reads it as `read_image` does.

    Raises:
        ConfigError, DataError, GeometryError: as `read_volume`.
    """
    grid, channels, read = open_volume(case.images, case.series)
    return prod(grid.spatial_shape) * channels, lambda: _worth(read())


def _worth(volume: Volume) -> Volume:
    if all(channel.min() == channel.max() for channel in volume.array):
        raise DataError(
            f"{volume.name}: every voxel is {volume.array.flat[0]:g}, so there is nothing to "
            "segment; expected an image. Check how the file was exported."
        )
    return volume


def _wrapped(array: NDArray[Any], spacing_mm: Sequence[float] | None) -> Volume:
    if spacing_mm is None or len(spacing_mm) != 3:
        raise ConfigError(
            f"An array needs spacing_mm, the three edges of a voxel in millimetres; found "
            f"{spacing_mm}."
        )
    if array.dtype.kind not in "buif":
        raise DataError(f"The array's voxels are of type {array.dtype}; expected real numbers.")
    channels = array[None] if array.ndim == 3 else array
    affine = np.diag([*map(float, spacing_mm), 1.0])
    return Volume(np.asarray(channels, dtype=np.float32), affine, "array")

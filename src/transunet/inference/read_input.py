"""Reading a prediction's input: a volume, files, or an array and its spacing."""

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
        ConfigError: for an array without its spacing, a spacing without an array, or a path that
            does not exist or is of no known format.
        DataError: for an array that does not hold real numbers, or a damaged file.
        GeometryError: for channels on different grids, or an affine that is singular.
    """
    if isinstance(image, np.ndarray):
        if spacing_mm is None or len(spacing_mm) != 3:
            raise ConfigError(
                "An array needs spacing_mm, the three edges of a voxel in millimetres; found "
                f"{spacing_mm}."
            )
        if image.dtype.kind not in "buif":
            raise DataError(f"The array's voxels are of type {image.dtype}; expected real numbers.")
        channels = image[None] if image.ndim == 3 else image
        affine = np.diag([*map(float, spacing_mm), 1.0])
        return Volume(np.asarray(channels, dtype=np.float32), affine, "array")
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
        ConfigError: for a path that does not exist, a format that is not known, or a series that is
            not there.
        DataError: for a damaged file, or voxels that are all the same.
        GeometryError: for channels on different grids, or an affine that is singular.
    """
    return _not_constant(read_volume(paths, series))


def open_image(case: Case) -> tuple[int, Callable[[], Volume]]:
    """Return how many voxels a case's image has, and what reads it as `read_image` does.

    Raises:
        ConfigError, DataError, GeometryError: for headers that `read_image` refuses.
    """
    grid, channels, read = open_volume(case.images, case.series)
    return prod(grid.spatial_shape) * channels, lambda: _not_constant(read())


def _not_constant(volume: Volume) -> Volume:
    if all(channel.min() == channel.max() for channel in volume.array):
        raise DataError(
            f"{volume.name}: every voxel is {volume.array.flat[0]:g}, so there is nothing to "
            "segment; expected an image. Check how the file was exported."
        )
    return volume

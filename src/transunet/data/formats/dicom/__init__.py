"""DICOM series of CT, MR and PET (`.dcm`, folders, zip archives) through pydicom.

An image of S slices with R rows and C columns becomes a volume (1, C, R, S): the first axis runs
along the rows, the second down the columns, the third from slice to slice along their normal.
`series` says what a series is, `slice_grid` when slices make a grid; label maps are read and
written as DICOM SEG by `segmentation`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from transunet.data.formats.dicom.frames import read_pixels
from transunet.data.formats.dicom.headers import SUFFIXES
from transunet.data.formats.dicom.segmentation import read_seg, segment_names, write_seg
from transunet.data.formats.dicom.series import Series, open_series
from transunet.data.formats.volume_format import VolumeFormat
from transunet.data.volume import Grid, Volume


def read(path: Path | Sequence[Path], series: str | int | None = None) -> Volume:
    """Read one series, float32 (1, X, Y, Z); its header is the `Series`, for `write_seg`.

    Args:
        path: a folder, a zip of one, or files.
        series: which one where there are several: its UID or its number in the list, from 1.

    Raises:
        ConfigError: without pydicom, for a path that does not exist, or a series that is not there.
        DataError: for damaged files, compression that no installed package decodes, an unsafe
            archive, no series, or several without a choice.
        GeometryError: when its slices do not make a grid.
    """
    return read_series(open_series(path, series))


def read_series(series: Series) -> Volume:
    """Read the slices of `series`, float32 (1, X, Y, Z); errors as `read`."""
    grid = series.grid
    pixels = read_pixels(series.frames)
    header = replace(series, unpacked=None)  # so that a label map does not keep the archive's files
    return Volume(pixels.transpose(2, 1, 0)[None], grid.affine, series.source, header)


def read_grid(path: Path | Sequence[Path], series: str | int | None = None) -> Grid:
    """Read where the voxels of a series lie, from its headers; arguments and errors as `read`."""
    return open_series(path, series).grid


def write(volume: Volume, path: Path) -> None:
    """Write a label map of a series as DICOM SEG, its segments named "label N", as `write_seg`."""
    names = {label: f"label {label}" for label in range(1, int(volume.array.max()) + 1)}
    write_seg(volume, volume.header, names or {1: "label 1"}, path)


FORMAT = VolumeFormat(
    read=read,
    read_labels=read_seg,
    read_grid=read_grid,
    channels_in=lambda _: 1,
    write=write,
    stands_alone=False,  # a folder of slices is one image
    rank=3,
    label_suffixes=dict.fromkeys((*SUFFIXES, ".zip"), ".nii.gz"),
    label_names=segment_names,
)

"""An uploaded image: read, measured, and laid out for the page; runs in a parser's process."""

import re
import shutil
import zipfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.data.checks.suitability import ImageFacts
from transunet.data.formats import (
    FORMATS,
    channels_in,
    dicom,
    kind_of,
    known_format,
    npy,
    read_grid,
    read_volume,
    stem_of,
    volumes_in_zip,
)
from transunet.data.formats.archive import Unpacked, is_zip
from transunet.data.formats.dicom.series import Series, open_series
from transunet.data.formats.nifti import nib
from transunet.data.volume import Volume
from transunet.errors import TransUNetError
from transunet.serve.api_errors import ApiError, api_error, storage_full
from transunet.serve.uploads.accept import As, ImageSource, arrange

UPLOAD = "upload"
"""Folder with an image's own files, within the image's folder."""
_LONGEST_TOLD = 64  # characters, as of DICOM's LO; headers may break the rule
VIEW = "volume.nii.gz"
"""What the page shows: the image as NIfTI."""

DOWN_AND_RIGHT = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
"""Lays pictures, whose first axis runs down their rows, upright on an axial screen."""


def inspect(
    folder: Path, files: Sequence[str], as_: As, series: str | None, most_voxels: int, room: int
) -> dict[str, Any]:
    """Read the files in `folder/upload`, write the view, and return the image's metadata as JSON.

    Args:
        folder: the image's.
        files: names in `folder/upload`, in the order they came.
        as_: how several files go together.
        series: the DICOM series that is meant.
        most_voxels: that the image may have.
        room: bytes that an archive may unpack to.

    Raises:
        ApiError: when they are not an image that can be looked at, or the disk is full.
    """
    try:
        paths = unpacked([folder / UPLOAD / name for name in files], room)
        source = arrange(paths, as_, series)
        volume = _read(source, most_voxels)
        known = None if source.dicom else known_format(source.paths[0])
        placeless = isinstance(volume.header, npy.PlaneHeader) or (
            known is not None and not known.oriented
        )
        affine = DOWN_AND_RIGHT if placeless else np.asarray(volume.affine)
        # Colours of 16 bits are shown as screens do, with 8.
        deep = volume.white == 65535 and volume.channels == 3
        write_view(volume.array // 257 if deep else volume.array, affine, folder / VIEW)
    except TransUNetError as error:
        raise api_error(error, folder / UPLOAD) from None
    unusable_reason = None  # what keeps it from being segmented, though it can be looked at
    if not np.isfinite(volume.array).all():
        unusable_reason = "It has voxels that are NaN or infinite; expected finite intensities."
    elif all(channel.min() == channel.max() for channel in volume.array):
        unusable_reason = "Every voxel has the same value, so there is nothing to segment."
    warnings = []
    if placeless:
        warnings.append("The file tells no voxel size: a pixel counts as one millimetre.")
    contradiction = volume.doubt.problem if volume.doubt else None
    if contradiction:
        warnings.append(f"{contradiction.found}. {contradiction.remedy}.")
    if unusable_reason:
        warnings.append(unusable_reason)
    return {
        "shape": list(volume.spatial_shape),
        "channels": volume.channels,
        "spacing_mm": list(volume.spacing_mm),
        "orientation": volume.orientation,
        "affine": affine.tolist(),
        "kind": "picture" if placeless and volume.spatial_shape[2] == 1 else "volume",
        "warnings": warnings,
        "obstacle": unusable_reason,
        "measured": None if unusable_reason else ImageFacts.of(volume).model_dump(mode="json"),
        "paths": [str(path.relative_to(folder)) for path in source.paths],
        "dicom": source.dicom,
        "series": source.series,
        "stem": "" if source.dicom else stem_of(source.paths[0]),
        "header": _told_by(volume.header) if isinstance(volume.header, Series) else None,
    }


def _told_by(series: Series) -> dict[str, str]:
    """Return whom and what a DICOM series shows; empty what its first header does not tell."""
    first = series.datasets[0]
    date = str(first.get("StudyDate") or "")
    told = {
        "patient_name": getattr(first.get("PatientName"), "family_comma_given", str)().strip(", "),
        "patient_id": first.get("PatientID"),
        "study_date": f"{date[:4]}-{date[4:6]}-{date[6:]}" if re.fullmatch(r"\d{8}", date) else "",
        "study": first.get("StudyDescription"),
        "series": series.description,
        "modality": series.modality,
    }
    return {
        key: "".join(filter(str.isprintable, str(value or "")))[:_LONGEST_TOLD]
        for key, value in told.items()
    }


def read_kept(folder: Path, metadata: dict[str, Any]) -> Volume:
    """Read the image in `folder` again, of which `inspect` returned `metadata`.

    Returns:
        Voxels (C, X, Y, Z).
    """
    paths = tuple(folder / name for name in metadata["paths"])
    return _read(ImageSource(paths, metadata["dicom"], metadata["series"]))


def _read(source: ImageSource, most_voxels: int | None = None) -> Volume:
    first = source.paths[0]
    if source.dicom:
        series = open_series(first, source.series)
        if most_voxels is not None:
            check_voxels(first, prod(series.grid.spatial_shape), most_voxels)
        return dicom.read_series(series)
    if most_voxels is not None:
        check_voxels(first, sum(map(declared_voxels, source.paths)), most_voxels)
    return read_volume(source.paths)


def check_voxels(path: Path, voxels: int, most: int) -> None:
    """Refuse an image of more than `most` voxels, channels included.

    Raises:
        ApiError: when it has more.
    """
    if voxels > most:
        message = f"{path.name}: it has {voxels} voxels; at most {most} are taken."
        raise ApiError("too_large", message, "Cut or shrink the image.")


def declared_voxels(path: Path) -> int:
    """Return how many voxels the header of `path` promises, channels included; it may lie.

    Raises:
        DataError, GeometryError: for a damaged header.
    """
    suffix = kind_of(path)
    if suffix and suffix in FORMATS[suffix].zipped:
        return _unpacked_bytes(path)
    return prod(read_grid(path).spatial_shape) * channels_in(path)


def unpacked(files: list[Path], room: int) -> list[Path]:
    """Return the files; in place of a single archive its volume, or the folder of its series.

    Raises:
        ApiError: when what is in the archive takes more than `room` bytes.
        DataError: for an archive that is refused.
    """
    if len(files) != 1 or not is_zip(files[0]):
        return files
    (archive,) = files
    if _unpacked_bytes(archive) > room:
        what = f"{archive.name}: what is in the archive"
        raise storage_full(f"{what} does not fit into the server's quota.")
    volumes = volumes_in_zip(archive)
    content = Unpacked(archive)
    target = archive.parent / "series"
    shutil.move(content.folder, target)
    content.close()
    archive.unlink()
    return [target / name for name in volumes] or [target]


def _unpacked_bytes(path: Path) -> int:
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(member.file_size for member in archive.infolist())
    except Exception:  # damaged in any way: the reader says how
        return 0


def write_view(array: NDArray[Any], affine: NDArray[Any], path: Path) -> None:
    """Write (C, X, Y, Z) as NIfTI that a viewer understands: colours as RGB, whole numbers small.

    Not atomic: the folder is not the image's yet.
    """
    low, high = array.min(), array.max()
    kind: type[np.generic] = np.float32
    if array.dtype.kind in "iu" or (array == np.rint(array)).all():  # not so where there is a NaN
        for whole in (np.int16, np.uint8):
            if np.iinfo(whole).min <= low and high <= np.iinfo(whole).max:
                kind = whole
    voxels = np.moveaxis(array, 0, -1).astype(kind, copy=False)
    if kind is np.uint8 and array.shape[0] == 3 and array.shape[3] == 1:
        colours = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
        voxels = np.ascontiguousarray(voxels).view(colours)
    image = nib.Nifti1Image(voxels[..., 0] if voxels.shape[-1] == 1 else voxels, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)

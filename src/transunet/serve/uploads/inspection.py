"""An uploaded image: read, measured, and laid out for the page; runs in the desk's process."""

import shutil
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.data.checks.suitability import ImageFacts
from transunet.data.formats import (
    dicom,
    known_format,
    npy,
    raster,
    read_volume,
    stem_of,
    volumes_in_zip,
)
from transunet.data.formats.archive import Unpacked, is_zip
from transunet.data.formats.dicom.series import open_series
from transunet.data.formats.nifti import nib
from transunet.data.volume import Volume
from transunet.errors import TransUNetError
from transunet.serve.api.error_responses import told
from transunet.serve.uploads import accept, limits
from transunet.serve.uploads.accept import As, Source
from transunet.serve.uploads.quota import telling_of_full_disks

UPLOAD = "upload"
"""Folder with an image's own files, within the image's folder."""
VIEW = "volume.nii.gz"
"""What the page shows: the image as NIfTI."""

DOWN_AND_RIGHT = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
"""Lays pictures, whose first axis runs down their rows, upright on an axial screen."""
_NO_PLACE = "The file tells no voxel size: a pixel counts as one millimetre."


def inspect(
    folder: Path, files: Sequence[str], as_: As, series: str | None, most: int, room: int
) -> dict[str, Any]:
    """Read the files in `folder/upload`, write the view, and return the image's facts as JSON.

    Args:
        folder: the image's.
        files: names in `folder/upload`, in the order they came.
        as_: how several files go together.
        series: the DICOM series that is meant.
        most: voxels that the image may have.
        room: bytes that an archive may unpack to.

    Raises:
        ApiError: when they are not an image that can be segmented, or the disk is full.
    """
    upload = folder / UPLOAD
    try:
        with telling_of_full_disks():
            paths = unpacked([upload / name for name in files], room)
            source = accept.arrange(paths, as_, series)
            volume = read(source, most)
            affine = view_affine(source, volume)
            write_view(_seen(volume), affine, folder / VIEW)
    except TransUNetError as error:
        raise told(error, upload) from None
    return {**_facts(volume, affine, source), **_kept(source, folder)}


def read(source: Source, most: int | None = None) -> Volume:
    """Read an image, float32 (C, X, Y, Z), of at most `most` voxels.

    Raises:
        ApiError: when its headers promise more.
        TransUNetError: as the formats' readers.
    """
    if source.dicom:
        series = open_series(source.paths[0], source.series)
        if most is not None:
            limits.check_voxels(source.paths[0], prod(series.grid.spatial_shape), most)
        return dicom.read_series(series)
    if most is not None:
        voxels = sum(map(limits.declared, source.paths))
        limits.check_voxels(source.paths[0], voxels, most)
    return read_volume(source.paths)


def read_kept(folder: Path, facts: dict[str, Any]) -> Volume:
    """Read the image in `folder` again, of which `inspect` returned `facts`."""
    return read(source_of(folder, facts))


def source_of(folder: Path, facts: dict[str, Any]) -> Source:
    """Return the files of the image in `folder`."""
    paths = tuple(folder / name for name in facts["paths"])
    return Source(paths, facts["dicom"], facts["series"])


def view_affine(source: Source, volume: Volume) -> NDArray[np.float64]:
    """Return where the page shows the voxels of `volume`: at their places, if it tells any."""
    if _without_place(source, volume):
        return np.asarray(DOWN_AND_RIGHT)
    return np.asarray(volume.affine)


def write_view(array: NDArray[Any], affine: NDArray[Any], path: Path) -> None:
    """Write (C, X, Y, Z) as NIfTI that a viewer understands: colours as RGB, whole numbers small.

    Not atomic: the folder is not the image's yet.
    """
    if array.shape[0] == 3 and array.shape[3] == 1 and _fits(array, np.uint8):
        voxels = np.moveaxis(array, 0, -1).astype(np.uint8)
        colours = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
        out = np.ascontiguousarray(voxels).view(colours)[..., 0]
    else:
        out = np.moveaxis(_smallest(array), 0, -1)
        out = out[..., 0] if array.shape[0] == 1 else out
    image = nib.Nifti1Image(out, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def _seen(volume: Volume) -> NDArray[Any]:
    """The voxels, but colours of 16 bits as screens show them, with 8."""
    deep = raster.white_of(volume) == 65535 and volume.channels == 3
    return volume.array // 257 if deep else volume.array


def unpacked(files: list[Path], room: int) -> list[Path]:
    """Return the files; in place of a single archive its volume, or the folder of its series.

    Raises:
        ApiError: when what is in the archive takes more than `room` bytes.
        DataError: for an archive that is refused.
    """
    if len(files) != 1 or not is_zip(files[0]):
        return files
    (archive,) = files
    limits.check_archive(archive, room)
    volumes = volumes_in_zip(archive)
    content = Unpacked(archive)
    target = archive.parent / "series"
    shutil.move(content.folder, target)
    content.close()
    archive.unlink()
    return [target / name for name in volumes] or [target]


def _facts(volume: Volume, affine: NDArray[Any], source: Source) -> dict[str, Any]:
    placeless, obstacle = _without_place(source, volume), _obstacle(volume)
    contradiction = volume.doubt.problem if volume.doubt else None
    told = [f"{contradiction.found}. {contradiction.remedy}."] if contradiction else []
    return {
        "shape": list(volume.spatial_shape),
        "channels": volume.channels,
        "spacing_mm": list(volume.spacing_mm),
        "orientation": volume.orientation,
        "affine": affine.tolist(),
        "kind": "picture" if placeless and volume.spatial_shape[2] == 1 else "volume",
        "warnings": [_NO_PLACE] * placeless + told + [obstacle] * (obstacle is not None),
        "obstacle": obstacle,
        "measured": None if obstacle else ImageFacts.of(volume).model_dump(mode="json"),
    }


def _kept(source: Source, folder: Path) -> dict[str, Any]:
    first = source.paths[0]
    return {
        "paths": [str(path.relative_to(folder)) for path in source.paths],
        "dicom": source.dicom,
        "series": source.series,
        "stem": "" if source.dicom else stem_of(first),
    }


def _without_place(source: Source, volume: Volume) -> bool:
    if source.dicom:
        return False
    known = known_format(source.paths[0])
    return (known is not None and not known.oriented) or isinstance(volume.header, npy.Plane)


def _obstacle(volume: Volume) -> str | None:
    """What keeps an image from being segmented, though it can be looked at."""
    if not np.isfinite(volume.array).all():
        return "It has voxels that are NaN or infinite; expected finite intensities."
    if all(channel.min() == channel.max() for channel in volume.array):
        return "Every voxel has the same value, so there is nothing to segment."
    return None


def _smallest(array: NDArray[Any]) -> NDArray[Any]:
    for kind in (np.uint8, np.int16):
        if _fits(array, kind):
            return array.astype(kind)
    return array.astype(np.float32, copy=False)


def _fits(array: NDArray[Any], kind: type[np.integer[Any]]) -> bool:
    limits = np.iinfo(kind)
    low, high = array.min(), array.max()
    if not (limits.min <= low and high <= limits.max):  # also False for NaN
        return False
    return array.dtype == kind or bool((array == np.rint(array)).all())

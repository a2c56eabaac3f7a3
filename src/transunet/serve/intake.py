"""Which image the files of an upload are, and whether they may be opened at all.

Only formats that hold everything themselves are taken: a header that names another file would make
the server read its own disk for whoever asks.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transunet.data.formats import kind_of, stem_of
from transunet.data.formats.archive import is_zip
from transunet.data.formats.dicom_files import is_called_dicom, is_dicom
from transunet.data.formats.nifti import PAIR
from transunet.serve.faults import ApiError

As = Literal["auto", "channels", "series"]

NIFTI = (".nii", ".nii.gz")
ITK = (".nrrd", ".mha")
RASTER = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
ARRAYS = (".npy", ".npz")
ACCEPTED = (*NIFTI, *ITK, *RASTER, *ARRAYS, ".zip", ".dcm", ".dicom", ".ima")
"""Suffixes that are taken; DICOM files need none."""

_SIDECAR = ".npy.json"
_CHANNEL = re.compile(r".+_(\d{4})")  # nnU-Net's CASE_0000, CASE_0001
_NRRD = b"NRRD"
_HEADER = 1 << 16  # bytes in which a header ends
_ELSEWHERE = re.compile(rb"^data ?file *:", re.IGNORECASE | re.MULTILINE)
_HERE = re.compile(rb"^ElementDataFile *= *LOCAL\r?$", re.MULTILINE)


@dataclass(frozen=True)
class Source:
    """An image's files."""

    paths: tuple[Path, ...]
    """One file, one per channel, or the folder of a DICOM series."""
    dicom: bool = False
    series: str | None = None
    """Which series of the folder, where one was chosen."""


def arrange(files: Sequence[Path], as_: As, series: str | None = None) -> Source:
    """Return the image that `files`, which lie in one folder, are.

    Args:
        files: as they were received.
        as_: one file per channel; the slices of a DICOM series; or what they look like.
        series: the number or UID of the DICOM series that is meant.

    Raises:
        ApiError: without files, for a format that is not taken, or files that do not go together.
        DataError: for an archive that is refused.
    """
    images = [file for file in files if not file.name.lower().endswith(_SIDECAR)]
    if not images:
        raise ApiError("malformed", "There is no file.", "Send one as the form field 'files'.")
    # What an archive held can only be a series, and is told as one where it is not.
    # A file that is only called DICOM, perhaps empty, is told or passed over as in a folder.
    dicom = [is_dicom(file) or file.is_dir() or is_called_dicom(file) for file in images]
    if as_ == "series" and not all(dicom):
        odd = images[dicom.index(False)].name
        message = f"{odd} is no DICOM file, so these files are not the slices of a series."
        raise ApiError("unknown_format", message, "Send it alone, or files as channels.")
    if any(dicom) and (as_ != "channels" or len(images) == 1):
        return _series(images, dicom, series)
    for image in images:
        check_format(image)
    return Source(tuple(sorted(images, key=_place) if len(images) > 1 else images))


def check_format(path: Path) -> None:
    """Make sure that `path` is of a format that is taken, and holds everything itself.

    Raises:
        ApiError: when it does not.
    """
    suffix = kind_of(path)
    if suffix not in ACCEPTED:
        message = f"{path.name}: the format is not taken; expected {', '.join(ACCEPTED)}."
        remedy = "Convert it to NIfTI (.nii.gz)."
        if suffix in (".nhdr", ".mhd", *PAIR):
            remedy = "Save header and voxels in one file (.nii.gz, .nrrd, .mha)."
        raise ApiError("unknown_format", message, remedy)
    if suffix in ITK and not _holds_everything(path):
        message = f"{path.name}: its header does not say that the voxels are in the same file."
        raise ApiError("unknown_format", message, "Save header and voxels in one file.")


def _series(images: list[Path], dicom: list[bool], series: str | None) -> Source:
    if not all(dicom):
        odd = images[dicom.index(False)].name
        message = f"Some files are DICOM, but {odd} is not."
        raise ApiError("unknown_format", message, "Send the files of one DICOM series alone.")
    if len(images) > 1 and any(map(is_zip, images)):
        message = f"{len(images)} files with an archive among them were sent."
        raise ApiError("unknown_format", message, "Send one archive, or the files of a series.")
    return Source((images[0].parent,), True, series)


def _place(path: Path) -> int:
    # Sorting keeps the order that files came in, but for those that are numbered.
    match = _CHANNEL.fullmatch(stem_of(path))
    return int(match[1]) if match else -1


def _holds_everything(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(_HEADER)
    if kind_of(path) == ".mha":
        return not start.startswith(_NRRD) and _HERE.search(start) is not None
    header = re.split(rb"\r?\n\r?\n", start, maxsplit=1)
    return start.startswith(_NRRD) and len(header) == 2 and not _ELSEWHERE.search(header[0])

"""Which image the files of an upload are, and whether they may be opened at all.

What the formats read is taken, but no header that names a file which was not sent with it: that
would make the server read its own disk for whoever asks.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transunet.data.formats import (
    FORMATS,
    channel_of,
    is_header_of_pair,
    kind_of,
    known_format,
    stem_of,
)
from transunet.data.formats.archive import is_zip
from transunet.data.formats.dicom.headers import is_called_dicom, is_dicom
from transunet.serve.api_errors import ApiError

As = Literal["auto", "channels", "series"]


@dataclass(frozen=True)
class ImageSource:
    """An image's files."""

    paths: tuple[Path, ...]
    """One file, one per channel, or the folder of a DICOM series."""
    dicom: bool = False
    series: str | None = None
    """Which series of the folder, where one was chosen."""


def arrange(files: Sequence[Path], as_: As, series: str | None = None) -> ImageSource:
    """Return the image that `files`, which lie in one folder, are.

    Args:
        files: as they were received.
        as_: one file per channel; the slices of a DICOM series; or what they look like.
        series: the number or UID of the DICOM series that is meant.

    Raises:
        ApiError: without files, for a format that is not taken, or files that do not go together.
        DataError: for an archive that is refused.
    """
    images = without_companions(files)
    if not images:
        raise ApiError("malformed", "There is no file.", "Send one as the form field 'files'.")
    # What an archive held can only be a series, and is told as one where it is not.
    # A file that is only called DICOM, perhaps empty, is told or passed over as in a folder.
    dicom = [is_dicom(file) or file.is_dir() or is_called_dicom(file) for file in images]
    if not any(dicom) or (as_ == "channels" and len(images) > 1):
        if as_ == "series":
            message = f"{images[0].name} is no DICOM file, so these are not the slices of a series."
            raise ApiError("unknown_format", message, "Send it alone, or files as channels.")
        for image in images:
            check_format(image)
        # Sorting keeps the order that files came in, but for those that are numbered.
        channels = {image: channel_of(stem_of(image)) for image in images}
        images.sort(key=lambda image: (channels[image] or ("", -1))[1])
        return ImageSource(tuple(images))
    if not all(dicom):
        message = f"Some files are DICOM, but {images[dicom.index(False)].name} is not."
        raise ApiError("unknown_format", message, "Send the files of one DICOM series alone.")
    if len(images) > 1 and any(map(is_zip, images)):
        message = f"{len(images)} files with an archive among them were sent."
        raise ApiError("unknown_format", message, "Send one archive, or the files of a series.")
    return ImageSource((images[0].parent,), True, series)


def without_companions(files: Sequence[Path]) -> list[Path]:
    """Return the files but those that are read along with another one, such as its header."""
    voxels = {path.parent / name for path in files for name in _files_named_by(path) or ()}
    return [
        path
        for path in files
        if not (
            path.name.lower().endswith(".npy.json") or is_header_of_pair(path) or path in voxels
        )
    ]


def check_format(path: Path) -> None:
    """Make sure that `path` is of a format that is taken, and names no file that was not sent.

    Raises:
        ApiError: when it does not.
    """
    # A file that may refer to any other, in many ways, is not read; HDF5 is such a format.
    accepted = [suffix for suffix, known in FORMATS.items() if suffix not in known.refers_anywhere]
    if kind_of(path) not in accepted:
        message = f"{path.name}: the format is not taken; expected {', '.join(accepted)}."
        raise ApiError("unknown_format", message, "Convert it to NIfTI (.nii.gz).")
    named = _files_named_by(path)
    # No path, no pattern, no list of files: a name of one beside it.
    if named is None or not all(
        re.fullmatch(r"[\w+=@() .-]+", name)
        and not name.startswith("LIST")
        and (path.parent / name).is_file()
        for name in named
    ):
        message = (
            f"{path.name}: its header does not say that the voxels are in the same file, or in one "
            "that was sent with it."
        )
        remedy = "Save header and voxels in one file (.nii.gz, .nrrd, .mha), or send both together."
        raise ApiError("unknown_format", message, remedy)


def _files_named_by(path: Path) -> list[str] | None:
    """Other files that the header of a file names; None for a header that is none."""
    known = known_format(path) if path.is_file() else None
    return known.voxel_files(path) if known else []

"""DICOM files: which of a folder's files they are, their headers, what is no slice of a volume."""

import os
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from transunet.data.formats.archive import Unpacked, is_zip
from transunet.data.problems import Problem
from transunet.errors import ConfigError, TransUNetError
from transunet.extras import require

Result = TypeVar("Result")

SUFFIXES = (".dcm", ".dicom", ".ima")
"""Names of DICOM files; most have none, so that a file is known by its first bytes."""

MAX_INFLATED = 4 * 2**30
"""Bytes that a file of the deflated transfer syntax may hold when inflated."""

_MAGIC = b"DICM"
_MAGIC_AT = 128
_DEFLATED = "1.2.840.10008.1.2.1.99"
_DIRECTORY = "1.2.840.10008.1.3.10"
_STORAGE = "1.2.840.10008.5.1.4.1.1."
# CT, MR and PET: plain, Enhanced and Legacy Converted Enhanced; and 3D angiography.
_VOLUMES = frozenset(
    _STORAGE + end
    for end in ("2", "2.1", "2.2", "4", "4.1", "4.4", "128", "128.1", "130", "13.1.1")
)
# Have rows, columns and positions, but are no images.
_NO_IMAGES = frozenset({"RTDOSE", "SEG", "PR", "REG"})


@dataclass
class Scan:
    """What was found at a path."""

    images: list[tuple[Path, Any]] = field(default_factory=list)
    """Files of slices, with their headers (datasets without pixel data)."""
    skipped: Counter[str] = field(default_factory=Counter)
    """What else was there: how often each kind."""
    unpacked: Unpacked | None = None
    """The temporary files, if it was an archive."""


def scan(path: Path | Sequence[Path]) -> Scan:
    """Read the headers of a folder (with the folders in it), a zip of one, or some files.

    Raises:
        ConfigError: without pydicom, or for a path that does not exist.
        DataError: for a damaged file or an archive that is refused.
    """
    require("pydicom", extra="dicom")
    found = Scan()
    for one in [path] if isinstance(path, Path) else path:
        if not one.exists():
            raise ConfigError(f"There is no file or folder {one}. Check the path.")
        if one.is_file() and is_zip(one):
            found.unpacked = Unpacked(one)
        for file in _files(found.unpacked.folder if found.unpacked else one):
            _add(found, file)
    return found


def is_dicom(path: Path) -> bool:
    """Whether `path` is a DICOM file, a folder that holds one, or a zip archive."""
    if path.is_dir():
        return any(_has_magic(file) for file in _files(path))
    return path.is_file() and (_has_magic(path) or is_zip(path))


def is_slice(path: Path) -> bool:
    """Whether `path` is a file that begins as DICOM files do; one that cannot be opened is not."""
    try:
        return path.is_file() and _has_magic(path)
    except TransUNetError:
        return False


def read_dataset(path: Path, *, pixels: bool) -> Any:
    """Read a DICOM file, with or without its pixel data.

    Raises:
        DataError: when it is damaged.
    """
    return undamaged(path, _read_dataset, path, pixels)


def undamaged(path: Path | str, use: Callable[..., Result], *given: Any) -> Result:
    """Return `use(*given)`; what it raises over damaged bytes becomes one error naming `path`."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about values that bend the standard
            return use(*given)
    except TransUNetError:
        raise
    except Exception as error:  # the parser knows no end of ways to stumble over a flipped bit
        reason = " ".join(str(error).split()) or type(error).__name__
        raise unreadable(path, f"it cannot be read as DICOM ({reason[:200]})") from None


def unreadable(path: Path | str, found: str, remedy: str | None = None) -> TransUNetError:
    """Return the error for a damaged file."""
    remedy = remedy or "The file is damaged or cut short: export the series again"
    return Problem("unreadable", str(path), found, remedy).error()


def sop_class(dataset: Any) -> str:
    """Return the UID of the kind of object that `dataset` is ("" if it does not say)."""
    meta = getattr(dataset, "file_meta", {})
    return str(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")


def _add(found: Scan, file: Path) -> None:
    if not _has_magic(file):
        if file.suffix.lower() in SUFFIXES:
            what = "it does not begin as a DICOM file does (128 bytes, then DICM)"
            raise unreadable(file, what)
        found.skipped["other files"] += 1
        return
    dataset = read_dataset(file, pixels=False)
    reason = undamaged(file, _no_slice, file, dataset)
    if reason:
        found.skipped[reason] += 1
    else:
        found.images.append((file, dataset))


def _no_slice(path: Path, dataset: Any) -> str | None:
    """Return None for an image that is part of a volume, else what it is instead."""
    kind = sop_class(dataset)
    if not kind:
        raise unreadable(path, "its header ends before it says what it is")
    if kind == _DIRECTORY:
        return "DICOMDIR"
    modality = str(dataset.get("Modality") or "DICOM object without modality")
    placed = "ImagePositionPatient" in dataset and "Rows" in dataset
    if modality in _NO_IMAGES or (kind not in _VOLUMES and not placed):
        return modality
    if "LOCALIZER" in (dataset.get("ImageType") or ()):
        return "localizer"
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        return "colour image"
    return None


def _files(path: Path) -> Iterator[Path]:
    """Files at or below `path`, in the order of their names, without hidden ones."""
    if path.is_file():
        yield path
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            if not name.startswith(".") and (file := Path(folder, name)).is_file():
                yield file


def _has_magic(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC
    except OSError as error:
        raise unreadable(path, f"it cannot be opened ({error.strerror or error})") from None


def _read_dataset(path: Path, pixels: bool) -> Any:
    pydicom = require("pydicom", extra="dicom")
    meta = pydicom.filereader.read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") == _DEFLATED:
        _check_inflated(path, int(meta.get("FileMetaInformationGroupLength") or 0))
    return pydicom.dcmread(path, stop_before_pixels=not pixels)


def _check_inflated(path: Path, meta_length: int) -> None:
    """Refuse a file that would fill the memory before the parser inflates it."""
    start = _MAGIC_AT + len(_MAGIC) + 12 + meta_length  # 12: the element that tells the length
    inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    packed = path.read_bytes()[start:]
    while packed and size <= MAX_INFLATED:
        size += len(inflate.decompress(packed, 2**24))
        packed = inflate.unconsumed_tail
    if size > MAX_INFLATED:
        raise unreadable(path, f"it inflates to more than {MAX_INFLATED / 2**30:g} GiB")

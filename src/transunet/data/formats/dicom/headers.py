"""DICOM files: how one is known, its header, and what it is instead of a slice of a volume."""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transunet.data.formats import volume_format
from transunet.data.formats.archive import is_zip
from transunet.data.formats.volume_format import reading
from transunet.data.walking import walk
from transunet.errors import TransUNetError
from transunet.optional import require

SUFFIXES = (".dcm", ".dicom", ".ima")
"""Names of DICOM files; most have none, so that a file is known by its first bytes."""
POSITION = ("PlanePositionSequence", "ImagePositionPatient")
DIRECTIONS = ("PlaneOrientationSequence", "ImageOrientationPatient")
SPACING = ("PixelMeasuresSequence", "PixelSpacing")
"""Where a frame tells its place: the functional group of an Enhanced file, the attribute."""
EMPTY, OTHER = "empty files", "other files"
"""What is passed over that is no DICOM object."""
DAMAGED = "The file is damaged or cut short: export the series again"
"""What to do about most DICOM files that cannot be read."""
MAX_INFLATED = 4 * 2**30
"""Bytes that a file of the deflated transfer syntax may hold when inflated."""

_MAGIC = b"DICM"
_MAGIC_AT = 128
_NO_PREAMBLE = {(0x0002, 0x0000), (0x0002, 0x0001), (0x0002, 0x0002), (0x0002, 0x0010)} | {
    (0x0008, element) for element in (0x0000, 0x0001, 0x0005, 0x0008, 0x0012, 0x0016, 0x0018)
}
"""The first tags of files that lack the 128 bytes and DICM: as old exports and archives wrote."""
_FIRST_LENGTH = 256
"""Bytes that the value of such a first element may have; it is a number, a UID or a short text."""
_DEFLATED = "1.2.840.10008.1.2.1.99"
# By what pydicom sees where a file does not say: implicit, little endian.
_SYNTAXES = {
    (True, True): "1.2.840.10008.1.2",
    (False, True): "1.2.840.10008.1.2.1",
    (False, False): "1.2.840.10008.1.2.2",
}
UNPLACED = " image without a position"
"""What follows the modality where an image does not say where it lies."""
_DIRECTORY = "1.2.840.10008.1.3.10"
_STORAGE = "1.2.840.10008.5.1.4.1.1."
# CT, MR and PET: plain, Enhanced and Legacy Converted Enhanced; and 3D angiography.
VOLUME_CLASSES = frozenset(
    _STORAGE + end
    for end in ("2", "2.1", "2.2", "4", "4.1", "4.4", "128", "128.1", "130", "13.1.1")
)
# Of these modalities a number of objects has neither pixels nor places.
_IMAGES = frozenset({"CT", "MR", "PT"})
# Have rows, columns and positions, but are no images.
NO_IMAGES = frozenset({"RTDOSE", "SEG", "PR", "REG"})


def is_dicom(path: Path) -> bool:
    """Whether `path` is a DICOM file, a folder that holds one, or a zip archive."""
    if path.is_dir():
        return any(map(begins_as_dicom, walk(path).files))
    return path.is_file() and (begins_as_dicom(path) or is_zip(path))


def is_called_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its suffix or by its first bytes."""
    return path.suffix.lower() in SUFFIXES or begins_as_dicom(path)


def is_slice(path: Path) -> bool:
    """Whether `path` is a DICOM file with a part of a volume; see `why_no_slice`."""
    return path.is_file() and why_no_slice(path) is None


def why_no_slice(path: Path) -> str | None:
    """Return what a file is instead of a part of a volume, such as "SR" or "DICOMDIR".

    None for a slice, and for what is damaged or cannot be told (without pydicom), so that reading
    it says what is wrong.
    """
    try:
        return look_at(path)[1]
    except (TransUNetError, OSError) as error:
        return OTHER if isinstance(error.__cause__, OSError) else None


def look_at(path: Path) -> tuple[Any, str | None]:
    """Return a file's header (None for no DICOM), and what it is instead of a slice, if it is none.

    Raises:
        DataError: when it is damaged.
    """
    if not begins_as_dicom(path):
        return None, OTHER if path.stat().st_size else EMPTY
    dataset = read_dataset(path, pixels=False)
    with undamaged(path):
        sop_class = _sop_class(dataset)
        if not sop_class and "Rows" not in dataset:
            raise unreadable(path, "its header ends before it says what it is")
        if sop_class == _DIRECTORY:
            return dataset, "DICOMDIR"
        modality = str(dataset.get("Modality") or "DICOM object without modality")
        if modality in NO_IMAGES or (sop_class not in VOLUME_CLASSES and "Rows" not in dataset):
            return dataset, f"{modality} object without pixels" if modality in _IMAGES else modality
        image_type = dataset.get("ImageType") or ()
        if "LOCALIZER" in image_type:
            return dataset, "localizer"
        if "MOSAIC" in image_type:
            return dataset, "mosaic of many slices in one picture"
        placed = all(
            value(dataset, 0, *where) is not None for where in (POSITION, DIRECTIONS, SPACING)
        )
        if not placed and "Rows" in dataset:  # else the header is cut short
            return dataset, modality + UNPLACED
        several = int(dataset.get("SamplesPerPixel") or 1) != 1
        return dataset, "colour image" if several else None


def is_volume_class(dataset: Any) -> bool:
    """Whether a file is a slice of a volume by its SOP class: CT, MR, PET, 3D angiography."""
    return _sop_class(dataset) in VOLUME_CLASSES


def read_dataset(path: Path, *, pixels: bool) -> Any:
    """Read a DICOM file, with or without its pixel data.

    Raises:
        DataError: when it is damaged.
    """
    pydicom = require("pydicom", extra="dicom")
    with undamaged(path):
        with path.open("rb") as file:
            start = file.read(1024)
        if start[_MAGIC_AT:].startswith(_MAGIC):
            meta = pydicom.filereader.read_file_meta_info(path)
            if meta.get("TransferSyntaxUID") == _DEFLATED:
                # Refused before the parser inflates it: it could fill the memory. 12 bytes tell
                # how long what follows them is.
                length = int(meta.get("FileMetaInformationGroupLength") or 0)
                inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
                packed = path.read_bytes()[_MAGIC_AT + len(_MAGIC) + 12 + length :]
                while packed and size <= MAX_INFLATED:
                    size += len(inflate.decompress(packed, 2**24))
                    packed = inflate.unconsumed_tail
                if size > MAX_INFLATED:
                    found = f"it inflates to more than {MAX_INFLATED / 2**30:g} GiB"
                    raise unreadable(path, found)
        elif _DEFLATED.encode() in start:
            found = "it is deflated, and lacks the 128 bytes and DICM at its beginning"
            raise unreadable(path, found)
        dataset = pydicom.dcmread(path, stop_before_pixels=not pixels, force=True)
        if not dataset.file_meta.get("TransferSyntaxUID"):
            dataset.file_meta.TransferSyntaxUID = _SYNTAXES[dataset.original_encoding]
        return dataset


@contextmanager
def undamaged(path: Path | str) -> Iterator[None]:
    """Turn what reading damaged bytes raises into one error that names `path`."""
    with (
        reading(path, "DICOM", DAMAGED),
        warnings.catch_warnings(action="ignore"),  # about values that bend the standard
    ):
        yield


def unreadable(path: Path | str, found: str, remedy: str = DAMAGED) -> TransUNetError:
    """Return the error for a damaged file."""
    return volume_format.unreadable(path, found, remedy)


def value(dataset: Any, index: int, group: str, keyword: str) -> Any:
    """Return an attribute of a frame: its own, else the file's shared one, else the plain one."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    shared = dataset.get("SharedFunctionalGroupsSequence")
    for groups in (per_frame[index] if per_frame else None, shared[0] if shared else None):
        item = groups.get(group) if group and groups is not None else None
        if item and item[0].get(keyword) is not None:
            return item[0].get(keyword)
    return dataset.get(keyword)


def begins_as_dicom(path: Path) -> bool:
    """Whether a file's first bytes are DICOM's: 128 of any kind and DICM, or at once an element.

    Raises:
        DataError: when it cannot be opened.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_MAGIC_AT + len(_MAGIC))
    except OSError as error:
        found = f"it cannot be opened ({error.strerror or error})"
        raise unreadable(path, found) from error
    if start[_MAGIC_AT:] == _MAGIC:
        return True
    for order in "<>" if len(start) >= 8 else "":
        *tag, length = struct.unpack(f"{order}HHI", start[:8])
        if tuple(tag) in _NO_PREAMBLE:
            explicit = start[4:6].isalpha() and start[4:6].isupper()
            return explicit or (order == "<" and length <= _FIRST_LENGTH)
    return False


def _sop_class(dataset: Any) -> str:
    """The UID of the kind of object that `dataset` is; "" if it does not say."""
    meta = getattr(dataset, "file_meta", {})
    return str(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")

"""The numbers in DICOM files: decompressed, and turned into intensities slice by slice."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.data.formats.dicom.frames import Frame
from transunet.data.formats.dicom.headers import read_dataset, undamaged, unreadable
from transunet.optional import require

JPEG = "pylibjpeg and pylibjpeg-libjpeg"
JPEG_2000 = "pylibjpeg and pylibjpeg-openjpeg"
JPEG_LS = "pyjpegls"

_SYNTAX = "1.2.840.10008.1.2.4."
DECODERS = {
    **{_SYNTAX + end: JPEG for end in ("50", "51", "57", "70")},
    **{_SYNTAX + end: JPEG_LS for end in ("80", "81")},
    **{_SYNTAX + end: JPEG_2000 for end in ("90", "91", "201", "202", "203")},
}
"""Compressed transfer syntax -> packages that decode it; RLE and deflate need none."""

# Their numbers are physical (HU, Bq/ml) whichever way they are displayed.
_PHYSICAL = frozenset({"CT", "PT"})


def read_pixels(frames: Sequence[Frame]) -> NDArray[np.float32]:
    """Read the intensities (slices, rows, columns) of `frames`, each rescaled as its header says.

    MONOCHROME1 images, in which low numbers are bright, are inverted, unless their modality's
    numbers are physical (CT, PET).

    Raises:
        DataError: when a file is damaged, or no package is installed that decompresses it.
    """
    rows, columns = frames[0].shape
    by_file: dict[Path, list[int]] = defaultdict(list)
    for place, frame in enumerate(frames):
        by_file[frame.path].append(place)
    volume = np.empty((len(frames), rows, columns), np.float32)
    for path, places in by_file.items():
        _read_file(path, [frames[place] for place in places], places, volume)
    return volume


def _read_file(
    path: Path, frames: Sequence[Frame], places: Sequence[int], volume: NDArray[np.float32]
) -> None:
    dataset = read_dataset(path, pixels=True)
    if not any(key in dataset for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise unreadable(path, "it ends before its pixel data")
    undamaged(path, _check_decoder, path, dataset)
    undamaged(path, _check_bits, path, dataset)
    stored = _decoded(dataset, [frame.index for frame in frames])
    for place, frame in zip(places, frames, strict=True):
        pixels = undamaged(path, next, stored)
        if pixels.shape != frame.shape:
            raise unreadable(path, f"it holds {pixels.shape} pixels, its header says {frame.shape}")
        volume[place] = undamaged(path, _intensities, pixels, frame)


def _decoded(dataset: Any, indices: list[int]) -> Iterator[NDArray[Any]]:
    pixels = require("pydicom.pixels", extra="dicom")
    several = int(dataset.get("NumberOfFrames") or 1) > 1
    # pydicom would take the unused bits for the upper ones, whatever HighBit says.
    options = {"raw": True, "correct_unused_bits": False}
    yield from pixels.iter_pixels(dataset, indices=indices if several else None, **options)


def _check_decoder(path: Path, dataset: Any) -> None:
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        available = require("pydicom.pixels", extra="dicom").get_decoder(syntax).is_available
    except NotImplementedError:
        remedy = "Export the series uncompressed"
        raise unreadable(path, f"its transfer syntax {syntax.name} is not known", remedy) from None
    if not available:
        package = DECODERS.get(str(syntax), "python-gdcm")
        remedy = f"Install {package} (pip install), or export the series uncompressed"
        found = f"it is compressed as {syntax.name}, for which no decoder is installed"
        raise unreadable(path, found, remedy)


def _check_bits(path: Path, dataset: Any) -> None:
    """Refuse a HighBit that the numbers cannot have, or that only the decoder would know of."""
    if "PixelData" not in dataset:
        return  # floating point numbers
    stored, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    high = _high_bit(dataset)
    as_they_lie = str(dataset.file_meta.TransferSyntaxUID) not in DECODERS
    if high == stored - 1 or (as_they_lie and stored - 1 < high < allocated):
        return
    found = f"its HighBit is {high}, with BitsStored {stored} and BitsAllocated {allocated}"
    remedy = f"Export it again: the present standard wants HighBit {stored - 1}"
    raise unreadable(path, found, remedy)


def _intensities(stored: NDArray[Any], frame: Frame) -> NDArray[np.float32]:
    """Stored numbers -> intensities, float32."""
    stored = _used_bits(stored, frame.dataset)
    physical = str(frame.dataset.get("Modality")) in _PHYSICAL
    if frame.dataset.get("PhotometricInterpretation") == "MONOCHROME1" and not physical:
        stored = _inverted(stored, frame.dataset)
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as such later
        return (stored.astype(np.float64) * frame.slope + frame.intercept).astype(np.float32)


def _used_bits(stored: NDArray[Any], dataset: Any) -> NDArray[Any]:
    """The number that the stored bits are, without what old scanners keep in the others (overlays).

    Its highest bit is HighBit, which old scanners put at the top of the word.
    """
    if stored.dtype.kind not in "iu":
        return stored
    width, bits = stored.dtype.itemsize * 8, int(dataset.BitsStored)
    above, below = width - 1 - _high_bit(dataset), width - bits
    # Shifting back fills with the sign in signed types and with zeros in unsigned ones.
    return (stored << above) >> below


def _high_bit(dataset: Any) -> int:
    told = dataset.get("HighBit")
    return int(dataset.BitsStored) - 1 if told is None else int(told)


def _inverted(stored: NDArray[Any], dataset: Any) -> NDArray[Any]:
    bits, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
    ends = -1 if signed else 2**bits - 1  # smallest + largest number that the bits can hold
    return ends - stored.astype(np.int64)

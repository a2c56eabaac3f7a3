"""One slice of a DICOM image: where it lies, and its numbers, decompressed, as intensities.

A plain file is one frame; an Enhanced one has many, described by functional groups. Positions and
directions stay in DICOM's convention (LPS) here.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.data.formats.dicom.headers import (
    DIRECTIONS,
    POSITION,
    SPACING,
    read_dataset,
    undamaged,
    unreadable,
    value,
)
from transunet.optional import require

Vector = NDArray[np.float64]

UNIT_TOLERANCE = 1e-3
"""How far directions may be from unit length and from a right angle."""

MAX_PIXELS = 2**28
"""Rows x columns of a frame; the largest of a volume have 4096 x 4096."""

# Where a frame tells its scale: the functional group of an Enhanced file, the attribute.
_THICKNESS = (
    ("PixelMeasuresSequence", "SpacingBetweenSlices"),
    ("PixelMeasuresSequence", "SliceThickness"),
)
_SLOPE = ("PixelValueTransformationSequence", "RescaleSlope")
_INTERCEPT = ("PixelValueTransformationSequence", "RescaleIntercept")

# By what the images of a series at one place differ, in the order in which it is looked for.
_MARKS = (
    ("MREchoSequence", "EffectiveEchoTime"),
    ("", "EchoTime"),
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("", "TemporalPositionIdentifier"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"),
    ("", "NominalPercentageOfCardiacPhase"),
    ("", "TriggerTime"),
    ("FrameContentSequence", "StackID"),
    ("MRImageFrameTypeSequence", "FrameType"),
    ("CTImageFrameTypeSequence", "FrameType"),
    ("", "ImageType"),
    ("FrameContentSequence", "FrameAcquisitionNumber"),
    ("", "AcquisitionNumber"),
    ("", "InversionTime"),
    ("", "KVP"),
    ("", "ConvolutionKernel"),
    ("", "AcquisitionTime"),
)
MAY_ALTERNATE = frozenset(
    {"TriggerTime", "StackID", "FrameAcquisitionNumber", "AcquisitionNumber", "AcquisitionTime"}
)
"""Marks that may differ from slice to slice of one volume, as where odd and even slices are
acquired one after the other; the images that differ in another mark are never one volume."""

# Their numbers are physical (HU, Bq/ml) whichever way they are displayed.
_PHYSICAL = frozenset({"CT", "PT"})


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice: its file, its place, and what its stored numbers mean."""

    path: Path
    dataset: Any
    """The file's header, without pixel data."""
    index: int
    """Which frame of the file, from 0."""
    position: Vector
    """(3,) mm, LPS: the centre of the first pixel."""
    directions: Vector
    """(2, 3): where a row runs (columns increase), where a column runs (rows increase)."""
    pixel_mm: tuple[float, float]
    """Between rows, between columns."""
    thickness_mm: float | None
    """What the header says of the slice axis: the distance of slices, else their thickness."""
    shape: tuple[int, int]
    """Rows, columns."""
    slope: float
    intercept: float
    marks: Mapping[str, str]
    """By what it may differ from other frames at its place, such as EchoTime."""

    @cached_property
    def normal(self) -> Vector:
        """Where the slices are stacked."""
        return np.asarray(np.cross(self.directions[0], self.directions[1]))

    @cached_property
    def offset_mm(self) -> float:
        """Millimetres along the normal."""
        return float(self.position @ self.normal)


def frames_of(path: Path, dataset: Any) -> list[Frame]:
    """Return the frames of a file, from its header.

    Raises:
        DataError: when the header lacks something or contradicts itself.
    """
    with undamaged(path):
        count = int(dataset.get("NumberOfFrames") or 1)
        described = len(dataset.get("PerFrameFunctionalGroupsSequence") or ())
        if described != count and (described or count > 1):
            found = f"it says to have {count} frames and describes {described} of them"
            raise unreadable(path, found)
        return [_frame(path, dataset, index) for index in range(count)]


def read_pixels(frames: Sequence[Frame]) -> NDArray[np.float32]:
    """Read the intensities (slices, rows, columns) of `frames`, each rescaled as its header says.

    MONOCHROME1 images, in which low numbers are bright, are inverted, unless their modality's
    numbers are physical (CT, PET).

    Raises:
        DataError: when a file is damaged, or no package is installed that decompresses it.
    """
    volume = np.empty((len(frames), *frames[0].shape), np.float32)
    by_file: dict[Path, list[int]] = defaultdict(list)
    for index, frame in enumerate(frames):
        by_file[frame.path].append(index)
    for path, indices in by_file.items():
        dataset = read_dataset(path, pixels=True)
        if not any(k in dataset for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            raise unreadable(path, "it ends before its pixel data")
        with undamaged(path):
            _check_decodable(path, dataset)
            several = int(dataset.get("NumberOfFrames") or 1) > 1
            stored = require("pydicom.pixels", extra="dicom").iter_pixels(
                dataset,
                indices=[frames[index].index for index in indices] if several else None,
                raw=True,
                # pydicom would take the unused bits for the upper ones, whatever HighBit says.
                correct_unused_bits=False,
            )
            for index in indices:
                pixels, shape = next(stored), frames[index].shape
                if pixels.shape != shape:
                    found = f"it holds {pixels.shape} pixels, its header says {shape}"
                    raise unreadable(path, found)
                volume[index] = _intensities(pixels, frames[index])
    return volume


def _frame(path: Path, dataset: Any, index: int) -> Frame:
    def numbers(where: tuple[str, str], count: int) -> Vector:
        stated = value(dataset, index, *where)
        if stated is None:
            remedy = "It is cut short, or no slice of a volume: export it again, or remove it"
            raise unreadable(path, f"frame {index + 1} has no {where[1]}", remedy)
        vector = np.atleast_1d(np.array(stated, dtype=np.float64))
        if vector.shape != (count,) or not np.isfinite(vector).all():
            found = f"its {where[1]} is {stated}; expected {count} finite numbers"
            raise unreadable(path, found)
        return vector

    def scale(where: tuple[str, str], default: float) -> float:
        stated = value(dataset, index, *where)
        number = default if stated is None else float(stated)
        if not np.isfinite(number) or (where is _SLOPE and number == 0):
            raise unreadable(path, f"its {where[1]} is {number:g}")
        return number

    position = numbers(POSITION, 3)
    directions = numbers(DIRECTIONS, 6).reshape(2, 3)
    if np.abs(directions @ directions.T - np.eye(2)).max() > UNIT_TOLERANCE:
        stated = directions.ravel().tolist()
        what = f"its {DIRECTIONS[1]} is {stated}; expected two unit vectors at a right angle"
        raise unreadable(path, what)
    row_mm, column_mm = numbers(SPACING, 2).tolist()
    if min(row_mm, column_mm) <= 0:
        found = f"its PixelSpacing is {row_mm}, {column_mm} mm; expected more than 0"
        raise unreadable(path, found)
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    if min(rows, columns) < 1 or rows * columns > MAX_PIXELS:
        raise unreadable(path, f"it says to have {rows} rows and {columns} columns")
    if dataset.get("ModalityLUTSequence"):
        remedy = "Export it with rescale slope and intercept"
        raise unreadable(path, "its intensities are given by a lookup table", remedy)
    thickness = [value(dataset, index, *where) for where in _THICKNESS]
    marks = {keyword: value(dataset, index, group, keyword) for group, keyword in _MARKS}
    return Frame(
        path,
        dataset,
        index,
        position=position,
        directions=directions,
        pixel_mm=(row_mm, column_mm),
        thickness_mm=next((abs(float(mm)) for mm in thickness if mm), None),
        shape=(rows, columns),
        slope=scale(_SLOPE, 1.0),
        intercept=scale(_INTERCEPT, 0.0),
        marks={keyword: str(mark) for keyword, mark in marks.items() if mark is not None},
    )


def _check_decodable(path: Path, dataset: Any) -> None:
    """Refuse compression that nothing decodes, and a HighBit that only the decoder would know."""
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = require("pydicom.pixels", extra="dicom").get_decoder(syntax)
    except NotImplementedError:
        remedy = "Export the series uncompressed"
        raise unreadable(path, f"its transfer syntax {syntax.name} is not known", remedy) from None
    if not decoder.is_available:
        needs = [text.partition("requires ")[2] for text in decoder.missing_dependencies[::-1]]
        remedy = f"Install {needs[0]} (pip install), or export the series uncompressed"
        found = f"it is compressed as {syntax.name}, for which no decoder is installed"
        raise unreadable(path, found, remedy)
    if "PixelData" not in dataset:
        return  # floating point numbers
    stored, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    high = _high_bit(dataset)
    as_they_lie = not syntax.is_encapsulated or syntax.name == "RLE Lossless"
    if high != stored - 1 and not (as_they_lie and stored - 1 < high < allocated):
        found = f"its HighBit is {high}, with BitsStored {stored} and BitsAllocated {allocated}"
        remedy = f"Export it again: the present standard wants HighBit {stored - 1}"
        raise unreadable(path, found, remedy)


def _intensities(stored: NDArray[Any], frame: Frame) -> NDArray[np.float32]:
    """Stored numbers -> intensities, float32."""
    dataset = frame.dataset
    if stored.dtype.kind in "iu":
        # Without what old scanners keep in the other bits (overlays). The highest bit of the number
        # is HighBit, which they put at the top of the word. Shifting back fills with the sign in
        # signed types and with zeros in unsigned ones.
        width = stored.dtype.itemsize * 8
        stored = (stored << (width - 1 - _high_bit(dataset))) >> (width - int(dataset.BitsStored))
    physical = str(dataset.get("Modality")) in _PHYSICAL
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1" and not physical:
        bits, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
        ends = -1 if signed else 2**bits - 1  # smallest + largest number that the bits can hold
        stored = ends - stored.astype(np.int64)
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as such later
        return (stored.astype(np.float64) * frame.slope + frame.intercept).astype(np.float32)


def _high_bit(dataset: Any) -> int:
    stated = dataset.get("HighBit")
    return int(dataset.BitsStored) - 1 if stated is None else int(stated)

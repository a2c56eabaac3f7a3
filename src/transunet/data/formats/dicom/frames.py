"""One slice of a DICOM image: where it lies and how its numbers become intensities.

A plain file is one frame; an Enhanced one has many, described by functional groups. Positions and
directions stay in DICOM's convention (LPS) here.
"""

from collections.abc import Mapping
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
    undamaged,
    unreadable,
    value,
)

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
    def place(self) -> float:
        """Millimetres along the normal."""
        return float(self.position @ self.normal)


def frames_of(path: Path, dataset: Any) -> list[Frame]:
    """Return the frames of a file, from its header.

    Raises:
        DataError: when the header lacks something or contradicts itself.
    """
    return undamaged(path, _frames, path, dataset)


def _frames(path: Path, dataset: Any) -> list[Frame]:
    return [_frame(path, dataset, index) for index in range(_count(path, dataset))]


def _count(path: Path, dataset: Any) -> int:
    count = int(dataset.get("NumberOfFrames") or 1)
    described = len(dataset.get("PerFrameFunctionalGroupsSequence") or ())
    if described != count and (described or count > 1):
        raise unreadable(path, f"it says to have {count} frames and describes {described} of them")
    return count


def _frame(path: Path, dataset: Any, index: int) -> Frame:
    thickness = [value(dataset, index, *where) for where in _THICKNESS]
    return Frame(
        path,
        dataset,
        index,
        position=_numbers(path, dataset, index, POSITION, 3),
        directions=_directions(path, dataset, index),
        pixel_mm=_spacing(path, dataset, index),
        thickness_mm=next((abs(float(mm)) for mm in thickness if mm), None),
        shape=_shape(path, dataset),
        slope=_scale(path, dataset, index, _SLOPE, 1.0),
        intercept=_scale(path, dataset, index, _INTERCEPT, 0.0),
        marks=_marks(dataset, index),
    )


def _numbers(
    path: Path, dataset: Any, index: int, where: tuple[str, str], count: int
) -> NDArray[np.float64]:
    found = value(dataset, index, *where)
    if found is None:
        remedy = "It is cut short, or no slice of a volume: export it again, or remove it"
        raise unreadable(path, f"frame {index + 1} has no {where[1]}", remedy)
    numbers = np.atleast_1d(np.array(found, dtype=np.float64))
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise unreadable(path, f"its {where[1]} is {found}; expected {count} finite numbers")
    return numbers


def _directions(path: Path, dataset: Any, index: int) -> Vector:
    directions = _numbers(path, dataset, index, DIRECTIONS, 6).reshape(2, 3)
    if np.abs(directions @ directions.T - np.eye(2)).max() > UNIT_TOLERANCE:
        found = directions.ravel().tolist()
        what = f"its {DIRECTIONS[1]} is {found}; expected two unit vectors at a right angle"
        raise unreadable(path, what)
    return directions


def _spacing(path: Path, dataset: Any, index: int) -> tuple[float, float]:
    rows, columns = _numbers(path, dataset, index, SPACING, 2).tolist()
    if min(rows, columns) <= 0:
        raise unreadable(path, f"its PixelSpacing is {rows}, {columns} mm; expected more than 0")
    return rows, columns


def _shape(path: Path, dataset: Any) -> tuple[int, int]:
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    if min(rows, columns) < 1 or rows * columns > MAX_PIXELS:
        raise unreadable(path, f"it says to have {rows} rows and {columns} columns")
    return rows, columns


def _scale(path: Path, dataset: Any, index: int, where: tuple[str, str], default: float) -> float:
    if dataset.get("ModalityLUTSequence"):
        remedy = "Export it with rescale slope and intercept"
        raise unreadable(path, "its intensities are given by a lookup table", remedy)
    found = value(dataset, index, *where)
    number = default if found is None else float(found)
    if not np.isfinite(number) or (where is _SLOPE and number == 0):
        raise unreadable(path, f"its {where[1]} is {number:g}")
    return number


def _marks(dataset: Any, index: int) -> dict[str, str]:
    marks = {}
    for group, keyword in _MARKS:
        found = value(dataset, index, group, keyword)
        if found is not None:
            marks[keyword] = str(found)
    return marks

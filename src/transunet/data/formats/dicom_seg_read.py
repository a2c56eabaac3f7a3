"""DICOM segmentations (SEG) back to label maps: anybody's that lie on the image's grid."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.data.formats.dicom_files import (
    is_dicom,
    read_dataset,
    undamaged,
    unreadable,
    value,
)
from transunet.data.formats.dicom_frames import Frame, frames_of
from transunet.data.formats.dicom_grid import LPS_TO_RAS
from transunet.data.problems import Problem
from transunet.data.volume import Grid, Volume, same_grid
from transunet.errors import ConfigError
from transunet.extras import require


@dataclass(frozen=True)
class _Segments:
    path: Path
    dataset: Any
    kind: str
    """BINARY, FRACTIONAL or LABELMAP."""
    largest: int
    """The largest segment number."""

    def labels(self, frame: Frame, stored: NDArray[Any]) -> NDArray[Any]:
        """Stored numbers of a frame -> segment numbers, 0 outside."""
        if self.kind == "LABELMAP":
            return stored
        inside = stored > 0
        if self.kind == "FRACTIONAL":
            inside = stored >= int(self.dataset.MaximumFractionalValue) / 2
        number = _segment_number(self.dataset, frame.index)
        return np.where(inside, number, 0)


def read_seg(path: Path, like: Volume) -> Volume:
    """Read a DICOM SEG onto the grid of the image it belongs to.

    Args:
        path: the file, binary, fractional (half or more counts) or a label map.
        like: the image; slices without frames in the file have no labels.

    Returns:
        (1, X, Y, Z) uint8 or uint16, segment numbers as labels, on the grid of `like`.

    Raises:
        ConfigError: without pydicom, or when there is no such file.
        DataError: when it is damaged, is no SEG, or segments overlap.
        GeometryError: when it lies on another grid.
    """
    segments = _open(path)
    frames = frames_of(path, segments.dataset)
    axes = _orientation(frames[0])
    there = like.reoriented(axes)
    dtype = np.uint8 if segments.largest <= 255 else np.uint16
    out = np.zeros((1, *there.spatial_shape[::-1]), dtype)  # slices first: a frame in one piece
    for frame, stored in zip(frames, _pixels(segments), strict=True):
        labels = undamaged(path, segments.labels, frame, stored)
        _put(out[0, _slice_of(frame, there, path)], labels, path)
    return there.with_array(out.transpose(0, 3, 2, 1)).reoriented(like.orientation)


def segment_names(path: Path) -> dict[int, str]:
    """Return segment number -> label of a DICOM SEG.

    Raises:
        As `read_seg`.
    """
    dataset = _open(path, pixels=False).dataset
    items = dataset.SegmentSequence
    return undamaged(path, lambda: {int(s.SegmentNumber): str(s.SegmentLabel) for s in items})


def _segment_number(dataset: Any, index: int) -> int:
    """Return the number of the segment that a frame belongs to."""
    return int(value(dataset, index, "SegmentIdentificationSequence", "ReferencedSegmentNumber"))


def _open(path: Path, *, pixels: bool = True) -> _Segments:
    require("pydicom", extra="dicom")
    if not path.is_file():
        raise ConfigError(f"There is no file {path}. Check the path.")
    if not is_dicom(path):
        raise unreadable(path, "it is no DICOM file", "Give a DICOM segmentation")
    dataset = read_dataset(path, pixels=pixels)
    modality = undamaged(path, dataset.get, "Modality")
    if modality != "SEG" or "SegmentSequence" not in dataset:
        found = f"it is no DICOM segmentation (modality {modality})"
        raise unreadable(path, found, "Give a DICOM segmentation")
    return undamaged(path, _segments, path, dataset)


def _segments(path: Path, dataset: Any) -> _Segments:
    kind = str(dataset.SegmentationType)
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise unreadable(path, f"its SegmentationType is {kind}")
    largest = max(int(segment.SegmentNumber) for segment in dataset.SegmentSequence)
    if not 0 <= largest <= 65535:
        raise unreadable(path, f"it has a segment number {largest}")
    return _Segments(path, dataset, kind, largest)


def _pixels(segments: _Segments) -> Iterator[NDArray[Any]]:
    decoder = require("pydicom.pixels", extra="dicom")
    frames = iter(decoder.iter_pixels(segments.dataset, raw=True))
    for _ in range(int(segments.dataset.NumberOfFrames)):
        yield undamaged(segments.path, next, frames)


def _put(plane: NDArray[Any], labels: NDArray[Any], path: Path) -> None:
    inside = labels > 0
    if (plane[inside] > 0).any():
        found = "its segments overlap, and a label map has one label per voxel"
        raise unreadable(path, found, "Export them without overlap")
    plane[inside] = labels[inside]


def _orientation(frame: Frame) -> str:
    return Grid((1, 1, 1), _plane(frame, frame.normal)).orientation


def _plane(frame: Frame, step: NDArray[np.float64]) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, 0] = frame.directions[0] * frame.pixel_mm[1]
    affine[:3, 1] = frame.directions[1] * frame.pixel_mm[0]
    affine[:3, 2], affine[:3, 3] = step, frame.position
    return np.asarray(LPS_TO_RAS @ affine)


def _slice_of(frame: Frame, image: Volume, path: Path) -> int:
    """Which slice of `image`, whose axes run as the frame's, the frame lies on."""
    affine = image.affine
    origin = LPS_TO_RAS[:3, :3] @ frame.position
    index = float(np.linalg.solve(affine[:3, :3], origin - affine[:3, 3])[2])
    near = min(max(round(index) if np.isfinite(index) else 0, 0), image.spatial_shape[2] - 1)
    expected = affine.copy()
    expected[:3, 3] = affine[:3, 3] + near * affine[:3, 2]
    rows, columns = frame.shape
    found = Grid((columns, rows, 1), _plane(frame, LPS_TO_RAS[:3, :3] @ affine[:3, 2]), str(path))
    here = Grid((*image.spatial_shape[:2], 1), expected, image.name)
    if difference := same_grid(found, here):
        what = f"a frame of it does not lie on a slice of {image.name}: {difference}"
        raise Problem(
            "seg-grid", str(path), what, "Read it with its own image", geometry=True
        ).error()
    return near

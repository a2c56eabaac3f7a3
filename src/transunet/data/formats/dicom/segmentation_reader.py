"""DICOM segmentations (SEG) back to label maps: anybody's that lie on the image's grid.

A file holds the slices that have labels only. Without an image, the label map reaches from its
first slice to its last.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.data.checks.problems import Problem
from transunet.data.formats.dicom.frames import Frame, frames_of
from transunet.data.formats.dicom.headers import (
    is_called_dicom,
    is_dicom,
    read_dataset,
    undamaged,
    unreadable,
    value,
    why_no_slice,
)
from transunet.data.formats.dicom.slice_grid import GRID_TOLERANCE, LPS_TO_RAS, by_place
from transunet.data.volume import Grid, Volume, same_grid
from transunet.errors import ConfigError
from transunet.optional import require

_GIVE_IMAGE = "Give the image that it belongs to"
_SAME_MM = 1e-3  # positions are rounded in headers


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


def read_seg(path: Path, like: Volume | Grid | None = None) -> Volume:
    """Read a DICOM SEG onto the grid of the image it belongs to.

    Args:
        path: the file, binary, fractional (half or more counts) or a label map.
        like: the image or its grid; slices without frames in the file have no labels. None: the
            smallest grid that holds the file's frames, `seg_grid`.

    Returns:
        (1, X, Y, Z) uint8 or uint16, segment numbers as labels, on the grid of `like`.

    Raises:
        ConfigError: without pydicom, or when there is no such file.
        DataError: when it is damaged, is no SEG, or segments overlap.
        GeometryError: when it lies on another grid.
    """
    segments = _open(path)
    frames = frames_of(path, segments.dataset)
    grid = like or _grid(frames, path)
    if isinstance(grid, Grid):
        nothing = np.broadcast_to(np.uint8(0), (1, *grid.spatial_shape))
        grid = Volume(nothing, grid.affine, grid.name)
    axes = _orientation(frames[0])
    there = grid.reoriented(axes)
    dtype = np.uint8 if segments.largest <= 255 else np.uint16
    out = np.zeros((1, *there.spatial_shape[::-1]), dtype)  # slices first: a frame in one piece
    for frame, stored in zip(frames, _pixels(segments), strict=True):
        labels = undamaged(path, segments.labels, frame, stored)
        _put(out[0, _slice_of(frame, there, path)], labels, path)
    return there.with_array(out.transpose(0, 3, 2, 1)).reoriented(grid.orientation)


def seg_grid(paths: Sequence[Path]) -> Grid:
    """Return the smallest grid that holds the frames of DICOM SEGs of one image.

    Raises:
        As `read_seg`; GeometryError also when the frames do not lie on one grid.
    """
    frames = [
        frame for path in paths for frame in frames_of(path, _open(path, pixels=False).dataset)
    ]
    return _grid(frames, paths[0])


def is_seg(path: Path) -> bool:
    """Whether a file is a DICOM SEG."""
    return path.is_file() and is_called_dicom(path) and why_no_slice(path) == "SEG"


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


def _grid(frames: Sequence[Frame], path: Path) -> Grid:
    """The grid from the first frame to the last, of the step that the file tells if that fits."""
    ordered = by_place(frames)
    first, last = ordered[0], ordered[-1]
    places = np.array([frame.place for frame in ordered]) - first.place
    gaps = np.diff(places)
    gaps = gaps[gaps > _SAME_MM]
    told = first.thickness_mm
    if not gaps.size:
        step, count = told or 1.0, 1
    else:
        step = next((s for s in (told, float(gaps.min())) if s and _on_steps(places, s)), 0.0)
        if not step:
            found = "its frames are not evenly spaced, so that they make no grid of their own"
            raise Problem("seg-grid", str(path), found, _GIVE_IMAGE, geometry=True).error()
        count = round(places[-1] / step) + 1
    along = (last.position - first.position) / (count - 1) if count > 1 else first.normal * step
    rows, columns = first.shape
    return Grid((columns, rows, count), _plane(first, along), str(path))


def _on_steps(places: NDArray[np.float64], step: float) -> bool:
    steps = places / step
    return bool(np.abs(steps - np.rint(steps)).max() <= GRID_TOLERANCE)


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
        raise Problem("seg-grid", str(path), what, _GIVE_IMAGE, geometry=True).error()
    return near

"""The series in a folder, told apart, listed, and chosen from."""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise, takewhile
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from transunet.data.checks.problems import DataProblemError, Problem
from transunet.data.formats.archive import Unpacked, is_zip
from transunet.data.formats.dicom.frames import MAY_ALTERNATE, Frame, frames_of, read_pixels
from transunet.data.formats.dicom.headers import (
    OTHER,
    SUFFIXES,
    UNPLACED,
    is_called_dicom,
    is_volume_class,
    look_at,
    undamaged,
    unreadable,
)
from transunet.data.formats.dicom.slice_grid import (
    GRID_TOLERANCE,
    SAME_MM,
    affine_of,
    coincident,
    is_even,
)
from transunet.data.text import count_of_each
from transunet.data.volume import Grid
from transunet.data.walking import walk
from transunet.errors import ConfigError, DataError
from transunet.optional import require

DIRECTION_TOLERANCE = 1e-3
"""Directions and relative pixel sizes that differ by less are the same."""

_KIND = ("Modality", "Rows", "Columns", "ImageType")  # in which slices of a series agree
_PLANES = ("sagittal", "coronal", "axial")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Series:
    """Slices that were made to be looked at together: one orientation, size, phase and echo."""

    uid: str
    """SeriesInstanceUID."""
    number: int
    """SeriesNumber, 0 where it has none."""
    description: str
    modality: str
    frames: tuple[Frame, ...]
    """Sorted along their normal."""
    source: str
    """Where it was found, for errors."""
    part: str = ""
    """What tells it from other parts of the same series, such as "axial" or "EchoTime 4.6"."""
    unpacked: Unpacked | None = None
    """Keeps the files of an archive for as long as they may be read."""
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """What else lay beside the slices of all series, and how often: reports, copies, ..."""

    @property
    def slices(self) -> int:
        """How many there are."""
        return len(self.frames)

    @property
    def grid(self) -> Grid:
        """Where its voxels lie.

        Raises:
            GeometryError: when slices are missing, doubled, unevenly spaced, shifted or tilted.
        """
        rows, columns = self.frames[0].shape
        affine = affine_of(self.frames, self.source)
        return Grid((columns, rows, self.slices), affine, self.source)

    @property
    def datasets(self) -> list[Any]:
        """The headers of its files, without pixel data, in the order of the slices."""
        return list({id(frame.dataset): frame.dataset for frame in self.frames}.values())

    def __str__(self) -> str:
        rows, columns = self.frames[0].shape
        text = f"{self.modality} {self.description or '(no description)'!r}, {self.slices} slices "
        part = f", {self.part}" if self.part else ""
        return f"{text}of {columns} x {rows}{part}, {self.uid}"


@dataclass(frozen=True)
class ListedSeries:
    """One of several series at a path, as a user chooses it."""

    number: int
    """In the list, from 1."""
    uid: str
    """SeriesInstanceUID."""
    modality: str
    description: str
    slices: int
    part: str
    """What tells it from other choices of the same UID; empty where there are none."""


class SeveralSeriesError(DataProblemError):
    """Several series, and none was chosen."""

    choices: tuple[ListedSeries, ...] = ()
    """Those there are."""


class NoSuchSeriesError(ConfigError):
    """The series that was asked for is not there."""

    choices: tuple[ListedSeries, ...] = ()
    """Those there are."""


def open_series(path: Path | Sequence[Path], wanted: str | int | None = None) -> Series:
    """Return the series at `path` that is `wanted`; note what is passed over.

    What is wrong with other series does not matter where a UID is given. Arguments and errors as
    `find_series` and `choose_series`.
    """
    uid = None if wanted is None or str(wanted).isdecimal() else str(wanted)
    available = find_series(path, uid)
    if uid is not None and len(available) > 1:
        available = find_series(path)  # parts of one series are chosen by their number among all
    series = choose_series(available, wanted)
    if series.passed_over:
        _log.info("%s: passed over: %s", series.source, count_of_each(series.passed_over))
    return series


def find_series(path: Path | Sequence[Path], uid: str | None = None) -> list[Series]:
    """Return the image series at `path`, by series number: at least one.

    Slices of one SeriesInstanceUID are told apart by size, pixel size and orientation, and, where
    several lie at each place or the stacks of several lie between each other, by what their headers
    call them (echo, phase, b-value and so on). Identical copies of a slice count once.

    Args:
        path: a folder (with the folders in it), a zip of one, or some files.
        uid: look at the series with this SeriesInstanceUID only, where there is one.

    Raises:
        ConfigError: without pydicom, or for a path that does not exist.
        DataError: for a damaged file, an unsafe archive, or when there is no series.
    """
    require("pydicom", extra="dicom")
    source = str(path) if isinstance(path, Path) else str(path[0].parent) if path else "no files"
    unpacked: Unpacked | None = None
    files: list[Path] = []
    skipped: Counter[str] = Counter()
    for given in [path] if isinstance(path, Path) else path:
        if not given.exists():
            raise ConfigError(f"There is no file or folder {given}. Check the path.")
        if given.is_file() and is_zip(given):
            unpacked = Unpacked(given)
        folder = unpacked.folder if unpacked else given
        if folder.is_file():
            files.append(folder)
            continue
        walked = walk(folder)
        files += walked.files
        if walked.not_followed:
            skipped["links that lead to nothing new"] += len(walked.not_followed)
    images, unplaced = [], []
    for file in files:
        dataset, kind = look_at(file)
        if kind is None:
            images.append((file, dataset, _uid(file, dataset)))
        elif kind == OTHER and file.suffix.lower() in SUFFIXES:
            found = "it does not begin as a DICOM file does (128 bytes, then DICM; or an element)"
            raise unreadable(file, found)
        elif kind.endswith(UNPLACED) and is_volume_class(dataset):
            unplaced.append((file, dataset, kind))
        else:
            skipped[kind] += 1
    wanted = uid if uid in {uid_of_file for *_, uid_of_file in images} else None
    by_uid: dict[str, list[Frame]] = defaultdict(list)
    for file, dataset, uid_of_file in images:
        if wanted in (None, uid_of_file):
            if not uid_of_file:
                raise unreadable(file, "its header has no SeriesInstanceUID")
            by_uid[uid_of_file].extend(frames_of(file, dataset))
    for file, dataset, kind in unplaced:
        others = [frame.dataset for frame in by_uid.get(_uid(file, dataset), ())]
        with undamaged(file):
            alike = any(all(dataset.get(k) == other.get(k) for k in _KIND) for other in others)
        if alike:
            frames_of(file, dataset)  # raises: a slice that lost its place would be missed
        skipped[kind] += 1
    if not by_uid:
        found = f"it holds no DICOM image series; found: {count_of_each(skipped) or 'no files'}"
        remedy = "Give the folder of a CT, MR or PET series whose images have positions"
        raise Problem("no-series", source, found, remedy).error()
    result = []
    for uid_of_series, frames in by_uid.items():
        first = frames[0].dataset
        with undamaged(frames[0].path):
            number = int(first.get("SeriesNumber") or 0)
            description = str(first.get("SeriesDescription") or "")
            modality = str(first.get("Modality") or "?")
        for geometry, alike_frames in _by_geometry(frames):
            ordered = sorted(alike_frames, key=attrgetter("offset_mm"))
            for part, slices in _by_mark(geometry, _without_copies(ordered, skipped)):
                about = (uid_of_series, number, description, modality, tuple(slices), source, part)
                result.append(Series(*about, unpacked, skipped))
    return sorted(result, key=attrgetter("number", "uid"))


def are_slices(paths: Sequence[Path]) -> bool:
    """Whether files are slices of a DICOM series, given one by one; not an image or channel each.

    Several DICOM files are, if two of one series lie at different places. What is no slice may be
    among them, as in a folder.

    Raises:
        ConfigError: without pydicom.
    """
    if len(paths) < 2 or not all(path.is_file() and is_called_dicom(path) for path in paths):
        return False
    positions: dict[str, Any] = {}
    for path in paths:
        try:
            dataset, kind = look_at(path)
            if kind:
                continue
            position = frames_of(path, dataset)[0].position
        except DataError:  # told when it is read
            continue
        first = positions.setdefault(_uid(path, dataset), position)
        if not np.allclose(position, first, atol=SAME_MM):
            return True
    return False


def choose_series(available: Sequence[Series], wanted: str | int | None = None) -> Series:
    """Return one of the series that `find_series` returned.

    Args:
        available: those.
        wanted: its SeriesInstanceUID, or its number in the list, from 1; None where there is one.

    Raises:
        NoSuchSeriesError: when none of them is wanted.
        SeveralSeriesError: when there are several and `wanted` is None, or several have the UID.
    """
    if wanted is None:
        chosen = list(available)
    elif str(wanted).isdecimal():
        chosen = [series for number, series in enumerate(available, 1) if number == int(wanted)]
    else:
        chosen = [series for series in available if series.uid == wanted]
    if len(chosen) == 1:
        return chosen[0]
    source, holds = available[0].source, listing(available)
    remedy = (
        "Choose one by its number or UID: series=1 in Python and in a request, --series 1 on the "
        "command line (--series all predicts each)"
    )
    found = f"it holds {len(available)} series:\n{holds}\nand one is read at a time"
    several = SeveralSeriesError(Problem("several-series", source, found, remedy))
    none = NoSuchSeriesError(f"{source}: has no series {wanted}; it holds:\n{holds}")
    error = several if chosen else none
    error.choices = tuple(
        ListedSeries(number, s.uid, s.modality, s.description, s.slices, s.part)
        for number, s in enumerate(available, 1)
    )
    raise error


def listing(available: Sequence[Series]) -> str:
    """Return one line per series, numbered from 1."""
    return "\n".join(f"  {number}. {series}" for number, series in enumerate(available, 1))


def _uid(path: Path, dataset: Any) -> str:
    with undamaged(path):
        return str(dataset.get("SeriesInstanceUID") or "")


def _by_geometry(frames: Sequence[Frame]) -> list[tuple[str, list[Frame]]]:
    """Split by size, pixel size and orientation; each part with its name, "" for a single one."""
    parts: list[list[Frame]] = []
    for frame in frames:
        for part in parts:
            first = part[0]
            if (
                first.shape == frame.shape
                and np.allclose(first.pixel_mm, frame.pixel_mm, rtol=DIRECTION_TOLERANCE, atol=0)
                and np.abs(first.directions - frame.directions).max() <= DIRECTION_TOLERANCE
            ):
                part.append(frame)
                break
        else:
            parts.append([frame])
    if len(parts) == 1:
        return [("", parts[0])]
    named = []
    for part in parts:
        plane = _PLANES[int(np.abs(part[0].normal).argmax())]
        rows, columns = part[0].pixel_mm
        named.append((f"{plane}, pixels of {columns:.4g} x {rows:.4g} mm", part))
    return named


def _without_copies(frames: list[Frame], skipped: Counter[str]) -> list[Frame]:
    """Leave out the copies of slices, sorted by place; where two of them differ, leave out none."""
    if not coincident(frames):
        return frames
    kept: list[Frame] = []
    for frame in frames:
        here = takewhile(lambda other: frame.offset_mm - other.offset_mm <= SAME_MM, reversed(kept))  # noqa: B023
        twins = [
            other
            for other in here
            if np.abs(other.position - frame.position).max() <= SAME_MM
            and other.marks == frame.marks
        ]
        if any(not np.array_equal(read_pixels([other]), read_pixels([frame])) for other in twins):
            return frames  # reading them tells of the duplicates
        if not twins:
            kept.append(frame)
    if len(kept) < len(frames):
        skipped["identical copies of slices"] += len(frames) - len(kept)
    return kept


def _by_mark(name: str, frames: list[Frame]) -> list[tuple[str, list[Frame]]]:
    """Split stacks of slices that lie at the same places, or between each other, by what they are.

    By the first mark that makes whole stacks of them. Where none does, they stay together, and
    reading them tells of the duplicates.
    """
    at_one_place = bool(coincident(frames))
    for mark in dict.fromkeys(mark for frame in frames for mark in frame.marks):
        stacks: dict[str, list[Frame]] = defaultdict(list)
        for frame in frames:
            stacks[frame.marks.get(mark, "none")].append(frame)
        parts = list(stacks.values())
        if len(parts) > 1 and (
            _are_stacks(frames, parts) if at_one_place else _lie_between(frames, parts, mark)
        ):
            names = [", ".join(filter(None, (name, f"{mark} {value}"))) for value in stacks]
            return list(zip(names, parts, strict=True))
    return [(name, frames)]


def _are_stacks(frames: Sequence[Frame], stacks: Sequence[list[Frame]]) -> bool:
    """Whether slices at the same places are whole stacks, or all lie above each other somewhere.

    A stack may lack slices, or have only a few: those that were taken while waiting for contrast.
    """
    if any(coincident(stack) for stack in stacks):
        return False
    above = {id(second) for _, second in coincident(frames)}
    heights = accumulate((id(frame) in above for frame in frames), lambda n, up: (n + 1) * up)
    return len({len(stack) for stack in stacks}) == 1 or max(heights) + 1 == len(stacks)


def _lie_between(frames: Sequence[Frame], stacks: Sequence[list[Frame]], mark: str) -> bool:
    """Whether slices that differ in `mark` are even stacks, and lie between each other's.

    Read as one volume they would look like slices of a part of their true distance.
    """
    if any(len(stack) < 2 or not is_even(stack) for stack in stacks):
        return False
    ranges = sorted((stack[0].offset_mm, stack[-1].offset_mm) for stack in stacks)
    if all(last < first for (_, last), (first, _) in pairwise(ranges)):
        return False  # one after the other, as where a table moves between acquisitions
    if mark not in MAY_ALTERNATE:
        return True
    step = (frames[-1].offset_mm - frames[0].offset_mm) / (len(frames) - 1)
    stated = frames[0].thickness_mm
    return stated is None or stated > step * (1 + GRID_TOLERANCE)

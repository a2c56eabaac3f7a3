"""The series in a folder, told apart, listed, and chosen from."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from transunet.data.formats.archive import Unpacked
from transunet.data.formats.dicom_files import scan, undamaged, unreadable
from transunet.data.formats.dicom_frames import Frame, frames_of
from transunet.data.formats.dicom_grid import by_place, same_place
from transunet.data.problems import DataProblemError, Problem
from transunet.errors import ConfigError, TransUNetError

DIRECTION_TOLERANCE = 1e-3
"""Directions and relative pixel sizes that differ by less are the same."""

_PLANES = ("sagittal", "coronal", "axial")


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

    @property
    def slices(self) -> int:
        """How many there are."""
        return len(self.frames)

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
class SeriesChoice:
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
    """Several series, and none was chosen: `choices` are those there are."""

    def __init__(self, problem: Problem, choices: Sequence[SeriesChoice]) -> None:
        super().__init__(problem)
        self.choices = tuple(choices)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:  # so that it can come from a process
        return type(self), (self.problem, self.choices)


class NoSuchSeriesError(ConfigError):
    """The series that was asked for is not there: `choices` are those there are."""

    def __init__(self, message: str, choices: Sequence[SeriesChoice]) -> None:
        super().__init__(message)
        self.choices = tuple(choices)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:  # so that it can come from a process
        return type(self), (str(self), self.choices)


def find_series(path: Path | Sequence[Path]) -> list[Series]:
    """Return the image series at `path`, by series number: at least one.

    Slices of one SeriesInstanceUID are told apart by size, pixel size and orientation, and, where
    several lie at each place, by what their headers call them (echo, phase, b-value and so on).

    Args:
        path: a folder (with the folders in it), a zip of one, or some files.

    Raises:
        ConfigError: without pydicom, or for a path that does not exist.
        DataError: for a damaged file, an unsafe archive, or when there is no series.
    """
    found = scan(path)
    source = str(path) if isinstance(path, Path) else _common(path)
    by_uid: dict[str, list[Frame]] = defaultdict(list)
    for file, dataset in found.images:
        uid = undamaged(file, _uid, dataset)
        if not uid:
            raise unreadable(file, "its header has no SeriesInstanceUID")
        by_uid[uid].extend(frames_of(file, dataset))
    if not by_uid:
        raise _nothing(source, found.skipped)
    parts = [part for uid, frames in by_uid.items() for part in _series(uid, frames, source)]
    parts.sort(key=lambda series: (series.number, series.uid))
    return [replace(series, unpacked=found.unpacked) for series in parts]


def choose_series(found: Sequence[Series], wanted: str | int | None = None) -> Series:
    """Return one of `found`.

    Args:
        found: as `find_series` returns them.
        wanted: its SeriesInstanceUID, or its number in the list, from 1; None where there is one.

    Raises:
        NoSuchSeriesError: when none of them is wanted.
        SeveralSeriesError: when there are several and `wanted` is None, or several have the UID.
    """
    if wanted is None:
        chosen = list(found)
    elif str(wanted).isdecimal():
        chosen = list(found[int(wanted) - 1 : int(wanted)] if int(wanted) else ())
    else:
        chosen = [series for series in found if series.uid == wanted]
    source = found[0].source
    if not chosen:
        message = f"{source}: has no series {wanted}; it holds:\n{listing(found)}"
        raise NoSuchSeriesError(message, choices(found))
    if len(chosen) > 1:
        what = f"it holds {len(found)} series:\n{listing(found)}\nand one is read at a time"
        remedy = (
            "Choose one by its number or UID: series=1 in Python and in a request, --series 1 on "
            "the command line (--series all predicts each)"
        )
        problem = Problem("several-series", source, what, remedy)
        raise SeveralSeriesError(problem, choices(found))
    return chosen[0]


def choices(found: Sequence[Series]) -> list[SeriesChoice]:
    """Return what a user chooses from, in the order of `found`."""
    return [
        SeriesChoice(n, one.uid, one.modality, one.description, one.slices, one.part)
        for n, one in enumerate(found, 1)
    ]


def listing(found: Sequence[Series]) -> str:
    """Return one line per series, numbered from 1."""
    return "\n".join(f"  {number}. {series}" for number, series in enumerate(found, 1))


def _series(uid: str, frames: Sequence[Frame], source: str) -> list[Series]:
    dataset, path = frames[0].dataset, frames[0].path
    number, description, modality = undamaged(path, _names, dataset)
    return [
        Series(uid, number, description, modality, tuple(part), source, name)
        for name, alike in _by_geometry(frames)
        for name, part in _by_mark(name, by_place(alike))
    ]


def _uid(dataset: Any) -> str:
    return str(dataset.get("SeriesInstanceUID") or "")


def _names(dataset: Any) -> tuple[int, str, str]:
    return (
        int(dataset.get("SeriesNumber") or 0),
        str(dataset.get("SeriesDescription") or ""),
        str(dataset.get("Modality") or "?"),
    )


def _by_geometry(frames: Sequence[Frame]) -> list[tuple[str, list[Frame]]]:
    parts: list[list[Frame]] = []
    for frame in frames:
        home = next((part for part in parts if _alike(part[0], frame)), None)
        if home is None:
            parts.append([frame])
        else:
            home.append(frame)
    return [(_geometry(part[0]) if len(parts) > 1 else "", part) for part in parts]


def _alike(a: Frame, b: Frame) -> bool:
    return (
        a.shape == b.shape
        and np.allclose(a.pixel_mm, b.pixel_mm, rtol=DIRECTION_TOLERANCE, atol=0)
        and np.abs(a.directions - b.directions).max() <= DIRECTION_TOLERANCE
    )


def _geometry(frame: Frame) -> str:
    plane = _PLANES[int(np.abs(frame.normal).argmax())]
    rows, columns = frame.pixel_mm
    return f"{plane}, pixels of {columns:.4g} x {rows:.4g} mm"


def _by_mark(name: str, frames: list[Frame]) -> list[tuple[str, list[Frame]]]:
    """Split slices that lie at the same places by the first mark that makes whole stacks of them.

    Where none does, they stay together, and reading them tells of the duplicates.
    """
    if not same_place(frames):
        return [(name, frames)]
    for mark in dict.fromkeys(mark for frame in frames for mark in frame.marks):
        stacks = _grouped(frames, mark)
        if len(stacks) > 1 and _are_stacks(list(stacks.values())):
            names = [", ".join(filter(None, (name, f"{mark} {value}"))) for value in stacks]
            return list(zip(names, stacks.values(), strict=True))
    return [(name, frames)]


def _are_stacks(stacks: Sequence[list[Frame]]) -> bool:
    sizes = {len(stack) for stack in stacks}
    return len(sizes) == 1 and not any(same_place(stack) for stack in stacks)


def _grouped(frames: Sequence[Frame], mark: str) -> dict[str, list[Frame]]:
    groups: dict[str, list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[frame.marks.get(mark, "none")].append(frame)
    return groups


def _common(paths: Sequence[Path]) -> str:
    return str(paths[0].parent) if paths else "no files"


def _nothing(source: str, skipped: Mapping[str, int]) -> TransUNetError:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()))
    found = f"it holds no DICOM image series; found: {kinds or 'no files'}"
    remedy = "Give the folder of a CT, MR or PET series whose images have positions"
    return Problem("no-series", source, found, remedy).error()

"""Every problem in a data set, with its file and its remedy, before anything runs.

What a single case shows is found by the same functions that reading it calls (`cases.py`), so that
preparing and training refuse an error in the same words. Problems of cases without a label are
warnings: nothing trains on them.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from transunet.data.cases import (
    Case,
    DataSet,
    file_problems,
    image_problems,
    label_problems,
    labels_missing,
)
from transunet.data.checks.problems import Problem, problem_of
from transunet.data.formats import header_contradictions, read_labels, read_volume
from transunet.data.formats.raster import COLOUR
from transunet.data.layouts import open_dataset
from transunet.data.processes import Progress, spread
from transunet.data.split_rules import splits_of
from transunet.data.splits import Splits
from transunet.data.text import extents
from transunet.data.volume import Grid, Volume
from transunet.errors import ConfigError, TransUNetError

SPACING_TOLERANCE = 0.1
"""A case whose spacing differs from the median by more than this share is reported."""

_TOLD = ("severity", "kind", "where", "found", "remedy")  # of a problem, in JSON


@dataclass(frozen=True)
class CaseReport:
    """What was found in one case."""

    case: Case
    problems: tuple[Problem, ...]
    grid: Grid | None = None
    """The image's; None where it could not be read."""
    image: str | None = None
    """SHA-256 of the image's voxels."""
    label: str | None = None
    """SHA-256 of the label map's voxels."""
    classes: frozenset[int] = frozenset()
    """Class indices that occur."""


@dataclass(frozen=True)
class Report:
    """What was found in a data set."""

    folder: Path
    dataset: DataSet | None
    """None where it could not be opened at all."""
    problems: tuple[Problem, ...]
    """Errors first."""
    cases: tuple[CaseReport, ...] = ()
    splits: Splits | None = None
    """What preparing would make of it; None where it cannot be split."""

    @property
    def errors(self) -> tuple[Problem, ...]:
        """What makes preparing and training refuse the data set."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is worth a look."""
        return tuple(problem for problem in self.problems if problem.severity == "warning")

    def as_json(self) -> dict[str, Any]:
        """Return the report in plain values."""
        return {
            "folder": str(self.folder),
            "dataset": self.dataset.name if self.dataset else None,
            "layout": self.dataset.layout if self.dataset else None,
            "cases": len(self.dataset.cases) if self.dataset else 0,
            "split": self.splits.text() if self.splits else None,
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "problems": [
                {key: getattr(problem, key) for key in _TOLD} for problem in self.problems
            ],
        }


def check(
    folder: Path,
    layout: str | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    ignore: int | None = None,
) -> Report:
    """Look through a data set; every file is read, nothing is written.

    Args:
        folder: the data set.
        layout: as `layouts.open_dataset`.
        workers: processes; each holds one case in memory.
        progress: called after every case with the cases done, all cases, and the name.
        ignore: as `layouts.open_dataset`.

    Raises:
        ConfigError: when the folder does not exist, the layout is not known, or reading a format
            needs a package that is not installed. Everything else is reported.
    """
    try:
        dataset = open_dataset(folder, layout, ignore)
    except ConfigError:
        raise
    except TransUNetError as error:
        return Report(folder, None, (problem_of(error, str(folder)),))
    work = partial(examine, replace(dataset, cases=(), notes=()))
    reports = spread(work, dataset.cases, workers, progress)
    problems = chain(
        dataset.notes,
        labels_missing(dataset),
        (problem for report in reports for problem in report.problems),
        dataset_problems(dataset, reports),
    )
    splits = None
    try:
        splits = splits_of(dataset, [case for case in dataset.cases if case.label])
    except ConfigError:
        pass  # too few cases, which other problems tell
    except TransUNetError as error:  # its own folds
        problems = chain([problem_of(error, str(dataset.folder))], problems)
    errors_first = sorted(problems, key=lambda problem: problem.severity != "error")
    return Report(folder, dataset, tuple(errors_first), tuple(reports), splits)


def examine(dataset: DataSet, case: Case) -> CaseReport:
    """Read one case and say what is wrong with it."""
    problems = list(file_problems(case))

    def read(reader: Callable[[], Volume]) -> Volume | None:
        try:
            return reader()
        except ConfigError:
            raise  # a package is missing: no problem of the data
        except TransUNetError as error:
            problems.append(problem_of(error, "the case"))
            return None

    image = label = None
    if not problems:
        image = read(partial(read_volume, case.images))
        label = read(partial(read_labels, case.label)) if case.label else None
    if image:
        problems += image_problems(dataset, image)
        for name, channel in zip(dataset.channels, image.array, strict=False):
            if channel.min() == channel.max():
                found = f"every voxel of the channel {name!r} is {channel.flat[0]:g}"
                remedy = (
                    "Export the image again, or take the case out: there is nothing to see in it"
                )
                problems.append(Problem("constant", image.name, found, remedy, "warning"))
    if image and label:
        problems += label_problems(dataset, image, label)
    values = set(np.unique(label.array.ravel("K")).tolist()) if label else set[int]()
    classes = frozenset(dataset.values[v] for v in values & {*dataset.values} - {dataset.ignore})
    if label and values and classes <= {0} and values <= set(dataset.values):
        remedy = "Check that this is so; such a case teaches background only"
        found = "the label map holds nothing but background"
        problems.append(Problem("no-foreground", label.name, found, remedy, "warning"))
    if case.label is None:  # nothing trains on it
        problems = [replace(problem, severity="warning") for problem in problems]
    return CaseReport(
        case,
        tuple(problems),
        image.grid if image else None,
        _hash_of_voxels(image),
        _hash_of_voxels(label),
        classes,
    )


def _hash_of_voxels(volume: Volume | None) -> str | None:
    if volume is None:
        return None
    digest = hashlib.sha256(repr(volume.array.shape).encode())
    digest.update(np.ascontiguousarray(volume.array).data)
    return digest.hexdigest()


def dataset_problems(dataset: DataSet, reports: Sequence[CaseReport]) -> Iterator[Problem]:
    """Yield what only several cases together show."""
    files = (path for report in reports for path in report.case.files)
    if contradictions := header_contradictions(files):
        yield contradictions
    first: dict[str, CaseReport] = {}
    for report in (report for report in reports if report.image is not None):
        other = first.setdefault(str(report.image), report)
        if other is not report:
            labels = "and the same labels" if other.label == report.label else "but other labels"
            found = f"the same voxels as case {other.case.name} ({other.case.images[0]}), {labels}"
            remedy = "Take one of them out: one trains and the other tests, and the figures flatter"
            yield Problem("duplicate", str(report.case.images[0]), found, remedy, "warning")
    if placed := [report for report in reports if report.grid]:
        yield from _odd_grids(placed)
    yield from _odd_classes(dataset, reports)


def _odd_grids(reports: Sequence[CaseReport]) -> Iterator[Problem]:
    grids = [report.grid for report in reports if report.grid]
    spacings = np.array([[grid.spacing_mm[axis] for axis in grid.axes_in("RAS")] for grid in grids])
    median = np.median(spacings, axis=0)
    apart = np.abs(spacings / median - 1).max(axis=1) > SPACING_TOLERANCE
    files = [str(report.case.images[0]) for report in reports]
    for file, spacing, odd in zip(files, spacings, apart, strict=True):
        if odd:
            own, usual = (extents(edges, ".3g") for edges in (spacing, median))
            found = (
                f"its spacing (right, front, up) is {own} mm, more than {SPACING_TOLERANCE:.0%} "
                f"from the median {usual} mm"
            )
            remedy = "Resample slices to one spacing: transunet prepare --spacing"
            yield Problem("spacing", file, found, remedy, "warning")
    usual, _ = Counter(grid.orientation for grid in grids).most_common(1)[0]
    for file, grid in zip(files, grids, strict=True):
        if grid.orientation != usual:
            found = f"its axes run towards {grid.orientation}, those of most cases towards {usual}"
            remedy = (
                "Preparing turns all alike; look at an overlay to see that this header is right"
            )
            yield Problem("orientation", file, found, remedy, "warning")


def _odd_classes(dataset: DataSet, reports: Sequence[CaseReport]) -> Iterator[Problem]:
    where = str(dataset.folder)
    labelled = [report for report in reports if report.label]
    present = frozenset[int]().union(*(report.classes for report in labelled))
    for index, name in dataset.labels.items():
        if labelled and index and index not in present:
            found = f"no case holds the class {index} ({name})"
            remedy = "Take it out of the description, or add cases that hold it"
            yield Problem("absent-class", where, found, remedy, "warning")
    if len(labelled) == 1:
        remedy = "Add cases: with one there is nothing to validate on"
        yield Problem("one-case", where, "only one case has a label map", remedy, "warning")
    values = dataset.label_values
    if not values or dataset.label_map or max(values) >= COLOUR:  # colours are no numbers
        return
    if len(set(values.values())) < len(values):
        return  # several values are one class, as the layout's notes say
    if sorted(values) == [0, 255]:
        found = "the masks hold 0 and 255; 255 is read as class 1"
        yield Problem("255-mask", where, found, "Nothing needs doing; --fix stores 1", "warning")
        return
    mapping = ", ".join(f"{value} -> {index}" for value, index in sorted(values.items())[:10])
    more = ", ..." if len(values) > 10 else ""
    found = f"the label values are not consecutive: {mapping}{more} (value -> class)"
    remedy = "Nothing needs doing; predictions hold the classes, not the values"
    yield Problem("non-consecutive", where, found, remedy, "warning")

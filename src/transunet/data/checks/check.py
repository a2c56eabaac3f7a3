"""Every problem in a data set, with its file and its remedy, before anything runs.

What a single case shows is found by the same functions that reading it calls (`cases.py`), so that
preparing and training refuse an error in the same words. Problems of cases without a label are
warnings: nothing trains on them.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from transunet.data.processes import spread
from transunet.data.split_rules import splits_of
from transunet.data.splits import Splits
from transunet.data.volume import Grid, Volume
from transunet.errors import ConfigError, TransUNetError

SPACING_TOLERANCE = 0.1
"""A case whose spacing differs from the median by more than this share is reported."""

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Examined:
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
    values: frozenset[int] = frozenset()
    """Values that occur in the label's file."""


@dataclass(frozen=True)
class Report:
    """What was found in a data set."""

    folder: Path
    dataset: DataSet | None
    """None where it could not be opened at all."""
    problems: tuple[Problem, ...]
    """Errors first."""
    examined: tuple[Examined, ...] = ()
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
                {
                    "severity": problem.severity,
                    "kind": problem.kind,
                    "where": problem.where,
                    "found": problem.found,
                    "remedy": problem.remedy,
                }
                for problem in self.problems
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
    examined = _examine_all(dataset, workers, progress)
    found = chain(
        dataset.notes,
        labels_missing(dataset),
        (problem for one in examined for problem in one.problems),
        dataset_problems(dataset, examined),
    )
    splits = _splits(dataset)
    if isinstance(splits, Problem):
        found, splits = chain([splits], found), None
    problems = sorted(found, key=lambda problem: problem.severity != "error")
    return Report(folder, dataset, tuple(problems), tuple(examined), splits)


def _splits(dataset: DataSet) -> Splits | Problem | None:
    """What preparing would split it into, or what is wrong with its own folds."""
    try:
        return splits_of(dataset, [case for case in dataset.cases if case.label])
    except ConfigError:
        return None  # too few cases, which other problems tell
    except TransUNetError as error:
        return problem_of(error, str(dataset.folder))


def examine(dataset: DataSet, case: Case) -> Examined:
    """Read one case and say what is wrong with it."""
    missing = tuple(file_problems(case))
    if missing:
        return Examined(case, _weighed(case, missing))
    found: list[Problem] = []
    image = _reading(found, partial(read_volume, case.images))
    label = _reading(found, partial(read_labels, case.label)) if case.label else None
    if image:
        found += [*image_problems(dataset, image), *_constant(dataset, image)]
    if image and label:
        found += [*label_problems(dataset, image, label)]
    values = frozenset(np.unique(label.array.ravel("K")).tolist()) if label else frozenset[int]()
    counted = values & set(dataset.values) - {dataset.ignore}
    classes = frozenset(dataset.values[value] for value in counted)
    if label and values and classes <= {0} and values <= set(dataset.values):
        remedy = "Check that this is so; such a case teaches background only"
        what = "the label map holds nothing but background"
        found.append(Problem("no-foreground", label.name, what, remedy, "warning"))
    return Examined(
        case,
        _weighed(case, found),
        image.grid if image else None,
        _digest(image),
        _digest(label),
        classes,
        values,
    )


def dataset_problems(dataset: DataSet, examined: Sequence[Examined]) -> Iterator[Problem]:
    """Yield what only several cases together show."""
    files = [path for one in examined for path in (*one.case.images, one.case.label) if path]
    if contradictions := header_contradictions(files):
        yield contradictions
    yield from _duplicates(examined)
    yield from _spacings(examined)
    yield from _orientations(examined)
    yield from _classes(dataset, examined)


def _examine_all(dataset: DataSet, workers: int, progress: Progress | None) -> list[Examined]:
    work = partial(examine, replace(dataset, cases=(), notes=()))
    done: dict[str, Examined] = {}
    for one in spread(work, dataset.cases, workers):
        done[one.case.name] = one
        if progress:
            progress(len(done), len(dataset.cases), one.case.name)
    return [done[case.name] for case in dataset.cases]


def _reading(found: list[Problem], read: Callable[[], Volume]) -> Volume | None:
    try:
        return read()
    except ConfigError:
        raise  # a package is missing: no problem of the data
    except TransUNetError as error:
        found.append(problem_of(error, "the case"))
        return None


def _weighed(case: Case, problems: Iterable[Problem]) -> tuple[Problem, ...]:
    if case.label is not None:
        return tuple(problems)
    return tuple(replace(problem, severity="warning") for problem in problems)


def _constant(dataset: DataSet, image: Volume) -> Iterator[Problem]:
    for name, channel in zip(dataset.channels, image.array, strict=False):
        if channel.min() == channel.max():
            found = f"every voxel of the channel {name!r} is {channel.flat[0]:g}"
            remedy = "Export the image again, or take the case out: there is nothing to see in it"
            yield Problem("constant", image.name, found, remedy, "warning")


def _digest(volume: Volume | None) -> str | None:
    if volume is None:
        return None
    digest = hashlib.sha256(repr(volume.array.shape).encode())
    digest.update(np.ascontiguousarray(volume.array).data)
    return digest.hexdigest()


def _duplicates(examined: Sequence[Examined]) -> Iterator[Problem]:
    first: dict[str, Examined] = {}
    for one in examined:
        if one.image is None:
            continue
        other = first.setdefault(one.image, one)
        if other is not one:
            labels = "and the same labels" if other.label == one.label else "but other labels"
            found = f"the same voxels as case {other.case.name} ({other.case.images[0]}), {labels}"
            remedy = "Take one of them out: one trains and the other tests, and the figures flatter"
            yield Problem("duplicate", str(one.case.images[0]), found, remedy, "warning")


def _spacings(examined: Sequence[Examined]) -> Iterator[Problem]:
    grids = [(one.case, one.grid) for one in examined if one.grid]
    if not grids:
        return
    spacings = np.array(
        [[grid.spacing_mm[axis] for axis in grid.axes_in("RAS")] for _, grid in grids]
    )
    median = np.median(spacings, axis=0)
    apart = np.abs(spacings / median - 1).max(axis=1) > SPACING_TOLERANCE
    for (case, _), spacing in zip(
        (pair for pair, odd in zip(grids, apart, strict=True) if odd), spacings[apart], strict=True
    ):
        found = (
            f"its spacing (right, front, up) is {_mm(spacing)}, more than {SPACING_TOLERANCE:.0%} "
            f"from the median "
            f"{_mm(median)}"
        )
        remedy = "Resample slices to one spacing: transunet prepare --spacing"
        yield Problem("spacing", str(case.images[0]), found, remedy, "warning")


def _orientations(examined: Sequence[Examined]) -> Iterator[Problem]:
    grids = [(one.case, one.grid.orientation) for one in examined if one.grid]
    if not grids:
        return
    usual, _ = Counter(codes for _, codes in grids).most_common(1)[0]
    for case, codes in grids:
        if codes != usual:
            found = f"its axes run towards {codes}, those of most cases towards {usual}"
            remedy = (
                "Preparing turns all alike; look at an overlay to see that this header is right"
            )
            yield Problem("orientation", str(case.images[0]), found, remedy, "warning")


def _classes(dataset: DataSet, examined: Sequence[Examined]) -> Iterator[Problem]:
    where = str(dataset.folder)
    labelled = [one for one in examined if one.label]
    present = frozenset[int]().union(*(one.classes for one in labelled))
    for index, name in dataset.labels.items():
        if labelled and index and index not in present:
            found = f"no case holds the class {index} ({name})"
            remedy = "Take it out of the description, or add cases that hold it"
            yield Problem("absent-class", where, found, remedy, "warning")
    if len(labelled) == 1:
        remedy = "Add cases: with one there is nothing to validate on"
        yield Problem("one-case", where, "only one case has a label map", remedy, "warning")
    yield from _numbers(dataset, where)


def _numbers(dataset: DataSet, where: str) -> Iterator[Problem]:
    values = dataset.label_values
    if not values or dataset.label_map or max(values) >= COLOUR:  # colours are no numbers
        return
    if len(set(values.values())) < len(values):
        return  # several values are one class, as the layout's notes say
    if sorted(values) == [0, 255]:
        found = "the masks hold 0 and 255; 255 is read as class 1"
        yield Problem("255-mask", where, found, "Nothing needs doing; --fix stores 1", "warning")
        return
    found = f"the label values are not consecutive: {_mapping(values)} (value -> class)"
    remedy = "Nothing needs doing; predictions hold the classes, not the values"
    yield Problem("non-consecutive", where, found, remedy, "warning")


def _mapping(values: Mapping[int, int], most: int = 10) -> str:
    shown = ", ".join(f"{value} -> {index}" for value, index in sorted(values.items())[:most])
    return shown if len(values) <= most else f"{shown}, ..."


def _mm(spacing: Iterable[float]) -> str:
    return " x ".join(f"{edge:.3g}" for edge in spacing) + " mm"

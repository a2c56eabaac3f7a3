"""A corrected copy of a data set; the original is only read.

Left out are cases with an error that `corrections.py` does not correct, second copies of a case
(the same voxels and labels), and files that belong to nothing.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from transunet.data.cases import Case, DataSet
from transunet.data.checks.check import Examined, Report
from transunet.data.checks.corrections import Corrected, corrected
from transunet.data.checks.problems import Problem, problem_of
from transunet.data.formats import files_of, write_volume
from transunet.data.layouts import LAYOUTS
from transunet.data.walking import walk
from transunet.errors import ConfigError, TransUNetError
from transunet.files import atomic_path

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Fixed:
    """What became of a data set."""

    folder: Path
    corrected: tuple[Problem, ...]
    """What was corrected, `remedy` saying how."""
    left_out: tuple[Problem, ...]
    """Why cases and files are not in the copy."""


def fix(report: Report, out: Path, progress: Progress | None = None) -> Fixed:
    """Write a corrected copy of the data set that `report` is about.

    Args:
        report: from `check.check`.
        out: a new or empty folder outside of the original.
        progress: called after every case with the cases done, all cases, and the name.

    Raises:
        ConfigError: when `out` is not such a folder or cannot be written.
        DataError: when the data set could not be opened at all.
    """
    if report.dataset is None:
        raise report.problems[0].error()
    dataset = report.dataset
    _check_out(dataset.folder, out)
    done: list[Problem] = []
    orphans = [problem for problem in dataset.notes if problem.kind == "orphan"]
    left_out = dict(_second_copies(report.examined))
    with atomic_path(out) as scratch:
        scratch.mkdir()
        for number, case in enumerate(dataset.cases, 1):
            if case.name not in left_out:
                result = _corrected(dataset, case)
                if isinstance(result, Problem):
                    left_out[case.name] = result
                else:
                    _write(result, dataset.folder, scratch)
                    done += result.done
            if progress:
                progress(number, len(dataset.cases), case.name)
        _copy_the_rest(dataset, scratch, orphans)
        _describe(dataset, scratch, frozenset(left_out))
    return Fixed(out, tuple(done), (*left_out.values(), *orphans))


def _corrected(dataset: DataSet, case: Case) -> Corrected | Problem:
    try:
        return corrected(dataset, case)
    except ConfigError:
        raise  # a package is missing: no problem of the data
    except TransUNetError as error:
        return problem_of(error, case.name)


def _write(result: Corrected, folder: Path, out: Path) -> None:
    for original, volume in result.files.items():
        target = out / original.relative_to(folder)
        if volume is None:
            for file in files_of(original):
                _copy(file, out / file.relative_to(folder))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_volume(volume, _exact(target))


def _exact(target: Path) -> Path:
    """PNG instead of JPEG, which holds no labels and changes an image whenever it is written."""
    return target.with_suffix(".png") if target.suffix.lower() in {".jpg", ".jpeg"} else target


def _copy(original: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if original.is_dir():  # a DICOM series
            shutil.copytree(original, target)
        else:
            shutil.copyfile(original, target)
    except OSError as error:
        raise ConfigError(
            f"Cannot copy {original} to {target.parent}: {error.strerror or error}. Make room or "
            f"choose another folder."
        ) from None


def _copy_the_rest(dataset: DataSet, out: Path, orphans: Sequence[Problem]) -> None:
    """Copy what belongs to no case: descriptions, lists, licences."""
    skipped = {Path(problem.where) for problem in orphans}
    of_cases = [path for case in dataset.cases for path in (*case.images, case.label) if path]
    skipped.update(file for path in of_cases for file in files_of(path))
    for path in walk(dataset.folder).files:
        if path not in skipped and path.parent not in skipped:  # the parent: a DICOM series
            _copy(path, out / path.relative_to(dataset.folder))


def _describe(dataset: DataSet, out: Path, left_out: frozenset[str]) -> None:
    """Take the cases that are left out from the copy's description, where it lists cases."""
    without = getattr(LAYOUTS[dataset.layout], "without", None)
    if left_out and without:
        without(out, left_out)


def _second_copies(examined: Sequence[Examined]) -> Iterator[tuple[str, Problem]]:
    first: dict[tuple[str, str | None], str] = {}
    for one in examined:
        if one.image is None:
            continue
        name = first.setdefault((one.image, one.label), one.case.name)
        if name != one.case.name:
            found = f"a second copy of case {name}"
            where = str(one.case.images[0])
            yield one.case.name, Problem("duplicate", where, found, "One of them is enough")


def _check_out(folder: Path, out: Path) -> None:
    if out.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"{out} lies inside the data set {folder}, which is only read. Choose another."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not an empty folder. Choose another.")

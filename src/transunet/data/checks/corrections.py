"""A corrected copy of a data set, of what can be corrected without guessing; the original is read.

- A label map of 0 and 255 where there is one class: 255 becomes 1.
- A label map that can be placed on its image's grid (`cases.placed`).
- Voxels that are NaN or infinite: they become the file's smallest finite value.
- A grey photograph among coloured ones: its channel is repeated; a coloured one without colours
  among grey ones: one channel is kept.

Left out are cases with another error, second copies of a case (the same voxels and labels), and
files that belong to nothing.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transunet.data.cases import (
    Case,
    DataSet,
    file_problems,
    image_problems,
    label_problems,
    placed,
    raise_first,
)
from transunet.data.checks.check import Report
from transunet.data.checks.problems import Problem, problem_of
from transunet.data.formats import files_of, format_of, join_channels, read_labels, write_volume
from transunet.data.formats.raster import JPEG
from transunet.data.layouts import LAYOUTS
from transunet.data.layouts.masks import LABELS
from transunet.data.volume import Volume, same_grid
from transunet.data.walking import walk
from transunet.errors import ConfigError, TransUNetError
from transunet.files import atomic_path, writable_folder


@dataclass(frozen=True)
class CorrectedCopy:
    """What became of a data set."""

    folder: Path
    corrected: tuple[Problem, ...]
    """What was corrected, `remedy` saying how."""
    left_out: tuple[Problem, ...]
    """Why cases and files are not in the copy."""


def fix(
    report: Report, out: Path, progress: Callable[[int, int, str], None] | None = None
) -> CorrectedCopy:
    """Write a corrected copy of the data set that `report` is about.

    Args:
        report: from `check.check`.
        out: a new or empty folder outside of the original.
        progress: called after every case with the cases done, all cases, and the name.

    Raises:
        ConfigError: when `out` is not such a folder or cannot be written.
        DataError: when the data set could not be opened at all.
    """
    dataset = report.dataset
    if dataset is None:
        raise report.problems[0].error()
    check_copy_folder(dataset.folder, out)
    done: list[Problem] = []
    left_out: dict[str, Problem] = {}
    first: dict[tuple[str, str | None], str] = {}
    for checked in report.cases:
        if checked.image is not None:
            name, where = checked.case.name, str(checked.case.images[0])
            original = first.setdefault((checked.image, checked.label), name)
            if original != name:
                found, remedy = f"a second copy of case {original}", "One of them is enough"
                left_out[name] = Problem("duplicate", where, found, remedy)
    with atomic_path(out) as scratch:
        scratch.mkdir()
        for number, case in enumerate(dataset.cases, 1):
            if case.name not in left_out:
                try:
                    volumes, corrections = _corrected(dataset, case)
                except ConfigError:
                    raise  # a package is missing: no problem of the data
                except TransUNetError as error:
                    left_out[case.name] = problem_of(error, case.name)
                else:
                    done += corrections
                    for path, volume in volumes.items():
                        _write(path, volume, scratch / path.relative_to(dataset.folder))
            if progress:
                progress(number, len(dataset.cases), case.name)
        orphans = [problem for problem in dataset.notes if problem.kind == "orphan"]
        # What belongs to no case is copied too: descriptions, lists, licences.
        of_cases = [path for case in dataset.cases for path in case.files]
        skipped = {file for path in of_cases for file in files_of(path)}
        skipped |= {Path(problem.where) for problem in orphans}
        for path in walk(dataset.folder).files:
            if path not in skipped and path.parent not in skipped:  # the parent: a DICOM series
                _copy(path, scratch / path.relative_to(dataset.folder))
        without = getattr(LAYOUTS[dataset.layout], "without", None)
        if left_out and without:
            without(scratch, frozenset(left_out))
    return CorrectedCopy(out, tuple(done), (*left_out.values(), *orphans))


def check_copy_folder(dataset: Path, out: Path) -> None:
    """Find out whether a copy of the data set in the folder `dataset` can be written to `out`.

    Raises:
        ConfigError: when `out` lies inside of it, is no new or empty folder, or cannot be written.
    """
    if out.resolve().is_relative_to(dataset.resolve()):
        raise ConfigError(
            f"{out} lies inside the data set {dataset}, which is only read. Choose another."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not an empty folder. Choose another.")
    writable_folder(next(path for path in out.absolute().parents if path.exists()))


def _write(original: Path, corrected: Volume | None, target: Path) -> None:
    """Write a corrected file to `target`, or copy the original, with its second file, if None."""
    if corrected is None:
        for file in files_of(original):
            _copy(file, target.with_name(file.name))
        return
    if target.suffix.lower() in JPEG:  # which changes values when it is written
        target = target.with_suffix(".png")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_volume(corrected, target)


def _copy(original: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if original.is_dir():  # a DICOM series
            shutil.copytree(original, target)
        else:
            shutil.copyfile(original, target)
    except OSError as error:
        raise ConfigError(
            f"Cannot copy {original}: {error.strerror or error}. Make room or choose another "
            "folder."
        ) from None


def _corrected(
    dataset: DataSet, case: Case
) -> tuple[dict[Path, Volume | None], tuple[Problem, ...]]:
    """Return what to write in the place of each of a case's files, and what was wrong.

    None stands for a file as it is; `remedy` says what was done.

    Raises:
        DataError, GeometryError: for the first error that cannot be corrected safely.
    """
    raise_first(file_problems(case))
    done: list[Problem] = []

    def note(kind: str, volume: Volume, found: str, remedy: str) -> None:
        done.append(Problem(kind, volume.name, found, remedy, "warning"))

    images: dict[Path, Volume] = {path: format_of(path).read(path) for path in case.images}
    separate = case.label not in case.images  # one file that holds both is never written
    for path, volume in images.items() if separate else ():
        finite = np.isfinite(volume.array)
        if finite.any() and not finite.all():
            least = volume.array[finite].min()
            found = f"{int((~finite).sum())} of {finite.size} voxels were NaN or infinite"
            note("not-finite", volume, found, f"replaced by the smallest value, {least:g}")
            images[path] = volume = volume.with_array(np.where(finite, volume.array, least))
        photograph = dataset.intensity_range is not None and volume.array.dtype == np.uint8
        if not photograph or len(case.images) > 1:
            continue
        has, wanted = volume.channels, len(dataset.channels)
        if (has, wanted) == (1, 3):
            note("channels", volume, "it was grey", "channel repeated three times")
            images[path] = volume.with_array(np.repeat(volume.array, 3, axis=0))
        elif (has, wanted) == (3, 1) and (volume.array == volume.array[:1]).all():
            note("channels", volume, "it held grey as colours", "one channel kept")
            images[path] = volume.with_array(volume.array[:1])
    image = join_channels(list(images.values()))
    raise_first(image_problems(dataset, image))
    changed = {problem.where for problem in done}
    files = {path: volume if str(path) in changed else None for path, volume in images.items()}
    if case.label is None:
        return files, tuple(done)
    label = original = read_labels(case.label)
    if not separate:
        raise_first(label_problems(dataset, image, label))
        return files, tuple(done)
    difference, placement = same_grid(image, label), placed(image, label)
    if difference and placement:
        label, how = placement
        note("grid", label, difference, how)
    values = set(np.unique(label.array.ravel("K")).tolist())
    as_placed = label
    if 255 in values <= {0, 255} and set(dataset.values) == {0, 1}:
        # 255 that no description lists, where only class 1 can be meant.
        label = label.with_array((label.array > 0).astype(np.uint8))
    raise_first(label_problems(dataset, image, label))
    found_alone = sorted(dataset.label_values) == [0, 255] and values != {0}
    if found_alone and not (dataset.folder / LABELS).exists():
        # 255 that was found to be the only class, and no `labels.json` says so.
        label = label.with_array((label.array > 0).astype(np.uint8))
    if label is not as_placed:
        note("255-mask", label, "its foreground was stored as 255", "stored as 1")
    files[case.label] = None if label is original else label
    return files, tuple(done)

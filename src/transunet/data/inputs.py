"""Which files make a case: image files, folders, patterns, the slices of a series, data sets."""

import glob
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from transunet.data.cases import Case, DataSet
from transunet.data.formats import (
    FORMATS,
    SLICES,
    channel_of,
    channels_in,
    is_dicom_path,
    kind_in_folder,
    kind_of,
    known_format,
    stem_of,
    suffix_of,
)
from transunet.data.formats.dicom.headers import EMPTY, OTHER, is_slice, why_no_slice
from transunet.data.formats.dicom.series import are_slices, counted, find_series
from transunet.data.layouts import open_dataset, recognises
from transunet.data.layouts.lists import MISSING_TEST
from transunet.data.walking import walk
from transunet.errors import ConfigError, DataError, TransUNetError

ALL_SERIES = "all"
LOCKS_FOLDER = ".transunet"
"""In a folder that predictions were written to: such a folder below an input is no input."""
_LOGGER = logging.getLogger(__name__)


class InputImage(NamedTuple):
    """An image file or a folder with DICOM slices, and what its case is called."""

    path: Path
    name: str
    """Its stem, behind the folders that lead to it: `patient101/patient101_frame01`."""
    slices: tuple[Path, ...] = ()
    """Of a DICOM folder above others: its own files, without those of the others."""

    @property
    def case(self) -> Case:
        """The case of this image alone."""
        return Case(self.name, self.slices or (self.path,), None)


def find_inputs(
    paths: Sequence[Path],
    channels: int,
    *,
    series: str | None = None,
    split: str | None = None,
    labelled: bool = False,
) -> list[Case]:
    """Return the cases in `paths`: files, folders, patterns, data sets; each with its channels.

    Files called CASE_0000, CASE_0001, ... are the channels of one case, as in nnU-Net. DICOM files
    that are given one by one and are slices of one series are one case, as in a folder. Of a data
    set in a known layout, the test cases are taken, or all where none is one; of another folder,
    all images in it and in the folders below, whose names lead the cases' names. So they do where
    two inputs have one name.

    Args:
        paths: Image files, folders, data sets, or patterns such as `in/*.nii`. A DICOM series is a
            folder, a `.zip` or its files; of a folder of patients, each is a case.
        channels: How many channels the bundle was trained on.
        series: which of several DICOM series in a folder: its UID, its number in the list from 1,
            or "all", each as a case of its own.
        split: of data sets, only the cases of this split.
        labelled: of data sets, only the cases that have a label map.

    Raises:
        ConfigError: for a path that does not exist, is no image, or holds none; a split where there
            is no data set; a series where there is no DICOM.
        DataError: when a case lacks a channel, or two cases have one name.
    """
    cases: list[Case] = []
    images: list[InputImage] = []
    for path in paths:
        if path.is_dir() and _is_dataset(path, split, labelled):
            cases += _cases_of(open_dataset(path), split, labelled)
        else:
            images += _images_at(path)
    series_cases, images = _group_slices(images)
    if split and images:
        raise ConfigError(
            f"{images[0].path} is of no data set of a known layout, so it has no splits."
        )
    numbers = [channel_of(image.name) for image in images]
    if channels == 1:  # only if all end in _0000: scan_0001, scan_0002 may be patients
        numbered = all(number is not None and number[1] == 0 for number in numbers)
    else:
        numbered = any(numbers)
    cases += _join_channels(images, channels) if numbered else [image.case for image in images]
    cases += series_cases
    return _named_apart(_with_series(cases, series) if series else cases)


def _is_dataset(folder: Path, split: str | None, labelled: bool) -> bool:
    """Whether a folder's cases are taken as those of a data set, not as images that lie in it.

    Images that lie in the folder itself are meant themselves, unless a part of a data set is asked
    for.
    """
    if not recognises(folder):
        return False
    return bool(split or labelled) or not any(_is_image(file) for file in folder.iterdir())


def _cases_of(dataset: DataSet, split: str | None, labelled: bool) -> list[Case]:
    """Return the cases of `split`; without one, the test cases, or all if none is.

    Raises:
        ConfigError: when there are no such cases.
        DataError: when the test cases are asked for, and none of those that are listed is there.
    """
    cases = [case for case in dataset.cases if not labelled or (case.label and case.label.exists())]
    chosen = [case for case in cases if case.split == (split or "test")]
    missing = [note for note in dataset.notes if note.kind == MISSING_TEST]
    if split in (None, "test") and missing:
        if not labelled and not chosen:
            raise DataError(f"{missing[0].text} Or segment other cases of it: --split train.")
        for note in missing:
            _LOGGER.warning(note.text)
    if not chosen and split is None:
        chosen = cases
    if not chosen:
        kind = "labelled case" if labelled else "case"
        splits = sorted({case.split for case in cases if case.split})
        listed = f"it has {', '.join(splits)}" if splits else "its cases have no splits"
        of = f" of the split {split!r}; {listed}" if split else ""
        raise ConfigError(f"{dataset.folder}: this {dataset.layout} data set has no {kind}{of}.")
    return chosen


def _images_at(path: Path) -> list[InputImage]:
    if path.is_dir():
        return _images_below(path)
    if path.exists():
        if kind_of(path) is None:
            raise ConfigError(f"{path} is not an image that can be read: {', '.join(FORMATS)}.")
        return [InputImage(path, path.name if suffix_of(path) is None else stem_of(path))]
    if path.is_symlink():
        raise ConfigError(f"{path} is a link to {path.readlink()}, which is not there.")
    # A pattern that the shell did not expand.
    matches = sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207 - may be absolute
    if not matches:
        raise ConfigError(f"There is no image {path}. Check the path.")
    return [image for match in matches for image in _images_at(match)]


def _images_below(folder: Path) -> list[InputImage]:
    """Return the images in `folder` and in the folders below it, by name.

    A folder with DICOM slices is one image, and so is each folder with slices below it. Links to
    folders are followed. Passed over are hidden files and folders, folders that predictions were
    written to, and pictures beside volumes, which are previews or masks; and, with a note, links
    that lead nowhere or in a circle, and DICOM files that are no slices.

    Raises:
        ConfigError: when there are none.
    """
    walked = walk(folder, lambda inner, names: LOCKS_FOLDER in names and inner != folder)
    if walked.not_followed:
        _LOGGER.warning("Not followed: %s", walked)
    passed_over: Counter[str] = Counter()
    images: list[InputImage] = []
    for inner, files in walked.folders:
        images += _images_in(folder, inner, files, passed_over)
    without = f"passed over: {counted(passed_over)}"
    if not images:
        more = f"; {without}" if passed_over else ""
        raise ConfigError(f"The folder {folder} holds no images ({', '.join(FORMATS)}){more}.")
    if passed_over:
        _LOGGER.info("%s: %s", folder, without)
    files_in = dict(walked.folders)
    series_folders = [image.path for image in images if image.path.is_dir()]
    for index, image in enumerate(images):
        if any(image.path in other.parents for other in series_folders):
            own = tuple(filter(is_slice, files_in[image.path]))
            images[index] = image._replace(slices=own)
    volumes = [
        image
        for image in images
        if (known := known_format(image.path)) is None
        or known.space != "pixels"
        or image.path.is_dir()
    ]
    return volumes or images


def _images_in(
    root: Path, folder: Path, files: list[Path], passed_over: Counter[str]
) -> Iterator[InputImage]:
    """Yield the images of one folder below `root`; count the DICOM files that are no slices."""
    below = folder.relative_to(root)
    no_slices: Counter[str] = Counter()
    for file in files:
        suffix = suffix_of(file)
        if suffix is not None and suffix not in SLICES:
            continue
        why = why_no_slice(file)
        if why is None:
            yield InputImage(folder, root.name if folder == root else below.as_posix())
            break  # reading the series tells what is passed over in its folder
        if suffix is not None or why not in (EMPTY, OTHER):
            no_slices[why] += 1
    else:
        passed_over.update(no_slices)
    for file in files:
        if _is_image(file):
            yield InputImage(file, (below / stem_of(file)).as_posix())


def _is_image(path: Path) -> bool:
    if path.name.startswith(".") or not path.is_file():
        return False
    # A folder's DICOM files are the slices of one image, not an image each.
    return kind_in_folder(path) not in (None, *SLICES)


def _group_slices(images: Sequence[InputImage]) -> tuple[list[Case], list[InputImage]]:
    """Return the DICOM files that are slices of one volume as cases, and the other images.

    The files of one folder belong together if any do, as they would if the folder were given.
    """
    by_folder: dict[Path, list[Path]] = {}
    for image in images:
        if image.path.is_file() and kind_of(image.path) in SLICES:
            by_folder.setdefault(image.path.parent, []).append(image.path)
    cases, taken, no_slices = [], set[Path](), {}
    for folder, files in by_folder.items():
        if are_slices(files):
            cases.append(Case(folder.absolute().name, tuple(files), None))
            taken.update(files)
        else:
            no_slices.update({file: why for file in files if (why := why_no_slice(file))})
    if no_slices and (cases or len(no_slices) < len(images)):  # else reading them tells why
        taken |= no_slices.keys()
        _LOGGER.info("Passed over: %s", counted(Counter(no_slices.values())))
    return cases, [image for image in images if image.path not in taken]


def _join_channels(images: Iterable[InputImage], channels: int) -> list[Case]:
    grouped: dict[str, dict[int, InputImage]] = {}
    for image in images:
        name, index = channel_of(image.name) or (image.name, 0)
        grouped.setdefault(name, {})[index] = image
    cases = []
    for name, parts in grouped.items():
        if sorted(parts) != [0] and all(_holds(part.path, channels) for part in parts.values()):
            cases += [part.case for part in parts.values()]  # numbers of cases, not of channels
        elif sorted(parts) in ([0], list(range(channels))):
            cases.append(Case(name, tuple(parts[index].path for index in sorted(parts)), None))
        else:
            raise DataError(
                f"Case {name} has the channel files "
                f"{', '.join(part.path.name for part in parts.values())}; "
                f"expected {channels}, numbered from _0000, or files of {channels} channels each."
            )
    return cases


def _holds(path: Path, channels: int) -> bool:
    try:
        return path.is_file() and channels_in(path) == channels
    except TransUNetError:
        return False  # reading the case will tell what is wrong with it


def _with_series(cases: Sequence[Case], series: str) -> list[Case]:
    """Return the cases with the series chosen; of "all", a case for each series of a folder."""
    are_dicom = [is_dicom_path(case.images[0]) for case in cases]
    if not any(are_dicom):
        raise ConfigError(f"--series {series}: none of the inputs is DICOM; leave it out.")
    chosen: list[Case] = []
    for case, dicom in zip(cases, are_dicom, strict=True):
        if dicom and series != ALL_SERIES:
            chosen.append(replace(case, series=series))
        elif dicom and (count := _count_series(case)) > 1:
            numbers = [str(number) for number in range(1, count + 1)]
            chosen += [replace(case, name=f"{case.name}_series{n}", series=n) for n in numbers]
        else:
            chosen.append(case)
    return chosen


def _count_series(case: Case) -> int:
    try:
        return len(find_series(case.images if are_slices(case.images) else case.images[0]))
    except TransUNetError:
        return 1  # reading the case will tell what is wrong with it


def _named_apart(cases: Iterable[Case]) -> list[Case]:
    """Return the cases, each once; folders lead the names of those that are called the same.

    Raises:
        DataError: when two cases of one name lie in one folder.
    """
    once = {(tuple(path.absolute() for path in case.images), case.series): case for case in cases}
    by_name: dict[str, list[Case]] = {}
    for case in once.values():
        by_name.setdefault(case.name, []).append(case)
    names = {id(case): case.name for case in once.values()}
    for name, namesakes in by_name.items():
        if len(namesakes) > 1:
            for case, folders in zip(namesakes, _folders_apart(namesakes), strict=True):
                names[id(case)] = "/".join((*folders, name))
    twice = sorted(name for name, count in Counter(names.values()).items() if count > 1)
    if twice:
        raise DataError(
            f"Several inputs are called {', '.join(twice)}, and their label maps would overwrite "
            "each other. Predict them into different folders."
        )
    return [replace(case, name=names[id(case)]) for case in once.values()]


def _folders_apart(cases: Sequence[Case]) -> list[tuple[str, ...]]:
    """The folders by which cases of one name differ: `p1` and `p2` of p1/ct/a.nii, p2/ct/a.nii."""
    paths = []
    for case in cases:
        first = case.images[0].absolute()
        path = first.parent if are_slices(case.images) else first
        paths.append(path.parts[: -len(Path(case.name).parts)])
    for _ in range(2):  # what all begin with goes, and then what all end with
        columns = zip(*paths, strict=False)
        shared = list(takewhile(lambda parts: len(set(parts)) == 1, columns))
        paths = [parts[len(shared) :][::-1] for parts in paths]
    return paths

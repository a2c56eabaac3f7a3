"""Which files make a case: image files, folders, patterns, the slices of a series, data sets."""

import glob
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from transunet.data.cases import Case
from transunet.data.formats import (
    FORMATS,
    SLICES,
    are_slices,
    channel_of,
    channels_in,
    is_dicom_path,
    kind_in_folder,
    kind_of,
    known_format,
    stem_of,
    suffix_of,
)
from transunet.data.text import count_of_each
from transunet.errors import ConfigError, DataError, TransUNetError

ALL_SERIES = "all"
LOCKS_FOLDER = ".transunet"
"""In a folder that predictions were written to: such a folder below an input is no input."""
_LOGGER = logging.getLogger(__name__)


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
    images: list[Case] = []
    for path in paths:
        of_dataset = _dataset_cases(path, split, labelled) if path.is_dir() else None
        if of_dataset is None:
            images += _images_at(path)
        else:
            cases += of_dataset
    series_cases, images = _group_slices(images)
    if split and images:
        raise ConfigError(
            f"{images[0].images[0]} is of no data set of a known layout, so it has no splits."
        )
    numbers = [channel_of(image.name) for image in images]
    if channels == 1:  # only if all end in _0000: scan_0001, scan_0002 may be patients
        numbered = all(number is not None and number[1] == 0 for number in numbers)
    else:
        numbered = any(numbers)
    cases += _join_channels(images, channels) if numbered else images
    cases += series_cases
    return _named_apart(_with_series(cases, series) if series else cases)


def _dataset_cases(folder: Path, split: str | None, labelled: bool) -> list[Case] | None:
    """Return the cases of the data set that `folder` is: those of `split`; else its test cases.

    All, if none is a test case. None for a folder that is no data set of a known layout, or in
    which images lie: those are meant themselves, unless a part of a data set is asked for.

    Raises:
        ConfigError: when there are no such cases.
        DataError: when the test cases are asked for, and none of those that are listed is there.
    """
    from transunet.data.layouts import open_dataset, recognises
    from transunet.data.layouts.decathlon import MISSING_TEST

    if not recognises(folder):
        return None
    if not (split or labelled) and any(_is_image(file) for file in folder.iterdir()):
        return None
    dataset = open_dataset(folder)
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


def _images_at(path: Path) -> list[Case]:
    if path.is_dir():
        return _images_below(path)
    if path.exists():
        if kind_of(path) is None:
            raise ConfigError(f"{path} is not an image that can be read: {', '.join(FORMATS)}.")
        return [Case(path.name if suffix_of(path) is None else stem_of(path), (path,), None)]
    if path.is_symlink():
        raise ConfigError(f"{path} is a link to {path.readlink()}, which is not there.")
    # A pattern that the shell did not expand.
    matches = sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207 - may be absolute
    if not matches:
        raise ConfigError(f"There is no image {path}. Check the path.")
    return [image for match in matches for image in _images_at(match)]


def _images_below(folder: Path) -> list[Case]:
    """Return the images in `folder` and in the folders below it, by name.

    A folder with DICOM slices is one image, and so is each folder with slices below it. Links to
    folders are followed. Passed over are hidden files and folders, folders that predictions were
    written to, and pictures beside volumes, which are previews or masks; and, with a note, links
    that lead nowhere or in a circle, and DICOM files that are no slices.

    Raises:
        ConfigError: when there are none.
    """
    from transunet.data.formats.dicom.headers import is_slice
    from transunet.data.walking import walk

    walked = walk(folder, lambda inner, names: LOCKS_FOLDER in names and inner != folder)
    if walked.not_followed:
        _LOGGER.warning("Not followed: %s", walked)
    passed_over: Counter[str] = Counter()
    images: list[Case] = []
    for inner, files in walked.folders:
        images += _images_in(folder, inner, files, passed_over)
    without = f"passed over: {count_of_each(passed_over)}"
    if not images:
        more = f"; {without}" if passed_over else ""
        raise ConfigError(f"The folder {folder} holds no images ({', '.join(FORMATS)}){more}.")
    if passed_over:
        _LOGGER.info("%s: %s", folder, without)
    # Of a DICOM folder above others, its own files, without those of the others.
    files_in = dict(walked.folders)
    series_folders = [image.images[0] for image in images if image.images[0].is_dir()]
    for index, image in enumerate(images):
        if any(image.images[0] in other.parents for other in series_folders):
            own = tuple(filter(is_slice, files_in[image.images[0]]))
            images[index] = replace(image, images=own)
    volumes = [
        image
        for image in images
        if image.images[0].is_dir()
        or (known := known_format(image.images[0])) is None
        or known.space != "pixels"
    ]
    return volumes or images


def _images_in(
    root: Path, folder: Path, files: list[Path], passed_over: Counter[str]
) -> Iterator[Case]:
    """Yield the images of one folder below `root`; count the DICOM files that are no slices."""
    from transunet.data.formats.dicom.headers import EMPTY, OTHER, why_no_slice

    below = folder.relative_to(root)
    no_slices: Counter[str] = Counter()
    for file in files:
        suffix = suffix_of(file)
        if suffix is not None and suffix not in SLICES:
            continue
        why = why_no_slice(file)
        if why is None:
            yield Case(root.name if folder == root else below.as_posix(), (folder,), None)
            break  # reading the series tells what is passed over in its folder
        if suffix is not None or why not in (EMPTY, OTHER):
            no_slices[why] += 1
    else:
        passed_over.update(no_slices)
    for file in files:
        if _is_image(file):
            yield Case((below / stem_of(file)).as_posix(), (file,), None)


def _is_image(path: Path) -> bool:
    if path.name.startswith(".") or not path.is_file():
        return False
    # A folder's DICOM files are the slices of one image, not an image each.
    return kind_in_folder(path) not in (None, *SLICES)


def _group_slices(images: list[Case]) -> tuple[list[Case], list[Case]]:
    """Return the DICOM files that are slices of one volume as cases, and the other images.

    The files of one folder belong together if any do, as they would if the folder were given.
    """
    by_folder: dict[Path, list[Path]] = {}
    for image in images:
        path, *others = image.images
        if not others and path.is_file() and kind_of(path) in SLICES:
            by_folder.setdefault(path.parent, []).append(path)
    if not by_folder:
        return [], images
    from transunet.data.formats.dicom.headers import why_no_slice

    cases: list[Case] = []
    taken, no_slices = set[Path](), dict[Path, str]()
    for folder, files in by_folder.items():
        if are_slices(files):
            cases.append(Case(folder.absolute().name, tuple(files), None))
            taken.update(files)
        else:
            no_slices.update({file: why for file in files if (why := why_no_slice(file))})
    if no_slices and (cases or len(no_slices) < len(images)):  # else reading them tells why
        taken |= no_slices.keys()
        _LOGGER.info("Passed over: %s", count_of_each(Counter(no_slices.values())))
    return cases, [image for image in images if image.images[0] not in taken]


def _join_channels(images: Iterable[Case], channels: int) -> list[Case]:
    grouped: dict[str, dict[int, Case]] = {}
    for image in images:
        name, index = channel_of(image.name) or (image.name, 0)
        grouped.setdefault(name, {})[index] = image
    cases: list[Case] = []
    for name, parts in grouped.items():
        if sorted(parts) != [0] and all(_holds(part, channels) for part in parts.values()):
            cases += parts.values()  # numbers of cases, not of channels
        elif sorted(parts) in ([0], list(range(channels))):
            files = tuple(file for index in sorted(parts) for file in parts[index].images)
            cases.append(Case(name, files, None))
        else:
            raise DataError(
                f"Case {name} has the channel files "
                f"{', '.join(part.images[0].name for part in parts.values())}; "
                f"expected {channels}, numbered from _0000, or files of {channels} channels each."
            )
    return cases


def _holds(image: Case, channels: int) -> bool:
    path, *others = image.images
    try:
        return not others and path.is_file() and channels_in(path) == channels
    except TransUNetError:
        return False  # reading the case will tell what is wrong with it


def _with_series(cases: Sequence[Case], series: str) -> list[Case]:
    """Return the cases with the series chosen; of "all", a case for each series of a folder."""
    are_dicom = [is_dicom_path(case.images[0]) for case in cases]
    if not any(are_dicom):
        raise ConfigError(f"--series {series}: none of the inputs is DICOM; leave it out.")
    from transunet.data.formats.dicom.series import find_series

    chosen: list[Case] = []
    for case, dicom in zip(cases, are_dicom, strict=True):
        if not dicom:
            chosen.append(case)
        elif series != ALL_SERIES:
            chosen.append(replace(case, series=series))
        else:
            try:
                slices = are_slices(case.images)
                count = len(find_series(case.images if slices else case.images[0]))
            except TransUNetError:
                count = 1  # reading the case will tell what is wrong with it
            numbers = [str(number) for number in range(1, count + 1)]
            each = [replace(case, name=f"{case.name}_series{n}", series=n) for n in numbers]
            chosen += each if count > 1 else [case]
    return chosen


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

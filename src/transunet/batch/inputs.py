"""From image files to label files: which files make a case, and one file to another."""

import glob
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from transunet.batch.failures import FAULTS, in_words
from transunet.batch.folders import Image, chosen_cases, dataset_in, images_below
from transunet.batch.outputs import write_labels
from transunet.data.cases import Case
from transunet.data.formats import (
    FORMATS,
    SLICES,
    channel_of,
    channels_in,
    is_dicom_path,
    kind_of,
    stem_of,
    suffix_of,
)
from transunet.data.formats.dicom.headers import why_no_slice
from transunet.data.formats.dicom.segmentation_writer import check_source
from transunet.data.formats.dicom.series import are_slices, counted, find_series
from transunet.errors import ConfigError, DataError, TransUNetError
from transunet.inference.predictor import Predictor, Progress
from transunet.inference.read_input import read_image

ALL_SERIES = "all"
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
    images: list[Image] = []
    for path in paths:
        dataset = dataset_in(path, split, labelled) if path.is_dir() else None
        if dataset is not None:
            cases += chosen_cases(dataset, split, labelled)
        else:
            images += _images_at(path)
    stacks, images = _stacked(images)
    if split and images:
        raise ConfigError(
            f"{images[0].path} is of no data set of a known layout, so it has no splits."
        )
    cases += _joined(images, channels) if _has_channel_names(images, channels) else _alone(images)
    cases += stacks
    return _named_apart(_with_series(cases, series) if series else cases)


def predict_file(
    bundle: Predictor | Path | str | Sequence[Path | str],
    image: Path | str | Sequence[Path | str],
    output: Path | str,
    *,
    series: str | int | None = None,
    progress: Progress | None = None,
    probabilities: Path | None = None,
    uncertainty: Path | None = None,
    **settings: Any,
) -> Path:
    """Segment an image file and write its label map to `output`; return that path.

    The label map has the image's shape, affine and units. It appears when it is complete.

    Args:
        bundle: a predictor (many files: make it once), a bundle, or the bundles of an ensemble.
        image: a file, or one file per channel; a DICOM series is a folder, a `.zip` or its files.
        output: the label map's file; its suffix chooses the format (or `.npz`).
        series: which of several DICOM series: its UID, or its number in the list, from 1.
        progress: called with the slices done and the slices in all.
        probabilities: as `Predictor.__call__`.
        uncertainty: as `Predictor.__call__`.
        settings: the predictor's, where it is made here; `force=True` for an image of another
            kind than training saw.

    Raises:
        DataError, GeometryError: when the image cannot be used.
        ConfigError: for a path that does not exist, settings that cannot work, or an output that
            cannot be written.
    """
    if not isinstance(bundle, Predictor):
        bundle = Predictor.from_pretrained(bundle, **settings)
    elif settings:
        raise ConfigError(
            f"A predictor was given, which has its own settings; found {', '.join(settings)} too."
        )
    output = Path(output)
    if output.suffix.lower() != ".npz" and suffix_of(output) is None:
        raise ConfigError(f"{output}: label maps are written as .npz, {', '.join(FORMATS)}.")
    paths = [Path(path) for path in ([image] if isinstance(image, Path | str) else image)]
    try:
        volume = read_image(paths, series)
        if output.suffix.lower() == ".dcm":  # told before it is computed
            check_source(volume, bundle.labels)
        labels = bundle(volume, progress, probabilities=probabilities, uncertainty=uncertainty)
    except FAULTS as error:
        raise in_words(error, paths[0]) from None
    write_labels(labels, output, bundle.labels)
    return output


def _images_at(path: Path) -> list[Image]:
    if not path.exists():
        if path.is_symlink():
            raise ConfigError(f"{path} is a link to {path.readlink()}, which is not there.")
        return _matching(path)
    if path.is_dir():
        return images_below(path)
    if kind_of(path) is None:
        raise ConfigError(f"{path} is not an image that can be read: {', '.join(FORMATS)}.")
    if suffix_of(path) is None:
        return [Image(path, path.name)]
    return [Image(path, stem_of(path))]


def _matching(path: Path) -> list[Image]:
    """The images that a pattern stands for, where the shell did not say."""
    found = sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207 - may be absolute
    if not found:
        raise ConfigError(f"There is no image {path}. Check the path.")
    return [image for match in found for image in _images_at(match)]


def _stacked(images: Sequence[Image]) -> tuple[list[Case], list[Image]]:
    """Return the DICOM files that are slices of one volume together, and the other images.

    The files of one folder belong together if any do, as they would if the folder were given.
    """
    folders: dict[Path, list[Path]] = {}
    for image in images:
        if image.path.is_file() and kind_of(image.path) in SLICES:
            folders.setdefault(image.path.parent, []).append(image.path)
    stacks = {folder: files for folder, files in folders.items() if are_slices(files)}
    cases = [Case(folder.absolute().name, tuple(files), None) for folder, files in stacks.items()]
    single = [file for folder, files in folders.items() if folder not in stacks for file in files]
    no_slices = {file: why for file in single if (why := why_no_slice(file))}
    taken = {file for files in stacks.values() for file in files}
    if len(taken) + len(no_slices) < len(images) or cases:
        taken |= no_slices.keys()
        if no_slices:
            _LOGGER.info("Passed over: %s", counted(Counter(no_slices.values())))
    return cases, [image for image in images if image.path not in taken]


def _has_channel_names(images: Iterable[Image], channels: int) -> bool:
    # With one channel, only if all end in _0000: scan_0001, scan_0002 may be patients.
    found = [channel_of(image.name) for image in images]
    if channels == 1:
        return all(match is not None and match[1] == 0 for match in found)
    return any(found)


def _alone(images: Iterable[Image]) -> list[Case]:
    return [Case(image.name, image.files, None) for image in images]


def _joined(images: Iterable[Image], channels: int) -> list[Case]:
    grouped: dict[str, dict[int, Image]] = {}
    for image in images:
        name, index = channel_of(image.name) or (image.name, 0)
        grouped.setdefault(name, {})[index] = image
    cases = []
    for name, parts in grouped.items():
        if sorted(parts) != [0] and all(_holds(part.path, channels) for part in parts.values()):
            cases += _alone(parts.values())
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
    """Whether a file has all channels itself; its number is then the case's, not a channel's."""
    try:
        return path.is_file() and channels_in(path) == channels
    except TransUNetError:
        return False  # reading the case will tell what is wrong with it


def _with_series(cases: Iterable[Case], series: str) -> list[Case]:
    found = [(case, is_dicom_path(case.images[0])) for case in cases]
    if not any(dicom for _, dicom in found):
        raise ConfigError(f"--series {series}: none of the inputs is DICOM; leave it out.")
    return [one for case, dicom in found for one in (_chosen(case, series) if dicom else [case])]


def _chosen(case: Case, series: str) -> list[Case]:
    if series != ALL_SERIES:
        return [replace(case, series=series)]
    try:
        slices = are_slices(case.images)
        count = len(find_series(case.images if slices else case.images[0]))
    except TransUNetError:
        return [case]  # reading the case will tell what is wrong with it
    numbers = [str(number) for number in range(1, count + 1)]
    many = [replace(case, name=f"{case.name}_series{n}", series=n) for n in numbers]
    return many if count > 1 else [case]


def _named_apart(cases: Iterable[Case]) -> list[Case]:
    """Return the cases, each once; folders lead the names of those that are called the same.

    Raises:
        DataError: when two cases of one name lie in one folder.
    """
    once = {(tuple(path.absolute() for path in case.images), case.series): case for case in cases}
    by_name: dict[str, list[Case]] = {}
    for case in once.values():
        by_name.setdefault(case.name, []).append(case)
    led = {
        id(case): "/".join((*lead, name))
        for name, same in by_name.items()
        for case, lead in zip(same, _leads(same), strict=True)
    }
    named = [replace(case, name=led[id(case)]) for case in once.values()]
    twice = sorted(name for name, count in Counter(c.name for c in named).items() if count > 1)
    if twice:
        raise DataError(
            f"Several inputs are called {', '.join(twice)}, and their label maps would overwrite "
            "each other. Predict them into different folders."
        )
    return named


def _leads(cases: Sequence[Case]) -> list[tuple[str, ...]]:
    """The folders by which cases of one name differ: `p1` and `p2` of p1/ct/a.nii, p2/ct/a.nii."""
    folders = []
    for case in cases:
        first = case.images[0].absolute()
        path = first.parent if are_slices(case.images) else first
        folders.append(path.parts[: -len(Path(case.name).parts)])
    for _ in range(2):  # what is the same at their beginning, and then at their end
        folders = [parts[len(_shared(folders)) :][::-1] for parts in folders]
    return folders


def _shared(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """What all begin with."""
    columns = zip(*paths, strict=False)
    return [column[0] for column in takewhile(lambda parts: len(set(parts)) == 1, columns)]

"""Which prediction belongs to which reference (and image): matched by the case's name."""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from unicodedata import normalize

from transunet.data.cases import Case, DataSet
from transunet.data.formats import (
    FORMATS,
    SLICES,
    case_of_mask,
    channel_of,
    kind_in_folder,
    kind_of,
    known_format,
    stem_of,
    suffix_of,
)
from transunet.data.formats.dicom.headers import is_slice
from transunet.data.layouts import open_dataset, recognises
from transunet.data.walking import walk
from transunet.errors import ConfigError, DataError
from transunet.evaluation.records import Structure, structures_of

_LOGGER = logging.getLogger(__name__)
_BESIDE = frozenset({"cases", "probabilities", "uncertainty"})
"""Folders that predicting writes beside the label maps."""


@dataclass(frozen=True)
class Pair:
    """The files of one case."""

    name: str
    prediction: Path
    reference: Path
    images: tuple[Path, ...] = ()
    """What the report shows behind the contours; empty where there is none."""
    prediction_numbers: Mapping[int, int] = field(default_factory=dict)
    """Label value in the prediction -> the number that its class has here, where they differ."""
    reference_numbers: Mapping[int, int] = field(default_factory=dict)
    """The same of the reference (of a data set's, class index -> number)."""

    @property
    def tells_space(self) -> bool:
        """Whether the reference's file knows voxel sizes and how the patient lies."""
        known = known_format(self.reference)
        return known is None or known.tells_space(self.reference)


@dataclass(frozen=True)
class References:
    """Where the references lie and what their labels mean."""

    source: Path
    labels: Mapping[str, Path]
    """Case -> label map."""
    images: Mapping[str, tuple[Path, ...]]
    dataset: DataSet | None = None
    """Set when the references are a data set, whose label values it maps and checks."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Name of an image file -> case, where they differ."""

    @property
    def structures(self) -> tuple[Structure, ...] | None:
        """What to measure, where the data set says it: its regions, else its labels."""
        if self.dataset is None:
            return None
        regions = self.dataset.regions
        if regions:
            return tuple(Structure(values, name) for name, values in regions.items())
        return structures_of(self.dataset.labels)


def references_in(
    path: Path, layout: str | None = None, split: str | None = None, ignore: int | None = None
) -> References:
    """Find the label maps in `path`: a file, a folder of label maps, or a data set.

    Args:
        path: where to look.
        layout: how the data set is laid out; None recognises it.
        split: only the data set's cases of this split.
        ignore: the value of voxels that nobody labelled; a data set may know its own.

    Raises:
        ConfigError: when `path` does not exist or its format is not known, or when there is no
            such split.
        DataError: when it holds no label map.
    """
    check_exists(path, "reference")
    if path.is_dir() and (layout or recognises(path)):
        return _of_dataset(path, open_dataset(path, layout, ignore), split)
    if split:
        raise ConfigError(f"{path} is not a data set of a known layout, so it has no splits.")
    return References(path, files_in(path, "reference"), {})


def files_in(path: Path, role: str) -> dict[str, Path]:
    """Case name -> file, for a file or a folder.

    The folders in it count where no volume lies in it directly; they lead the cases' names, as they
    do where images in folders are predicted.

    Raises:
        ConfigError: when `path` does not exist or a file's format is not known.
        DataError: when the folder holds no volume, or two of one name.
    """
    check_exists(path, role)
    known = ", ".join(FORMATS)
    if path.is_file():
        if kind_of(path) is None:
            raise ConfigError(
                f"{path}: the {role} has no known suffix, nor content. Known: {known}."
            )
        return {stem_of(path): path}
    walked = walk(path, lambda place, _: place.name in _BESIDE and place != path)
    if walked.not_followed:
        _LOGGER.warning("Not followed: %s", walked)
    folders = dict(walked.folders)
    here = _volumes(folders.pop(path, []))
    found: dict[str, Path] = {}
    for file in here or [file for files in folders.values() for file in _volumes(files)]:
        name = (file.parent.relative_to(path) / stem_of(file)).as_posix()
        other = found.setdefault(name, file)
        if other != file:
            raise DataError(
                f"{path}: {other.name} and {file.name} are both case {name!r}. Keep one."
            )
    if not found:
        raise DataError(
            f"{path}: no {role} here. Expected files of the known formats ({known}) in "
            "the folder; give the folder that holds them."
        )
    return found


def match(
    predictions: Path, references: References, images: Path | None = None, subset: bool = False
) -> tuple[list[Pair], tuple[str, ...]]:
    """Pair predictions and references by name.

    A single prediction and a single reference belong together whatever they are called.

    Args:
        predictions: a label map or a folder of them.
        references: from `references_in`.
        images: a file or folder of the images, for the report's pictures.
        subset: allow references without a prediction (a prediction always needs its reference).

    Returns:
        The pairs in order of their names, and the references that have no prediction.

    Raises:
        ConfigError: when a path does not exist.
        DataError: naming every case that lacks its counterpart.
    """
    files = files_in(predictions, "prediction")
    if predictions.is_file() and references.source.is_file():
        cases: dict[str, str | None] = dict(zip(files, references.labels, strict=True))
        names = {name: next(iter(files)) for name in references.labels}
    else:
        cases = {name: _case_called(name, references) for name in files}
        names = {name: name for name in references.labels}
    _check_references(
        [n for n, case in cases.items() if case is None], cases, predictions, references
    )
    chosen = _one_each({files[name]: case for name, case in cases.items() if case is not None})
    without = tuple(sorted(set(references.labels) - set(chosen)))
    if without and not subset and predictions.is_dir():
        raise _no_prediction(without, len(references.labels), predictions, references)
    pairs = [
        Pair(names[case], file, references.labels[case], references.images.get(case, ()))
        for case, file in chosen.items()
    ]
    return _with_images(sorted(pairs, key=lambda one: one.name), images), without


def check_exists(path: Path, role: str) -> None:
    """Refuse a path that is not there.

    Raises:
        ConfigError: naming the path and what it was to be.
    """
    if not path.exists():
        raise ConfigError(f"There is no {role} at {path}. Check the path.")


def _of_dataset(path: Path, dataset: DataSet, split: str | None) -> References:
    labelled = [case for case in dataset.cases if case.label is not None]
    if not labelled:
        raise DataError(f"{path}: no case of this data set has a label map to compare with.")
    cases = [case for case in labelled if split in (None, case.split)]
    if not cases:
        known = sorted({case.split for case in labelled if case.split})
        listed = f"it has {', '.join(known)}" if known else "it has no splits of its own"
        raise ConfigError(f"{path}: no labelled case is of the split {split!r}; {listed}.")
    labels = {case.name: case.label for case in cases if case.label is not None}
    images = {case.name: case.images for case in cases}
    return References(path, labels, images, dataset, _aliases(cases))


def _aliases(cases: Iterable[Case]) -> dict[str, str]:
    """What predictions of one case alone may be called: its image, behind up to two folders."""
    names = defaultdict[str, set[str]](set)
    for case in cases:
        for image in case.images[:1]:
            parts = image.with_name(stem_of(image)).parts
            for count in range(1, 4):
                names["/".join(parts[-count:])].add(case.name)
    return {alias: of.pop() for alias, of in names.items() if len(of) == 1}


def _volumes(files: Iterable[Path]) -> list[Path]:
    """Beside volumes, pictures are previews and arrays are probabilities: the first kind counts."""
    ranks = {path: FORMATS[kind].rank for path in files if (kind := kind_in_folder(path))}
    return [path for path, rank in ranks.items() if rank == min(ranks.values())]


def _case_called(name: str, references: References) -> str | None:
    """Return the case that a file called `name` belongs to; None where there is none.

    It is called like the case, like the case's image (CASE_0000), or like its mask (CASE-label),
    upper or lower case.

    Raises:
        DataError: when several references could be meant.
    """
    if name in references.labels:
        return name
    if name in references.aliases:
        return references.aliases[name]
    channel = channel_of(name)
    spellings = [name, channel[0] if channel else None, case_of_mask(name)]
    for spelling in (_folded(text) for text in spellings if text):
        meant = [case for case in references.labels if spelling == _folded(case)] or [
            case for case in references.labels if spelling == _folded(case_of_mask(case))
        ]
        if len(meant) > 1:
            listed = " and ".join(references.labels[case].name for case in sorted(meant))
            raise DataError(
                f"{references.source}: {listed} are both references of case {name!r}. Keep one "
                "of them in the folder, or give files instead of folders."
            )
        if meant:
            return meant[0]
    return None


def _folded(name: str | None) -> str | None:
    """A name as file systems that know no upper case, and others' forms of Unicode, have it."""
    return normalize("NFC", name).casefold() if name else None


def _one_each(cases: Mapping[Path, str]) -> dict[str, Path]:
    """Case -> its prediction.

    Raises:
        DataError: when a case has two.
    """
    chosen: dict[str, Path] = {}
    for file, case in cases.items():
        other = chosen.setdefault(case, file)
        if other != file:
            raise DataError(
                f"{other} and {file.name} are both predictions of case {case!r}. Keep one of them "
                "in the folder, or put them into two folders and compare these: transunet evaluate "
                "A B REFERENCE."
            )
    return chosen


def _with_images(pairs: list[Pair], images: Path | None) -> list[Pair]:
    """Attach the images of `--images`; a case without one is shown without."""
    if images is None:
        return pairs
    found = _series_in(images)
    try:
        found = files_in(images, "image") | found
    except DataError:
        if not found:
            raise
    if len(pairs) == 1 and (images.is_file() or images in found.values()):
        return [replace(pairs[0], images=(images,))]
    cases = References(images, {pair.name: pair.reference for pair in pairs}, {})
    named: dict[str | None, Path] = {}
    for name, file in found.items():
        named.setdefault(_case_called(name, cases), file)  # the first channel is shown
    if set(named) == {None}:
        raise DataError(
            f"{images}: no image is called like a case ({_some(pair.name for pair in pairs)}); "
            f"found {_some(found)}."
        )
    return [
        replace(pair, images=(named[pair.name],) if pair.name in named else ()) for pair in pairs
    ]


def _series_in(path: Path) -> dict[str, Path]:
    """Case name -> folder, of the folders with DICOM slices in or below `path`."""
    return {
        stem_of(folder) if folder == path else folder.relative_to(path).as_posix(): folder
        for folder, files in (walk(path).folders if path.is_dir() else ())
        if any(is_slice(file) for file in files if suffix_of(file) in (None, *SLICES))
    }


def _check_references(
    missing: list[str], cases: Collection[str], predictions: Path, references: References
) -> None:
    if missing:
        raise DataError(
            f"{len(missing)} of {len(cases)} predictions in {predictions} have no reference in "
            f"{references.source}: {_some(missing)}. The references there are called "
            f"{_some(references.labels)}; prediction and reference need the same name."
        )


def _no_prediction(
    without: tuple[str, ...], cases: int, predictions: Path, references: References
) -> DataError:
    return DataError(
        f"{len(without)} of {cases} references in {references.source} have no prediction in "
        f"{predictions}: {_some(without)}. Predict them too, or pass --subset to evaluate only "
        "the cases that are predicted (the report says how many were left out)."
    )


def _some(names: Iterable[str], most: int = 8) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more

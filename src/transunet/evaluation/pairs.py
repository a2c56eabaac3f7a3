"""Which prediction belongs to which reference (and image): matched by the case's name."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from unicodedata import normalize

from transunet.data.cases import DataSet
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
from transunet.data.text import some
from transunet.data.walking import walk
from transunet.errors import ConfigError, DataError
from transunet.evaluation.records import Structure, structures_of

_LOGGER = logging.getLogger(__name__)
_BESIDE = frozenset({"cases", "probabilities", "uncertainty", "reports"})
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
        layout: of the data set; None recognises it.
        split: only the data set's cases of this split.
        ignore: the value of voxels that nobody labelled; a data set may know its own.

    Raises:
        ConfigError: when `path` does not exist or its format is not known, or when there is no
            such split.
        DataError: when it holds no label map.
    """
    _check_exists(path, "reference")
    if not path.is_dir() or not (layout or recognises(path)):
        if split:
            raise ConfigError(f"{path} is not a data set of a known layout, so it has no splits.")
        return References(path, files_in(path, "reference"), {})
    dataset = open_dataset(path, layout, ignore)
    labelled = {case: case.label for case in dataset.cases if case.label is not None}
    if not labelled:
        raise DataError(f"{path}: no case of this data set has a label map to compare with.")
    cases = [case for case in labelled if split in (None, case.split)]
    if not cases:
        known = sorted({case.split for case in labelled if case.split})
        listed = f"it has {', '.join(known)}" if known else "it has no splits of its own"
        raise ConfigError(f"{path}: no labelled case is of the split {split!r}; {listed}.")
    # A prediction may be called like its case's image, behind up to two of that one's folders.
    aliases = defaultdict[str, set[str]](set)
    for case in cases:
        for image in case.images[:1]:
            parts = image.with_name(stem_of(image)).parts
            for count in range(1, 4):
                aliases["/".join(parts[-count:])].add(case.name)
    return References(
        path,
        {case.name: labelled[case] for case in cases},
        {case.name: case.images for case in cases},
        dataset,
        {alias: names.pop() for alias, names in aliases.items() if len(names) == 1},
    )


def files_in(path: Path, role: str) -> dict[str, Path]:
    """Case name -> file, for a file or a folder.

    The folders in it count where no volume lies in it directly; they lead the cases' names, as they
    do where images in folders are predicted. `role` is what messages call the files.

    Raises:
        ConfigError: when `path` does not exist or a file's format is not known.
        DataError: when the folder holds no volume, or two of one name.
    """
    _check_exists(path, role)
    known = ", ".join(FORMATS)
    if path.is_file():
        if kind_of(path) is None:
            raise ConfigError(
                f"{path}: the {role} has no known suffix, nor content. Known: {known}."
            )
        return {stem_of(path): path}
    walked = walk(path, lambda folder, _: folder.name in _BESIDE and folder != path)
    if walked.not_followed:
        _LOGGER.warning("Not followed: %s", walked)
    folders = dict(walked.folders)
    volumes = _volumes(folders.pop(path, [])) or [
        volume for files in folders.values() for volume in _volumes(files)
    ]
    by_name: dict[str, Path] = {}
    for file in volumes:
        name = (file.parent.relative_to(path) / stem_of(file)).as_posix()
        other = by_name.setdefault(name, file)
        if other != file:
            raise DataError(
                f"{path}: {other.name} and {file.name} are both case {name!r}. Keep one."
            )
    if not by_name:
        raise DataError(
            f"{path}: no {role} here. Expected files of the known formats ({known}) in "
            "the folder; give the folder that holds them."
        )
    return by_name


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
        DataError: naming every case that lacks its counterpart, or has two.
    """
    files = files_in(predictions, "prediction")
    two_files = predictions.is_file() and references.source.is_file()
    if two_files:
        cases: dict[str, str | None] = dict(zip(files, references.labels, strict=True))
    else:
        cases = {name: _case_called(name, references) for name in files}
    if missing := [name for name, case in cases.items() if case is None]:
        raise DataError(
            f"{len(missing)} of {len(cases)} predictions in {predictions} have no reference in "
            f"{references.source}: {some(sorted(missing), 8)}. The references there are called "
            f"{some(sorted(references.labels), 8)}; prediction and reference need the same name."
        )
    chosen: dict[str, Path] = {}
    for name, case in cases.items():
        assert case is not None
        file, other = files[name], chosen.setdefault(case, files[name])
        if other != file:
            raise DataError(
                f"{other} and {file.name} are both predictions of case {case!r}. Keep one of them "
                "in the folder, or put them into two folders and compare these: transunet evaluate "
                "A B REFERENCE."
            )
    left_out = tuple(sorted(set(references.labels) - set(chosen)))
    if left_out and not subset and predictions.is_dir():
        raise DataError(
            f"{len(left_out)} of {len(references.labels)} references in {references.source} have "
            f"no prediction in {predictions}: {some(left_out, 8)}. Predict them too, or pass "
            "--subset to evaluate only the cases that are predicted (the report says how many "
            "were left out)."
        )
    pairs = [
        Pair(
            next(iter(files)) if two_files else case,
            file,
            references.labels[case],
            references.images.get(case, ()),
        )
        for case, file in sorted(chosen.items())
    ]
    return (pairs if images is None else _with_images(pairs, images)), left_out


def _check_exists(path: Path, role: str) -> None:
    if not path.exists():
        raise ConfigError(f"There is no {role} at {path}. Check the path.")


def _volumes(files: Iterable[Path]) -> list[Path]:
    """Beside volumes, pictures are previews and arrays are probabilities: the first kind counts."""
    ranks = {path: FORMATS[kind].rank for path in files if (kind := kind_in_folder(path))}
    lowest = min(ranks.values(), default=0)
    return [path for path, rank in ranks.items() if rank == lowest]


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


def _with_images(pairs: list[Pair], images: Path) -> list[Pair]:
    """Attach the images of `--images`; a case without one is shown without."""
    # Folders with DICOM slices are images, too.
    files = {
        stem_of(folder) if folder == images else folder.relative_to(images).as_posix(): folder
        for folder, slices in (walk(images).folders if images.is_dir() else ())
        if any(is_slice(file) for file in slices if suffix_of(file) in (None, *SLICES))
    }
    try:
        files = files_in(images, "image") | files
    except DataError:
        if not files:
            raise
    if len(pairs) == 1 and (images.is_file() or images in files.values()):
        return [replace(pairs[0], images=(images,))]
    cases = References(images, {pair.name: pair.reference for pair in pairs}, {})
    by_case: dict[str | None, Path] = {}
    for name, file in files.items():
        by_case.setdefault(_case_called(name, cases), file)  # the first channel is shown
    if set(by_case) == {None}:
        raise DataError(
            f"{images}: no image is called like a case ({some([p.name for p in pairs], 8)}); "
            f"found {some(sorted(files), 8)}."
        )
    return [
        replace(pair, images=(by_case[pair.name],) if pair.name in by_case else ())
        for pair in pairs
    ]

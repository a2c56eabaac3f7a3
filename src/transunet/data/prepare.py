"""Data set -> prepared store: each volume is read once, and training never decompresses one again.

A case is written whole or not at all, and is made anew only when one of its files or a setting has
changed: preparing twice does nothing, and after an interruption it goes on where it stopped.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from transunet.data.cases import (
    IGNORED,
    Case,
    DataSet,
    file_problems,
    labels_missing,
    raise_first,
)
from transunet.data.checks.problems import Problem, log_warnings, problem_of
from transunet.data.fingerprint import CaseFingerprint, summarise
from transunet.data.formats import files_of, warn_of_contradictions
from transunet.data.planning import grids_of, preprocessing_for, volume_preprocessing
from transunet.data.preprocessing import Preprocessing
from transunet.data.processes import Progress, spread
from transunet.data.split_rules import How, splits_of
from transunet.data.splits import FRACTION, Splits
from transunet.data.store import (
    CASE,
    FOREGROUND,
    FORMAT,
    MANIFEST,
    OLDER,
    Manifest,
    Store,
    StoredCase,
    case_folder,
    case_on_disk,
)
from transunet.data.text import extents
from transunet.data.volume import Volume
from transunet.data.walking import walk
from transunet.errors import ConfigError, DataError, TransUNetError
from transunet.files import atomic_path, sha256_of, writable_folder, write_text, writing

_READING = 2
"""Counted up when files are read otherwise than before, so that stores are made anew."""
_VOLUMES = 2
"""Likewise when working volumes for networks of three axes are made otherwise."""
_FEWEST = 4
"""Voxels of an axis below which a spacing is taken for a mistake."""
_FOREGROUND = 10_000
"""Voxels of each class of a case that are kept to draw patches around; nnU-Net keeps as many."""

_log = logging.getLogger("transunet")


def prepare(
    dataset: DataSet,
    store: Path,
    *,
    preprocessing: Preprocessing | None = None,
    dimensions: int = 2,
    workers: int = 1,
    seed: int = 1234,
    how: How = "auto",
    fraction: float = FRACTION,
    folds: int | None = None,
    splits: Splits | None = None,
    progress: Progress | None = None,
) -> Store:
    """Prepare the labelled cases of a data set for training.

    Args:
        dataset: from `layouts.open_dataset`.
        store: a folder; a store that is there already is brought up to date.
        preprocessing: None chooses it from modality and spacing.
        dimensions: 2 or 3, of the networks that it is chosen for.
        workers: processes; each holds one case in memory.
        seed: of the split; see `split_rules.splits_of`, also for what follows.
        how: "auto", "own", "holdout" or "kfold".
        fraction: of the groups, held out.
        folds: how many.
        splits: made already, instead of what `seed`, `how`, `fraction` and `folds` say.
        progress: called after every case; for volumes from the first one again, once all are
            measured.

    Raises:
        ConfigError: when `store` is something else or cannot be written, the split is impossible,
            or the spacing leaves hardly a voxel of the volumes.
        DataError: for the first case that cannot be used; other cases that are done stay done.
        GeometryError: for grids that contradict each other.
    """
    cases = labelled(dataset)
    log_warnings(dataset.notes)
    warn_of_contradictions(path for case in cases for path in case.files)
    splits = splits or splits_of(dataset, cases, seed, how=how, fraction=fraction, folds=folds)
    if preprocessing is None and dimensions == 3:
        measured = measure(dataset, cases, store, workers, progress)
        preprocessing, _ = volume_preprocessing(dataset, grids_of(cases), measured)
    preprocessing = preprocessing or preprocessing_for(dataset, grids_of(cases))
    _raise_if_too_coarse(preprocessing, cases)
    if (store / MANIFEST).is_file():
        try:
            Store.open(store)
        except DataError as error:
            if problem_of(error, str(store)).kind != OLDER:
                raise  # a later version's, or damaged
            _log.warning("%s was prepared by an earlier version: it is made anew.", store)
    elif store.is_dir():
        others = {entry.name for entry in store.iterdir()} - {"cases"}
        if others:
            raise ConfigError(
                f"{store} is no prepared store and not empty ({', '.join(sorted(others)[:5])}). "
                "Choose another folder."
            )
    writable_folder(store)
    work = partial(_prepare_case, replace(dataset, cases=(), notes=()), preprocessing, store)
    try:
        stored = spread(work, cases, workers, progress)
    except TransUNetError:
        with suppress(OSError):
            store.rmdir()  # where not a single case was done
        raise
    manifest = Manifest(
        format=FORMAT,
        dataset=dataset.name,
        folder=str(dataset.folder.resolve()),
        layout=dataset.layout,
        labels=dict(dataset.labels),
        regions=dict(dataset.regions),
        learned_regions=dataset.learned_regions,
        ignore=dataset.ignore,
        preprocessing=preprocessing,
        fingerprint=summarise(
            [case.fingerprint for case in stored],
            [((case.slices, *case.size), case.spacing_mm) for case in stored],
            dataset.labels,
        ),
        seed=seed,
        splits=splits.parts,
        split_rule=splits.rule,
        split_drawn=splits.drawn,
        group_by=dataset.group_by,
        cases={case.name: case for case in stored},
    )
    text, path = manifest.model_dump_json(indent=1), store / MANIFEST
    if not path.is_file() or path.read_text("utf-8") != text:
        write_text(text, path)
    for folder in (store / "cases").iterdir():
        if folder.name not in manifest.cases:  # left the data set, or an interrupted run's
            shutil.rmtree(folder)
    return Store(store, manifest)


def measure(
    dataset: DataSet,
    cases: Sequence[Case],
    store: Path,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[CaseFingerprint]:
    """Measure what planning for networks of three axes needs; nothing of what `store` knows.

    Args:
        dataset: that the cases are of.
        cases: labelled.
        store: a folder; where a store is in it, unchanged cases are not read again.
        workers: processes; each holds one case in memory.
        progress: called after every case.

    Raises:
        DataError: for the first case that cannot be used, or that is a picture.
        GeometryError: for grids that contradict each other.
    """
    known = None
    with suppress(DataError, ConfigError):
        known = Store.open(store).preprocessing
    work = partial(_measure_case, replace(dataset, cases=(), notes=()), known, store)
    return spread(work, cases, workers, progress)


def labelled(dataset: DataSet) -> tuple[Case, ...]:
    """Return the cases with a label, sorted by name; all their files are there.

    Raises:
        DataError: when a file is missing, or no case has a label.
    """
    cases = tuple(sorted((c for c in dataset.cases if c.label), key=lambda case: case.name))
    raise_first(labels_missing(dataset))
    for case in cases:
        raise_first(file_problems(case))
    return cases


def _raise_if_too_coarse(preprocessing: Preprocessing, cases: Sequence[Case]) -> None:
    """Refuse a spacing that leaves hardly a voxel of an axis, such as one that is not in mm."""
    if preprocessing.spacing_mm is None or not (grids := grids_of(cases)):
        return
    own = np.median([preprocessing.native_shape(grid) for grid in grids], axis=0)
    native_mm = [preprocessing.working_spacing_mm(grid, resampled=False) for grid in grids]
    has = np.median(native_mm, axis=0)
    wanted = [mm or own_mm for mm, own_mm in zip(preprocessing.spacing_mm, has, strict=True)]
    left = np.maximum(1, np.round(own * has / wanted))
    if np.any((left < _FEWEST) & (own >= _FEWEST)):
        before, after, mm = (extents(each, ".4g") for each in (own, left, wanted))
        raise ConfigError(
            f"A spacing of {mm} mm leaves {after} voxels (planes, rows, columns) of the median "
            f"volume's {before}; expected {_FEWEST} along each axis. Choose a finer --spacing (of "
            "--dimensions 3 also --plane-spacing), in mm."
        )


def _prepare_case(
    dataset: DataSet, preprocessing: Preprocessing, store: Path, case: Case
) -> StoredCase:
    prepared, made_with = case_on_disk(store, case.name), _made_with(dataset, preprocessing)
    stamps, hashes = _stamps_and_hashes(dataset, case, prepared)
    if prepared and (prepared.hashes, prepared.made_with) == (hashes, made_with):
        return prepared.replace(group=case.group, split=case.split)
    image, label = dataset.read_case(case)
    assert case.label is not None  # as in every labelled case
    assert label is not None
    if preprocessing.of_volumes:
        _refuse_plane(image)
    working = preprocessing.to_working(image)
    working_labels = preprocessing.labels_to_working(label)
    if preprocessing.is_cropped:
        box = working_region(preprocessing, image, working_labels)
        working, working_labels = working[:, *box], working_labels[box]
    classes = [int(index) for index in np.unique(working_labels) if index in dataset.labels]
    unlabelled = np.zeros(len(working_labels), np.bool_)
    if dataset.ignore is not None:
        unlabelled = (working_labels == IGNORED).all(axis=(1, 2))
    stored = StoredCase(
        name=case.name,
        images=tuple(_stored_path(dataset, path) for path in case.images),
        label=_stored_path(dataset, case.label),
        hashes=hashes,
        stamps=stamps,
        made_with=made_with,
        group=case.group,
        split=case.split,
        slices=working.shape[1],
        size=(working.shape[2], working.shape[3]),
        spacing_mm=preprocessing.working_spacing_mm(image),
        slices_with={
            index: tuple(np.flatnonzero((working_labels == index).any(axis=(1, 2))).tolist())
            for index in classes
            if index
        },
        unlabelled=tuple(np.flatnonzero(unlabelled).tolist()),
        fingerprint=CaseFingerprint.of(image, label, dataset.labels, preprocessing.of_volumes),
    )
    remedy = "Choose another place or make room; the cases that are done stay done."
    with writing(store, remedy), atomic_path(case_folder(store, case.name)) as folder:
        folder.mkdir()
        np.save(folder / "image.npy", working)
        np.save(folder / "label.npy", working_labels)
        if preprocessing.of_volumes:
            np.save(folder / FOREGROUND, _foreground(working_labels, classes, case.name))
        (folder / CASE).write_text(stored.model_dump_json(), "utf-8")
    return stored


def _made_with(dataset: DataSet, preprocessing: Preprocessing) -> str:
    settings = {
        "format": FORMAT,
        "reading": _READING,
        "preprocessing": preprocessing.model_dump(mode="json"),
        "values": sorted(dataset.values.items()),
        "channels": dataset.channels,
    }
    per_channel = [channel.normalisation for channel in preprocessing.channels]
    if preprocessing.of_volumes or "nonzero" in per_channel:
        settings["volumes"] = _VOLUMES
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _stamps_and_hashes(
    dataset: DataSet, case: Case, prepared: StoredCase | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Return `StoredCase.stamps` and `hashes` of a case's files as they are now."""
    stamps, hashes = {}, {}
    for path in [file for part in case.files for file in files_of(part)]:
        name = _stored_path(dataset, path)
        files = walk(path).files if path.is_dir() else files_of(path)
        stamps[name] = _together([f"{s.st_size} {s.st_mtime_ns}" for s in map(Path.stat, files)])
        if prepared and prepared.stamps.get(name) == stamps[name]:
            hashes[name] = prepared.hashes[name]
        else:
            hashes[name] = _together([sha256_of(file) for file in files])
    return stamps, hashes


def changed_files(dataset: DataSet, case: Case, stored: StoredCase) -> list[str]:
    """Return the files of `case`, which are there, that are not what `stored` was made from."""
    now = _stamps_and_hashes(dataset, case, stored)[1]
    return sorted(name for name, _ in now.items() ^ stored.hashes.items())


def _together(parts: Sequence[str]) -> str:
    """Return what stands for one file; of several, such as a DICOM series, the hash of theirs."""
    return hashlib.sha256("".join(parts).encode()).hexdigest() if parts[1:] else parts[0]


def _foreground(labels: NDArray[Any], classes: Sequence[int], name: str) -> NDArray[np.uint16]:
    """Return the voxels of `store.FOREGROUND`, drawn as the case's name alone decides."""
    rows = [np.zeros((0, 4), np.uint16)]
    for index in filter(None, classes):
        voxels = np.flatnonzero(labels == index)
        if voxels.size > _FOREGROUND:
            rng = np.random.default_rng((crc32(name.encode()), index))
            voxels = np.sort(rng.choice(voxels, _FOREGROUND, replace=False))
        where = np.stack(np.unravel_index(voxels, labels.shape), axis=1)
        rows.append(np.pad(where, [(0, 0), (1, 0)], constant_values=index).astype(np.uint16))
    return np.concatenate(rows)


def _measure_case(
    dataset: DataSet, known: Preprocessing | None, store: Path, case: Case
) -> CaseFingerprint:
    prepared = case_on_disk(store, case.name) if known else None
    if (
        known
        and prepared
        and prepared.fingerprint.nonzero is not None
        and prepared.made_with == _made_with(dataset, known)
        and prepared.hashes == _stamps_and_hashes(dataset, case, prepared)[1]
    ):
        return prepared.fingerprint
    image, label = dataset.read_case(case)
    assert label is not None
    _refuse_plane(image)
    return CaseFingerprint.of(image, label, dataset.labels, finely=True)


def _refuse_plane(image: Volume) -> None:
    if min(image.spatial_shape) == 1:
        shape = extents(image.spatial_shape)
        found = f"it is a picture or a single plane ({shape} voxels), and no volume"
        remedy = (
            "Take a network of two axes: prepare --dimensions 2; train: a --model or --weights "
            "without 3D"
        )
        raise Problem("plane", image.name, found, remedy).error()


def working_region(
    preprocessing: Preprocessing, image: Volume, labels: NDArray[Any]
) -> tuple[slice, slice, slice]:
    """Return where in a working volume there is something, in its image or its `labels`."""
    tissue = np.asarray(preprocessing.oriented(image) != 0).any(axis=0)
    slices = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        native = np.flatnonzero(np.any(tissue, axis=others))
        labelled = np.flatnonzero(np.any(labels, axis=others))
        length, new = tissue.shape[axis], labels.shape[axis]
        scale = (new - 1) / max(length - 1, 1)
        low, high = 0, new
        if native.size:  # a voxel more on each side, for what resampling spreads
            low, high = int(native[0] * scale) - 1, int(native[-1] * scale) + 3
        if labelled.size:
            low, high = min(low, int(labelled[0])), max(high, int(labelled[-1]) + 1)
        slices.append(slice(max(low, 0), min(high, new)))
    planes, rows, columns = slices
    return planes, rows, columns


def _stored_path(dataset: DataSet, path: Path) -> str:
    inside = path.is_relative_to(dataset.folder)
    return (path.relative_to(dataset.folder) if inside else path.resolve()).as_posix()

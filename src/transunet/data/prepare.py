"""Data set -> prepared store: each volume is read once, and training never decompresses one again.

A case is written whole or not at all, and is made anew only when one of its files or a setting has
changed: preparing twice does nothing, and after an interruption it goes on where it stopped.
"""

import hashlib
import json
import logging
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from transunet.data.cases import (
    IGNORED,
    Case,
    DataSet,
    file_problems,
    labels_missing,
    raise_first,
)
from transunet.data.checks.problems import log_warnings, problem_of
from transunet.data.checks.suitability import modality_of_header
from transunet.data.fingerprint import CaseFingerprint, summarise
from transunet.data.formats import files_of, warn_of_contradictions
from transunet.data.planning import grids_of, preprocessing_for
from transunet.data.preprocessing import Preprocessing
from transunet.data.processes import Progress, spread
from transunet.data.split_rules import How, splits_of
from transunet.data.splits import FRACTION, Splits
from transunet.data.store import (
    CASE,
    FORMAT,
    MANIFEST,
    OLDER,
    Manifest,
    Store,
    StoredCase,
    case_folder,
    case_on_disk,
)
from transunet.data.walking import walk
from transunet.errors import ConfigError, DataError
from transunet.files import atomic_path, sha256_of, writable_folder, write_text, writing

_READING = 2
"""Counted up when files are read otherwise than before, so that stores are made anew."""

_log = logging.getLogger("transunet")


def prepare(
    dataset: DataSet,
    store: Path,
    *,
    preprocessing: Preprocessing | None = None,
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
        workers: processes; each holds one case in memory.
        seed: of the split; see `split_rules.splits_of`, also for what follows.
        how: "auto", "own", "holdout" or "kfold".
        fraction: of the groups, held out.
        folds: how many.
        splits: made already, instead of what `seed`, `how`, `fraction` and `folds` say.
        progress: called after every case.

    Raises:
        ConfigError: when `store` is something else or cannot be written, or the split is
            impossible.
        DataError: for the first case that cannot be used; other cases that are done stay done.
        GeometryError: for grids that contradict each other.
    """
    cases = labelled(dataset)
    log_warnings(dataset.notes)
    warn_of_contradictions(path for case in cases for path in case.files)
    splits = splits or splits_of(dataset, cases, seed, how=how, fraction=fraction, folds=folds)
    preprocessing = preprocessing or preprocessing_for(dataset, grids_of(cases))
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
    stored = spread(work, cases, workers, progress)
    manifest = Manifest(
        format=FORMAT,
        dataset=dataset.name,
        folder=str(dataset.folder.resolve()),
        layout=dataset.layout,
        labels=dict(dataset.labels),
        regions=dict(dataset.regions),
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


def _prepare_case(
    dataset: DataSet, preprocessing: Preprocessing, store: Path, case: Case
) -> StoredCase:
    settings = {
        "format": FORMAT,
        "reading": _READING,
        "preprocessing": preprocessing.model_dump(mode="json"),
        "values": sorted(dataset.values.items()),
        "channels": dataset.channels,
    }
    made_with = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    files = [file for path in case.files for file in files_of(path)]
    hashes = {}
    for path in files:  # of several, such as a DICOM series, the hash of their hashes
        parts = [
            sha256_of(file) for file in (walk(path).files if path.is_dir() else files_of(path))
        ]
        several = hashlib.sha256("".join(parts).encode()).hexdigest()
        hashes[_stored_path(dataset, path)] = several if parts[1:] else parts[0]
    prepared = case_on_disk(store, case.name)
    if prepared and (prepared.hashes, prepared.made_with) == (hashes, made_with):
        return prepared.replace(group=case.group, split=case.split)
    image, label = dataset.read_case(case)
    assert case.label is not None  # as in every labelled case
    assert label is not None
    working = preprocessing.to_working(image)
    working_labels = preprocessing.labels_to_working(label)
    classes = [int(index) for index in np.unique(working_labels) if index in dataset.labels]
    unlabelled = np.zeros(len(working_labels), np.bool_)
    if dataset.ignore is not None:
        unlabelled = (working_labels == IGNORED).all(axis=(1, 2))
    stored = StoredCase(
        name=case.name,
        images=tuple(_stored_path(dataset, path) for path in case.images),
        label=_stored_path(dataset, case.label),
        hashes=hashes,
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
        fingerprint=CaseFingerprint.of(
            image, label, dataset.labels, modality_of_header(image.header)
        ),
    )
    remedy = "Choose another place or make room; the cases that are done stay done."
    with writing(store, remedy), atomic_path(case_folder(store, case.name)) as folder:
        folder.mkdir()
        np.save(folder / "image.npy", working)
        np.save(folder / "label.npy", working_labels)
        (folder / CASE).write_text(stored.model_dump_json(), "utf-8")
    return stored


def _stored_path(dataset: DataSet, path: Path) -> str:
    inside = path.is_relative_to(dataset.folder)
    return (path.relative_to(dataset.folder) if inside else path.resolve()).as_posix()

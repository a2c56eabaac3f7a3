"""Data set -> prepared store: each volume is read once, and training never decompresses one again.

A case is written whole or not at all, and is made anew only when one of its files or a setting has
changed: preparing twice does nothing, and after an interruption it goes on where it stopped.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

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
from transunet.data.checks.problems import log_warnings
from transunet.data.checks.suitability import modality_of_header
from transunet.data.fingerprint import CaseFingerprint, intensities_of, summarise
from transunet.data.formats import files_of, read_grid, warn_of_contradictions
from transunet.data.planning import preprocessing_for
from transunet.data.preprocessing import Preprocessing
from transunet.data.processes import spread
from transunet.data.split_rules import FRACTION, splits_of
from transunet.data.splits import How, Splits
from transunet.data.store import (
    CASE,
    FORMAT,
    MANIFEST,
    Manifest,
    Store,
    StoredCase,
    case_folder,
    case_on_disk,
)
from transunet.data.volume import Grid, Volume
from transunet.data.walking import walk
from transunet.errors import ConfigError, DataError, GeometryError
from transunet.files import atomic_path, writable_folder, writing

_READING = 2
"""Counted up when files are read otherwise than before, so that stores are made anew."""

Progress = Callable[[int, int, str], None]
"""Called with the cases done, all cases, and the name of the case just done."""

_GRIDS = 500  # cases whose headers decide on the slice axis


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
    warn_of_contradictions(path for case in cases for path in _files(case))
    splits = splits or splits_of(dataset, cases, seed, how=how, fraction=fraction, folds=folds)
    chosen = preprocessing or preprocessing_for(dataset, grids_of(cases))
    _check_store(store)
    task = _Task(replace(dataset, cases=(), notes=()), chosen, store)
    stored = _prepared(task, cases, workers, progress)
    manifest = _manifest(task, stored, seed, splits)
    _write_manifest(manifest, store)
    _remove_others(store, set(manifest.cases))
    return Store(store, manifest)


def _manifest(task: "_Task", stored: Sequence[StoredCase], seed: int, splits: Splits) -> Manifest:
    dataset = task.dataset
    fingerprint = summarise(
        [case.fingerprint for case in stored],
        [((case.slices, *case.size), case.spacing_mm) for case in stored],
        dataset.labels,
    )
    return Manifest(
        format=FORMAT,
        dataset=dataset.name,
        folder=str(dataset.folder.resolve()),
        layout=dataset.layout,
        labels=dict(dataset.labels),
        regions=dict(dataset.regions),
        ignore=dataset.ignore,
        preprocessing=task.preprocessing,
        fingerprint=fingerprint,
        seed=seed,
        splits=splits.parts,
        split_rule=splits.rule,
        split_drawn=splits.drawn,
        group_by=dataset.group_by,
        cases={case.name: case for case in stored},
    )


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


def grids_of(cases: Sequence[Case]) -> list[Grid]:
    """Read the grids of (at most 500, evenly chosen) cases from their headers."""
    step = -(-len(cases) // _GRIDS)
    grids = (_grid_of(case) for case in cases[::step])
    return [grid for grid in grids if grid]


def _grid_of(case: Case) -> Grid | None:
    try:
        return read_grid(case.images[0])
    except (DataError, GeometryError):
        return None  # reading the case will tell what is wrong with it


@dataclass(frozen=True)
class _Task:
    """What a worker needs to know beside the case."""

    dataset: DataSet
    preprocessing: Preprocessing
    store: Path

    @property
    def made_with(self) -> str:
        settings = {
            "format": FORMAT,
            "reading": _READING,
            "preprocessing": self.preprocessing.model_dump(mode="json"),
            "values": sorted(self.dataset.values.items()),
            "channels": self.dataset.channels,
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def relative(self, path: Path) -> str:
        inside = path.is_relative_to(self.dataset.folder)
        return (path.relative_to(self.dataset.folder) if inside else path.resolve()).as_posix()


def _prepared(
    task: _Task, cases: Sequence[Case], workers: int, progress: Progress | None
) -> list[StoredCase]:
    done: dict[str, StoredCase] = {}
    for case in spread(partial(_prepare_case, task), cases, workers):
        done[case.name] = case
        if progress:
            progress(len(done), len(cases), case.name)
    return [done[case.name] for case in cases]


def _prepare_case(task: _Task, case: Case) -> StoredCase:
    files = [file for path in _files(case) for file in files_of(path)]
    hashes = {task.relative(path): _sha256(path) for path in files}
    there = case_on_disk(task.store, case.name)
    if there and (there.hashes, there.made_with) == (hashes, task.made_with):
        return there.replace(group=case.group, split=case.split)
    image, label = task.dataset.read_case(case)
    if label is None:
        raise AssertionError(f"{case.name} has no label")
    slices = task.preprocessing.to_slices(image)
    label_slices = task.preprocessing.labels_to_slices(label)
    labelled = np.ones(len(label_slices), np.bool_)
    if task.dataset.ignore is not None:
        labelled = (label_slices != IGNORED).any(axis=(1, 2))
    stored = StoredCase(
        name=case.name,
        images=tuple(task.relative(path) for path in case.images),
        label=task.relative(_files(case)[-1]),
        hashes=hashes,
        made_with=task.made_with,
        group=case.group,
        split=case.split,
        slices=len(slices),
        size=(slices.shape[2], slices.shape[3]),
        spacing_mm=task.preprocessing.slice_spacing(image),
        slices_with=_slices_with(label_slices, task.dataset.labels),
        unlabelled=tuple(np.flatnonzero(~labelled).tolist()),
        fingerprint=_case_fingerprint(image, label, task.dataset.labels),
    )
    _write_case(task.store, stored, slices, label_slices)
    return stored


def _write_case(store: Path, case: StoredCase, slices: NDArray[Any], labels: NDArray[Any]) -> None:
    remedy = "Choose another place or make room; the cases that are done stay done."
    with writing(store, remedy), atomic_path(case_folder(store, case.name)) as folder:
        folder.mkdir()
        np.save(folder / "image.npy", slices)
        np.save(folder / "label.npy", labels)
        (folder / CASE).write_text(case.model_dump_json(), "utf-8")


def _files(case: Case) -> list[Path]:
    return [path for path in (*case.images, case.label) if path]


def _sha256(path: Path) -> str:
    """Of a file, or of the hashes of several: a DICOM series, a header and its voxels."""
    files = walk(path).files if path.is_dir() else files_of(path)
    if len(files) > 1:
        return hashlib.sha256("".join(map(_sha256_of_file, files)).encode()).hexdigest()
    return _sha256_of_file(files[0])


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _slices_with(labels: NDArray[Any], known: Mapping[int, str]) -> dict[int, tuple[int, ...]]:
    classes = [int(index) for index in np.unique(labels) if index and index in known]
    return {
        index: tuple(np.flatnonzero((labels == index).any(axis=(1, 2))).tolist())
        for index in classes
    }


def _case_fingerprint(image: Volume, label: Volume, known: Mapping[int, str]) -> CaseFingerprint:
    classes, counts = np.unique(label.array.ravel("K"), return_counts=True)
    voxels = dict(zip(classes.tolist(), counts.tolist(), strict=True))
    foreground = (label.array[0] > 0) & (label.array[0] <= max(known))
    return CaseFingerprint(
        shape=image.spatial_shape,
        spacing_mm=image.spacing_mm,
        orientation=image.orientation,
        modality=modality_of_header(image.header),
        intensities=intensities_of(image.array),
        foreground=intensities_of(image.array[:, foreground]),
        voxels={index: count for index, count in voxels.items() if index in known},
    )


def _check_store(store: Path) -> None:
    """Refuse a folder that holds something else than a store or the beginnings of one."""
    if (store / MANIFEST).is_file():
        Store.open(store)  # refuses another version's
    elif store.is_dir():
        others = {entry.name for entry in store.iterdir()} - {"cases"}
        if others:
            raise ConfigError(
                f"{store} is no prepared store and not empty ({', '.join(sorted(others)[:5])}). "
                "Choose another folder."
            )
    writable_folder(store)


def _write_manifest(manifest: Manifest, store: Path) -> None:
    text = manifest.model_dump_json(indent=1)
    path = store / MANIFEST
    if path.is_file() and path.read_text("utf-8") == text:
        return
    with atomic_path(path) as scratch:
        scratch.write_text(text, "utf-8")


def _remove_others(store: Path, names: set[str]) -> None:
    """Remove what cases that have left the data set, and interrupted runs, left in the store."""
    for folder in (store / "cases").iterdir():
        if folder.name not in names:
            shutil.rmtree(folder)

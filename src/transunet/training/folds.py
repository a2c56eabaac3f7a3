"""Cross-validation: one run per fold in RUN/fold-K, and a summary over all cases.

Every case is held out once. Folds may be trained one after the other or on several machines that
share the folder; whoever finishes the last one can summarise.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transunet.data.processes import Progress
from transunet.data.store import Store
from transunet.files import atomic_path
from transunet.training.distributed import Processes
from transunet.training.log import read_log
from transunet.training.recipe import Recipe
from transunet.training.runs import Run
from transunet.training.start import begin, begun_by_us, derived, ready_store, resume, start
from transunet.training.trainer import Job, splits_of_run


@dataclass(frozen=True)
class Summary:
    """Dice on the held-out cases of all folds, each from its fold's best network."""

    folds: Sequence[float]
    """Mean foreground Dice of each fold."""
    mean: Mapping[str, float]
    """Class -> mean over the cases."""
    deviation: Mapping[str, float]
    """Class -> standard deviation over the cases."""
    mean_dice: float
    """Mean of the classes' means."""
    cases: Mapping[str, Mapping[str, float | None]]
    """Case -> class -> Dice; None where the class is in neither. Of a case in several folds, the
    last one's; the means count each."""
    held_out: int
    """How often a case was held out, over all folds."""


def open_folds(
    folder: Path,
    dataset: Path,
    recipe: Recipe,
    place: Processes | None = None,
    *,
    store: Path | None = None,
    layout: str | None = None,
    splits: Path | None = None,
    group_by: str | None = None,
    ignore: int | None = None,
    join: bool = False,
    workers: int = 0,
    progress: Progress | None = None,
) -> Run:
    """Begin a cross-validation in `folder`: prepare its data and note what it is.

    Args:
        folder: new or empty, or one that holds the same cross-validation.
        dataset: as for `start`, like what follows.
        recipe: with `folds`; its `fold` is left out.
        place: this process's.
        store: where to prepare the data set.
        layout: the data set's.
        splits: a file with the folds; see `start.choose_splits` if not given.
        group_by: keeps cases together, as for `start`.
        ignore: as for `start`.
        join: take part in one that was begun already, perhaps by another machine.
        workers: processes that prepare data.
        progress: told about the preparation of data.

    Raises:
        ConfigError: when something else is in `folder`, or the same one and `join` is False.
        DataError, GeometryError, WeightsError: for whatever cannot be used.
    """
    place, whole = place or Processes(), recipe.replace(fold=None)
    begun = (join and (folder / "run.json").is_file()) or begun_by_us(folder)
    if place.first and not begun:
        begin(folder, dataset, whole, store, layout, splits, group_by, ignore)
    place.wait()
    run = Run.reopen(folder)
    run.refuse_another(whole)
    with run.locked(place, patience=-1):  # others that train a fold need what is made here
        if place.first:
            ready_store(run, workers, progress)
            run.keep_recipe(derived(whole))
    place.wait()
    return run


def fold_job(
    parent: Run,
    fold: int,
    place: Processes | None = None,
    *,
    go_on: bool = False,
    device: str | None = None,
    workers: int = 0,
) -> Job:
    """Begin a fold of a cross-validation, or go on with it.

    Args:
        parent: from `open_folds`, or reopened.
        fold: from 0.
        place: as for `start`, like what follows.
        go_on: resume the fold when it was begun.
        device: "cpu", "cuda", ...; the best one if not given.
        workers: processes that prepare batches, for each process.

    Raises:
        ConfigError: when the fold was begun already and `go_on` is False.
    """
    folder = fold_folder(parent.folder, fold)
    if go_on and (folder / "run.json").is_file():
        return resume(folder, None, place, device=device, workers=workers)
    recipe, store = parent.record.recipe.replace(fold=fold), parent.store
    splits = splits_of_run(parent, Store.open(store))
    return start(folder, store, recipe, place, splits=splits, device=device, workers=workers)


def fold_folder(folder: Path, fold: int) -> Path:
    """Return where a fold's run lies."""
    return folder / f"fold-{fold}"


def summarise(parent: Run) -> Summary | None:
    """Write RUN/folds.json and return it, or None while a fold is missing or unfinished."""
    folders = [fold_folder(parent.folder, fold) for fold in range(parent.record.recipe.folds or 0)]
    if not all(read_log(folder, "end") for folder in folders):
        return None
    best = [_best(folder) for folder in folders]
    cases = {case: dice for entry in best for case, dice in entry["cases"].items()}
    measured = [dice for entry in best for dice in entry["cases"].values()]
    values = {
        name: [v for dice in measured if (v := dice[name]) is not None] for name in measured[0]
    }
    mean = {name: float(np.mean(found)) for name, found in values.items() if found}
    summary = Summary(
        folds=[entry["mean_dice"] for entry in best],
        mean=mean,
        deviation={name: float(np.std(values[name])) for name in mean},
        mean_dice=float(np.mean(list(mean.values()))) if mean else float("nan"),
        cases=cases,
        held_out=len(measured),
    )
    with atomic_path(parent.folder / "folds.json") as partial:
        partial.write_text(json.dumps(asdict(summary), indent=1), encoding="utf-8")
    return summary


def _best(folder: Path) -> dict[str, Any]:
    return [entry for entry in read_log(folder, "validation") if entry["best"]][-1]

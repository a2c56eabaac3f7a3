"""From a data set and a recipe, or from a run's folder, to a job that can be trained."""

import logging
import os
import platform
import shutil
from itertools import chain
from pathlib import Path

from transunet.data.layouts import open_dataset
from transunet.data.prepare import labelled, prepare
from transunet.data.processes import Progress
from transunet.data.split_rules import (
    grouped_cases,
    named_splits,
    own_folds,
    splits_in,
    splits_of,
    stored_splits,
)
from transunet.data.splits import Splits
from transunet.data.store import MANIFEST, Store
from transunet.device import choose_device
from transunet.errors import ConfigError, TransUNetError, WeightsError, first_line
from transunet.models.transunet2d.config import variant
from transunet.training.distributed import Processes
from transunet.training.fine_tuning import check_agreement, preprocessing_from_weights
from transunet.training.log import check_trackers
from transunet.training.memory import fit_to_memory
from transunet.training.recipe import Recipe
from transunet.training.runs import Run, is_store, refuse_if_taken
from transunet.training.trainer import Job, splits_of_run
from transunet.weights.catalog import PARTS, RETIRED, SOURCES, files_for
from transunet.weights.download import fetch
from transunet.weights.origin import about_hub

_log = logging.getLogger(__name__)


def start(
    folder: Path,
    dataset: Path,
    recipe: Recipe,
    place: Processes | None = None,
    *,
    store: Path | None = None,
    layout: str | None = None,
    splits: Path | Splits | None = None,
    group_by: str | None = None,
    ignore: int | None = None,
    device: str | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Job:
    """Begin a run and return its job; what cannot work is refused before anything is written.

    A process that torchrun has started again goes on with the run that it had begun.

    Args:
        folder: for the run; new or empty.
        dataset: a data set, or a prepared store.
        recipe: as asked for.
        place: this process's.
        store: where to prepare the data set; a folder in the run's if not given.
        layout: the data set's; recognised if not given.
        splits: which cases train and validate, or a file that says so (`split_rules.named_splits`);
            if not given, see `choose_splits`.
        group_by: a regular expression; cases in whose names it finds the same stay together.
        ignore: the value in label maps of what nobody labelled; a data set's own label "ignore", or
            a store's, need not be given.
        device: "cpu", "cuda", ...; the best one if not given.
        workers: processes that prepare batches, for each process.
        progress: told about the preparation of data.

    Raises:
        ConfigError, DataError, GeometryError, WeightsError: for whatever cannot be used; nothing
            is left behind.
    """
    place = place or Processes()
    if place.first and not begun_by_us(folder):
        begin(folder, dataset, recipe, store, layout, splits, group_by, ignore, device)
    place.wait()
    run = Run.reopen(folder)
    run.refuse_another(recipe)
    with run.locked(place):
        try:
            return _job(run, place, device, workers, progress)
        except TransUNetError:
            if place.first and not run.checkpoint.is_file():
                shutil.rmtree(folder, ignore_errors=True)
            raise


def resume(
    folder: Path,
    recipe: Recipe | None = None,
    place: Processes | None = None,
    *,
    device: str | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Job:
    """Return the job of a run that was begun, from its checkpoint on if it has one.

    Args:
        folder: the run's.
        recipe: refused when it is not the run's own.
        place: as for `start`, like the others.
        device: may be another one than before.
        workers: may be others than before.
        progress: told about the preparation of data.

    Raises:
        RunInUseError: when another process trains it.
        ConfigError: when no run was begun there, or with another recipe.
        DataError: when its checkpoint or its data is damaged.
    """
    run, place = Run.reopen(folder), place or Processes()
    if recipe is not None:
        run.refuse_another(recipe)
    with run.locked(place):
        return _job(run, place, device, workers, progress)


def begin(
    folder: Path,
    dataset: Path,
    recipe: Recipe,
    store: Path | None = None,
    layout: str | None = None,
    splits: Path | Splits | None = None,
    group_by: str | None = None,
    ignore: int | None = None,
    device: str | None = None,
) -> Run:
    """Begin a run's folder; arguments as for `start`.

    Raises:
        ConfigError, DataError, WeightsError: for what cannot work; nothing is written then.
    """
    refuse_if_taken(folder)
    choose_device(device)
    check_trackers(recipe.loggers)
    size = None if recipe.image_size == "auto" else recipe.image_size
    variant(recipe.model, image_size=size, n_skip=recipe.n_skip)
    _check_ignored(dataset, layout, ignore)
    if not isinstance(splits, Splits):
        splits = choose_splits(recipe, dataset, layout, splits, group_by)
    check_agreement(recipe)
    check_weights(recipe)
    return Run.begin(
        folder,
        dataset,
        store,
        recipe,
        layout=layout,
        ignore=ignore,
        preprocessing=preprocessing_from_weights(recipe, dataset, layout),
        splits=splits,
        group_by=group_by,
        launch=launch(),
    )


def _check_ignored(dataset: Path, layout: str | None, ignore: int | None) -> None:
    if ignore is None:
        return
    if not is_store(dataset):
        open_dataset(dataset, layout, ignore)  # refuses what cannot be left out
    elif (prepared := Store.open(dataset).manifest).ignore != ignore:
        leaves_out = "nothing" if prepared.ignore is None else str(prepared.ignore)
        raise ConfigError(
            f"The store {dataset} was prepared with {leaves_out} left out, not {ignore}. Prepare "
            f"the data set anew: transunet prepare {prepared.folder} -o STORE --ignore {ignore}"
        )


def choose_splits(
    recipe: Recipe,
    dataset: Path,
    layout: str | None = None,
    file: Path | None = None,
    group_by: str | None = None,
) -> Splits:
    """Return which cases of a data set, or of a prepared store, train and validate.

    First comes a user's file; then what the recipe asks for (folds, a share that is held out); then
    what a store was prepared with, or what the data set brings; then a fifth, drawn.

    Raises:
        ConfigError, DataError: when that cannot be, or the data set cannot be opened.
    """
    if file and recipe.holdout is not None:
        raise ConfigError(f"--splits {file} and holdout={recipe.holdout:g} are two ways to split.")
    if is_store(dataset):
        prepared = Store.open(dataset)
        if file:
            return splits_in(file, grouped_cases(prepared, group_by), recipe.folds, group_by)
        return stored_splits(
            prepared, recipe.seed, fraction=recipe.holdout, folds=recipe.folds, group_by=group_by
        )
    data = open_dataset(dataset, layout)
    data = data.grouped(group_by) if group_by else data
    cases = labelled(data)
    if file:
        return splits_in(file, cases, recipe.folds, group_by)
    if recipe.holdout is not None:
        return splits_of(data, cases, recipe.seed, how="holdout", fraction=recipe.holdout)
    return splits_of(data, cases, recipe.seed, folds=recipe.folds)


def number_of_folds(dataset: Path, layout: str | None, file: Path | None) -> int | None:
    """Return how many folds a file, a prepared store or a data set brings; None where it has none.

    Raises:
        ConfigError, DataError: when the file or the data set cannot be used.
    """
    if file:
        return len(named_splits(file))
    if is_store(dataset):
        number = len(Store.open(dataset).splits)
    else:
        data = open_dataset(dataset, layout)
        folds = own_folds(data, labelled(data))
        number = len(folds.parts) if folds else 1
    return number if number > 1 else None


def refuse_other_data(
    run: Run, file: Path | None, group_by: str | None, ignore: int | None
) -> None:
    """Make sure that a run is gone on with the splits and labels that it was begun with.

    Raises:
        ConfigError: when `file`, `group_by` or `ignore`, where given, says otherwise.
    """
    record, asked = run.record, []
    if file:
        parts = record.splits.parts if record.splits else ()
        begun = [(set(part.train), set(part.validation)) for part in parts]
        names = set().union(*chain(*begun))
        now = [(set(train), set(val)) for train, val in named_splits(file, names)]
        asked += [f"--splits {file}"] if now != begun else []
    if group_by not in (None, record.group_by):
        asked.append(f"--group-by {group_by}")
    if ignore not in (None, record.ignore):
        asked.append(f"--ignore {ignore}")
    if asked:
        raise ConfigError(
            f"The run in {run.folder} was not begun with {' and '.join(asked)}. Leave that out to "
            "go on with it, or start a new run in another folder."
        )


def check_weights(recipe: Recipe) -> None:
    """Make sure that the weights are there, before any work; published ones are downloaded.

    Raises:
        ConfigError, WeightsError: when they are not.
    """
    weights = recipe.weights
    if weights in (*SOURCES, *RETIRED):
        try:
            for file in files_for(recipe.model, weights):
                fetch(file)
        except WeightsError as error:
            raise WeightsError(f"{error}\nOr start from random weights: --weights none.") from None
    elif weights not in ("auto", "none") and not Path(weights).expanduser().exists():
        raise ConfigError(
            f"There are no weights {weights!r}: no such file or bundle. Known besides: "
            f"{', '.join(SOURCES)}, auto, none.{about_hub(weights)}"
        )


def derived(recipe: Recipe) -> Recipe:
    """Return `recipe` with the weights that "auto" stands for, downloaded if need be.

    The published ones where there are any; "none" where they cannot be had, so that a machine
    without a network trains all the same. The run's record says which.
    """
    if recipe.weights != "auto":
        return recipe
    return recipe.replace(weights="imagenet21k" if _can_be_had(recipe.model) else "none")


def _can_be_had(model: str) -> bool:
    if model not in PARTS:
        return False
    try:
        for file in files_for(model, "imagenet21k"):
            fetch(file)
    except (WeightsError, ConfigError) as error:  # no network, no room, a cache that is read-only
        _log.warning("The published weights cannot be had: %s", first_line(error))
        return False
    return True


def _job(
    run: Run, place: Processes, device: str | None, workers: int, progress: Progress | None
) -> Job:
    if place.first:
        run.sweep()
        ready_store(run, workers, progress)
    place.wait()
    store = Store.open(run.store)
    where = choose_device(_local(device, place))
    recipe = run.recipe()
    if recipe is None:
        chosen = place.gather(derived(run.record.recipe))[0]
        recipe = fit_to_memory(chosen, store, where, place)
    split = splits_of_run(run, store).parts[recipe.fold or 0]
    job = Job(run, recipe, store, split, where, workers, place)
    job.check_batches()
    if place.first:
        run.keep_recipe(recipe)
    job.restore()
    return job


def ready_store(run: Run, workers: int = 0, progress: Progress | None = None) -> None:
    """Prepare a run's data where it is not there yet.

    Raises:
        ConfigError, DataError, GeometryError: for data that cannot be used.
    """
    path, source = run.store, run.dataset
    trained = (run.folder / "recipe.json").is_file()
    if trained and (path / MANIFEST).is_file():
        return  # what a run is training on stays as it is
    if not source.exists():
        raise ConfigError(
            f"The data of the run in {run.folder} are no longer in {source}. Say where they are: "
            f"transunet train DATASET --resume {run.folder}"
        )
    if path == source:
        return
    record = run.record
    dataset = open_dataset(source, record.layout, record.ignore)
    dataset = dataset.grouped(record.group_by) if record.group_by else dataset
    prepare(
        dataset,
        path,
        preprocessing=record.preprocessing,
        workers=max(workers, 1),
        seed=record.recipe.seed,
        splits=record.splits,
        progress=progress,
    )


def _local(device: str | None, place: Processes) -> str | None:
    on_cuda = choose_device(device).type == "cuda"
    return f"cuda:{place.local}" if place.world > 1 and on_cuda else device


def launch() -> str:
    """Return what tells this launch from others: torchrun, also after it has restarted us."""
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"{run_id}/{platform.node()}/{os.getppid()}" if run_id else ""


def begun_by_us(folder: Path) -> bool:
    """Return whether a run was begun in `folder` by this process before torchrun restarted it."""
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    begun = again and (folder / "run.json").is_file()
    return begun and Run.reopen(folder).record.launch == launch()

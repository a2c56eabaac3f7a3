"""Training runs in their folders: begun, gone on with, cross-validated.

RUN/run.json        what was asked for: data set, store, recipe, splits; written first
RUN/recipe.json     the whole recipe in effect, with what was derived
RUN/store/          prepared slices, where the data set came unprepared
RUN/teacher/        what a teacher thinks of them; see `teaching`
RUN/log.jsonl       every step and validation
RUN/checkpoint.pt   what resuming needs
RUN/best, RUN/last  bundles: of the largest Dice on the held-out cases, and of the last validation
RUN/curves.png, RUN/tensorboard
RUN/.lock           held by the process that trains it; RUN/.lock.json says which that is

A cross-validation is a run whose folds are runs in RUN/fold-K, on its store. They may be trained
one after the other, or on several machines that share the folder; whoever finishes the last one
can write the summary RUN/folds.json, and the held-out cases' label maps and report (RUN/held-out).
"""

import logging
import os
import platform
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from json import JSONDecodeError, dumps, loads
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

import numpy as np
from pydantic import field_validator

from transunet.data.cases import DataSet
from transunet.data.inputs import find_inputs
from transunet.data.layouts import open_dataset
from transunet.data.prepare import labelled, prepare
from transunet.data.preprocessing import Preprocessing
from transunet.data.processes import Progress
from transunet.data.split_rules import (
    grouped_cases,
    named_splits,
    own_folds,
    splits_in,
    splits_of,
    stored_splits,
)
from transunet.data.splits import Split, Splits
from transunet.data.store import MANIFEST, Store, is_store
from transunet.data.text import some
from transunet.device import choose_device
from transunet.errors import ConfigError, TransUNetError
from transunet.files import read_json, writable_folder, write_text
from transunet.optional import own_version
from transunet.settings import Configuration
from transunet.training.distributed import ALONE, ProcessGroup
from transunet.training.fine_tuning import (
    check_weights,
    preprocessing_from_weights,
    with_weights_chosen,
)
from transunet.training.log import check_trackers, read_log
from transunet.training.memory import fit_to_memory, planned
from transunet.training.recipe import Distillation, Recipe
from transunet.training.run_lock import locked
from transunet.training.teacher import Taught, teacher_of
from transunet.training.teaching import RECORD, TaughtStore, Teaching, taught_by
from transunet.training.trainer import Trainer
from transunet.weights.catalog import SOURCES

FORMAT = 1
_log = logging.getLogger("transunet")


class RunRecord(Configuration):
    """What a run was asked to do."""

    format: int = FORMAT
    transunet: str = ""
    """Version that began the run."""
    dataset: str
    """The data set or the store: absolute, or relative to the run's folder where it lies there."""
    store: str
    """Where the prepared slices are, likewise."""
    recipe: Recipe
    """As asked for, before anything was derived; the path of weights is absolute."""
    layout: str | None = None
    """The data set's; None to recognise it."""
    ignore: int | None = None
    """The value in label maps of what nobody labelled, where one was given."""
    preprocessing: Preprocessing | None = None
    """How the data set is to be prepared, where the weights decide; None by the data set."""
    splits: Splits
    """Which cases train and validate."""
    group_by: str | None = None
    """The pattern that keeps cases together, where one was given."""
    launch: str = ""
    """Which torchrun began it, if one did."""

    @field_validator("preprocessing", mode="before")
    @classmethod
    def _of_an_earlier_version(cls, value: Any) -> Any:
        earlier = isinstance(value, Mapping) and "slice_axis" in value
        return Preprocessing.of_format_1(value) if earlier else value

    @property
    def split(self) -> Split:
        """Which cases train and validate in one run: in its fold, if the recipe names one."""
        return self.splits.parts[self.recipe.fold or 0]


@dataclass(frozen=True)
class Run:
    """A run's folder and what it was asked to do."""

    folder: Path
    record: RunRecord

    @classmethod
    def reopen(cls, folder: Path) -> Self:
        """Open the folder of a run that was begun.

        Raises:
            ConfigError: when no run was begun there, or by another version.
        """
        path = folder / "run.json"
        if not path.is_file():
            remedy = "Give the folder that `transunet train` or `transunet distill` made with -o."
            if (folder.resolve().parent / path.name).is_file():
                remedy = f"Give the run that it is a part of: {folder.parent}"
            raise ConfigError(f"There is no run in {folder}: it has no run.json. {remedy}")
        try:
            values = loads(path.read_text(encoding="utf-8"))
        except (JSONDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read ({error}). Start a new run.") from None
        if isinstance(values, dict) and (values.get("format") != FORMAT or "splits" not in values):
            raise ConfigError(
                f"{path} (format {values.get('format')!r}) notes other things than this version "
                f"reads. Resume with transunet {values.get('transunet')}, which began the run."
            )
        return cls(folder, RunRecord.from_json(values, str(path)))

    @property
    def dataset(self) -> Path:
        """The data set or the store that was asked for; it moves along where the run holds it."""
        return Path(os.path.normpath(self.folder.resolve() / self.record.dataset))

    @property
    def store(self) -> Path:
        """Where the prepared slices are; they move along where the run holds them."""
        return Path(os.path.normpath(self.folder.resolve() / self.record.store))

    @property
    def has_folds(self) -> bool:
        """Whether this is a cross-validation, and not one run."""
        return self.record.recipe.folds is not None and self.record.recipe.fold is None

    def fold(self, number: int) -> Path:
        """Return the folder of a cross-validation's fold, from 0."""
        return self.folder / f"fold-{number}"

    @property
    def folds(self) -> list[Path]:
        """The folders of a cross-validation's folds, begun or not; none of one run."""
        numbers = range(self.record.recipe.folds or 0) if self.has_folds else ()
        return [self.fold(number) for number in numbers]

    def recipe(self) -> Recipe | None:
        """Return the recipe in effect, or None while it has not been derived."""
        path = self.folder / "recipe.json"
        if not path.is_file():
            return None
        values = read_json(path, "Restore the file, or train into a new folder.")
        return Recipe.from_json(values, str(path))

    def original_data(self) -> DataSet:
        """Return the data set that the run, or the cross-validation, was prepared from.

        Raises:
            ConfigError, DataError: when it is gone or cannot be used.
        """
        manifest = Store.open(self.store).manifest
        # Data that came unprepared may have been moved since, which the run then knows.
        folder = Path(manifest.folder) if self.dataset == self.store else self.dataset
        return open_dataset(folder, manifest.layout, manifest.ignore)

    def with_data_at(self, dataset: Path) -> Self:
        """Return the run with its data set, which was moved, at `dataset`, and remember that.

        Raises:
            ConfigError: when the data set that the run was begun with is where it was.
        """
        if dataset.resolve() == self.dataset.resolve():
            return self
        if self.dataset.exists():
            raise ConfigError(
                f"The run in {self.folder} was begun with the data in {self.dataset}, not with "
                f"those in {dataset}. Leave the data set out to go on with it, or start a new run "
                "with -o."
            )
        moved = {"dataset": _recorded(dataset, self.folder)}
        if self.record.store == self.record.dataset:
            moved["store"] = moved["dataset"]
        run = replace(self, record=self.record.replace(**moved))
        write_text(run.record.model_dump_json(indent=2), run.folder / "run.json")
        return run

    def check_same_recipe(self, recipe: Recipe) -> None:
        """Make sure that `recipe` is the one that this run was begun with.

        Raises:
            ConfigError: naming every setting that differs.
        """
        before = flat(self.record.recipe.model_dump(mode="json"))
        now = flat(_with_absolute_paths(recipe).model_dump(mode="json"))
        del now["calibrate"]  # what is done when training has ended changes nothing of it
        changes = [
            f"{key}: {before.get(key)} -> {now[key]}" for key in now if before.get(key) != now[key]
        ]
        if changes:
            raise ConfigError(
                f"The run in {self.folder} was begun with another recipe: {'; '.join(changes)}. "
                f"Resume it as it was (transunet train --resume {self.folder}), or start a new run "
                f"in another folder; --weights {self.folder / 'last'} takes over what was learned."
            )

    def check_same_data(
        self, splits: Path | None = None, group_by: str | None = None, ignore: int | None = None
    ) -> None:
        """Make sure that the run is gone on with the splits and labels that it was begun with.

        Raises:
            ConfigError: when a file of `splits`, `group_by` or `ignore`, if given, says otherwise.
        """
        record, asked = self.record, []
        if splits:
            begun = [(set(part.train), set(part.validation)) for part in record.splits.parts]
            names = set().union(*chain(*begun))
            now = [(set(train), set(val)) for train, val in named_splits(splits, names)]
            asked += [f"--splits {splits}"] if now != begun else []
        if group_by not in (None, record.group_by):
            asked.append(f"--group-by {group_by}")
        if ignore not in (None, record.ignore):
            asked.append(f"--ignore {ignore}")
        if asked:
            raise ConfigError(
                f"The run in {self.folder} was not begun with {' and '.join(asked)}. Leave that "
                "out to go on with it, or start a new run in another folder."
            )


class DataOptions(TypedDict, total=False):
    """What `begin` takes about the data."""

    store: Path | None
    layout: str | None
    splits: Path | Splits | None
    group_by: str | None
    ignore: int | None


def start(
    folder: Path,
    dataset: Path,
    recipe: Recipe,
    world: ProcessGroup = ALONE,
    *,
    device: str | None = None,
    workers: int = 0,
    progress: Progress | None = None,
    **data: Unpack[DataOptions],
) -> Trainer:
    """Begin a run and return its trainer.

    Args:
        folder: for the run; new or empty.
        dataset: a data set, or a prepared store.
        recipe: as asked for.
        world: the processes that train it together.
        device: "cpu", "cuda", ...; the best one if not given.
        workers: processes that prepare batches, for each process of `world`.
        progress: told about the preparation of data.
        data: as for `begin`.

    Raises:
        ConfigError, DataError, GeometryError, WeightsError: for whatever cannot be used; nothing
            is left behind.
    """
    run = begin(folder, dataset, recipe, world, device=device, **data)
    with locked(folder, world):
        try:
            return _trainer(run, world, device, workers, progress)
        except TransUNetError:
            kept = [folder / "checkpoint.pt", folder / "teacher" / RECORD]
            if world.first and not any(path.is_file() for path in kept):
                shutil.rmtree(folder, ignore_errors=True)
            raise


def resume(
    folder: Path,
    world: ProcessGroup = ALONE,
    *,
    device: str | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Trainer:
    """Return the trainer of a run that was begun, from its checkpoint on if it has one.

    Arguments as for `start`; processes, device and workers may be others than before.

    Raises:
        RunInUseError: when another process trains it.
        ConfigError: when no run was begun there.
        DataError: when its checkpoint or its data is damaged.
    """
    run = Run.reopen(folder)
    with locked(folder, world):
        return _trainer(run, world, device, workers, progress)


def prepare_folds(
    run: Run, world: ProcessGroup = ALONE, workers: int = 0, progress: Progress | None = None
) -> None:
    """Prepare the data of a cross-validation and note the recipe of its folds.

    Args:
        run: begun with `folds` and without `fold`; others may train folds of it already.
        world: the processes that train the folds.
        workers: processes that prepare data.
        progress: told about that.

    Raises:
        ConfigError, DataError, GeometryError: for data that cannot be used.
    """
    with locked(run.folder, world, seconds=-1):  # others that train a fold need what is made here
        if world.first:
            prepare_store(run, workers, progress)
            recipe = with_weights_chosen(run.record.recipe)
            write_text(recipe.model_dump_json(indent=2), run.folder / "recipe.json")
    world.wait()


def start_fold(
    parent: Run,
    number: int,
    world: ProcessGroup = ALONE,
    *,
    go_on: bool = False,
    device: str | None = None,
    workers: int = 0,
) -> Trainer:
    """Begin a fold of a cross-validation, or with `go_on` resume it where it was begun.

    Arguments as for `start`.

    Raises:
        ConfigError: when the fold was begun already and `go_on` is False.
    """
    folder = parent.fold(number)
    if go_on and (folder / "run.json").is_file():
        return resume(folder, world, device=device, workers=workers)
    recipe, store = parent.record.recipe.replace(fold=number), parent.store
    splits = parent.record.splits
    return start(folder, store, recipe, world, splits=splits, device=device, workers=workers)


def begin(
    folder: Path,
    dataset: Path,
    recipe: Recipe,
    world: ProcessGroup = ALONE,
    *,
    device: str | None = None,
    join: bool = False,
    store: Path | None = None,
    layout: str | None = None,
    splits: Path | Splits | None = None,
    group_by: str | None = None,
    ignore: int | None = None,
) -> Run:
    """Begin a run, or a cross-validation, and return it; what cannot work is refused before.

    Processes that torchrun has started again go on with the run that they had begun.

    Args:
        folder: for the run; new or empty.
        dataset: a data set, or a prepared store.
        recipe: as asked for; of a cross-validation with `folds` and without `fold`.
        world: the processes that train it together, all of which come here.
        device: refused when it is not here.
        join: whether the same run may have been begun already, by another machine.
        store: where to prepare the data set; a folder in the run's if not given.
        layout: the data set's; recognised if not given.
        splits: which cases train and validate, or a file that says so (`split_rules.named_splits`);
            if not given, see `choose_splits`.
        group_by: a regular expression; cases in whose names it finds the same stay together.
        ignore: the value in label maps of what nobody labelled; a data set's own label "ignore", or
            a store's, need not be given.

    Raises:
        ConfigError, DataError, WeightsError: for what cannot work; nothing is written then.
    """
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")  # of torchrun, also after it has restarted us
    launch = f"{run_id}/{platform.node()}/{os.getppid()}" if run_id else ""
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    begun = (folder / "run.json").is_file() and (
        join or (restarted and Run.reopen(folder).record.launch == launch)
    )
    if world.first and not begun:
        if (folder / "run.json").is_file():
            raise ConfigError(
                f"{folder} holds a run already. Go on with it: transunet train --resume {folder}; "
                "or choose another folder."
            )
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise ConfigError(f"{folder} is not an empty folder. Choose another one for the run.")
        choose_device(device)
        check_trackers(recipe.loggers)
        planned(recipe).network()
        data = _opened(dataset, layout, ignore)
        if not isinstance(splits, Splits):
            splits = choose_splits(recipe, data, splits, group_by)
        check_weights(recipe)
        if recipe.distillation:
            check_teacher(recipe.distillation, data, splits.parts[recipe.fold or 0].validation)
        preprocessing = None
        if isinstance(data, Store):
            store = dataset  # used as it is
            if recipe.axes == 2 and data.preprocessing.of_volumes:
                raise ConfigError(
                    f"The store {dataset} was prepared for 3D networks: its planes are resampled, "
                    f"and {recipe.model} takes a volume's own. Prepare the data set for it "
                    f"(transunet prepare {data.manifest.folder} -o STORE), or choose a --model "
                    "with 3D in its name."
                )
        else:
            preprocessing = preprocessing_from_weights(recipe, data)
        writable_folder(folder)
        record = RunRecord(
            transunet=own_version(),
            dataset=_recorded(dataset, folder),
            store=_recorded(store or folder / "store", folder),
            recipe=_with_absolute_paths(recipe),
            layout=layout,
            ignore=ignore,
            preprocessing=preprocessing,
            splits=splits,
            group_by=group_by,
            launch=launch,
        )
        write_text(record.model_dump_json(indent=2), folder / "run.json")
    world.wait()
    run = Run.reopen(folder)
    run.check_same_recipe(recipe)
    return run


def _opened(dataset: Path, layout: str | None, ignore: int | None) -> DataSet | Store:
    if not is_store(dataset):
        return open_dataset(dataset, layout, ignore)
    store = Store.open(dataset)
    if ignore not in (None, store.manifest.ignore):
        ignored = store.manifest.ignore
        leaves_out = "nothing" if ignored is None else str(ignored)
        raise ConfigError(
            f"The store {dataset} was prepared with {leaves_out} left out, not {ignore}. Prepare "
            f"the data set anew: transunet prepare {store.manifest.folder} -o STORE "
            f"--ignore {ignore}"
        )
    return store


def choose_splits(
    recipe: Recipe, data: DataSet | Store, file: Path | None = None, group_by: str | None = None
) -> Splits:
    """Return which cases of a data set, or of a prepared store, train and validate.

    First comes a user's file; then what the recipe asks for (folds, a share that is held out); then
    what a store was prepared with, or what the data set brings; then a fifth, drawn.

    Raises:
        ConfigError, DataError: when that cannot be.
    """
    if file and recipe.holdout is not None:
        raise ConfigError(f"--splits {file} and holdout={recipe.holdout:g} are two ways to split.")
    if isinstance(data, Store):
        if file:
            return splits_in(file, grouped_cases(data, group_by), recipe.folds, group_by)
        return stored_splits(
            data, recipe.seed, fraction=recipe.holdout, folds=recipe.folds, group_by=group_by
        )
    data = data.grouped(group_by) if group_by else data
    cases = labelled(data)
    if file:
        return splits_in(file, cases, recipe.folds, group_by)
    if recipe.holdout is not None:
        return splits_of(data, cases, recipe.seed, how="holdout", fraction=recipe.holdout)
    return splits_of(data, cases, recipe.seed, folds=recipe.folds)


def check_teacher(settings: Distillation, data: DataSet | Store, held_out: Collection[str]) -> None:
    """Refuse a teacher that cannot teach what is in `data`; warn of one that saw what is held out.

    Raises:
        ConfigError, DataError: as of `teacher.teacher_of`, or without the images that it names.
    """
    teacher_of(settings, taught := Taught.of(data))
    if settings.images:
        find_inputs([Path(settings.images)], taught.channels)  # or there are none
    for bundle in map(Path, settings.teachers):
        try:
            record = Run.reopen(bundle.resolve().parent).record
        except TransUNetError:
            continue  # no run, or another version's: nothing is known
        seen = {*record.split.train} & {*held_out}
        if seen:
            _log.warning(
                f"The teacher {bundle} was trained on {len(seen)} of the {len(held_out)} held-out "
                f"cases ({some(sorted(seen))}), by their names: what is measured on them flatters "
                "teacher and student. Train the student with the teacher's split (--splits)."
            )


def number_of_folds(dataset: Path, layout: str | None, file: Path | None) -> int | None:
    """Return how many folds a file, a prepared store or a data set brings; None where it has none.

    Raises:
        ConfigError, DataError: when the file or the data set cannot be used.
    """
    if file:
        return len(named_splits(file))
    data = _opened(dataset, layout, None)
    if isinstance(data, Store):
        number = len(data.splits)
    else:
        folds = own_folds(data, labelled(data))
        number = len(folds.parts) if folds else 1
    return number if number > 1 else None


def _trainer(
    run: Run, world: ProcessGroup, device: str | None, workers: int, progress: Progress | None
) -> Trainer:
    """Prepare what is not there yet and return the trainer; the run is locked."""
    if world.first:
        for leftover in run.folder.rglob(".partial-*"):  # of writes that were interrupted
            shutil.rmtree(leftover, ignore_errors=True)
        prepare_store(run, workers, progress)
    world.wait()
    store, splits, distillation = Store.open(run.store), run.record.splits, None
    if run.record.recipe.distillation:
        store, splits, distillation = _taught(run, store, world, device, progress)
    chosen_device = choose_device(device)
    if world.size > 1 and chosen_device.type == "cuda":
        chosen_device = choose_device(f"cuda:{world.local_rank}")
    recipe = run.recipe()
    if recipe is None:
        recipe = world.gather(with_weights_chosen(run.record.recipe))[0]
        recipe = recipe.replace(distillation=distillation)
        recipe = fit_to_memory(recipe, store, chosen_device, world)
    trainer = Trainer(run.folder, recipe, store, splits, chosen_device, workers, world)
    trainer.check_batches()
    if world.first:
        write_text(recipe.model_dump_json(indent=2), run.folder / "recipe.json")
    trainer.restore()
    return trainer


def _taught(
    run: Run, store: Store, world: ProcessGroup, device: str | None, progress: Progress | None
) -> tuple[Store, Splits, Distillation]:
    """Return a run's store with its teacher, the splits with unlabelled images, and who taught."""
    record, folder = run.record, run.folder / "teacher"
    settings, fold = record.recipe.distillation, record.recipe.fold or 0
    assert settings is not None
    if world.first and not taught_by(folder):
        data = run.original_data()
        teaching = Teaching.of(settings, store, data, record.splits, fold, device)
        teaching.teach(folder, progress)
    world.wait()
    taught = TaughtStore.of(store, folder)
    added = tuple(taught.unlabelled.cases) if taught.unlabelled else ()
    parts = [
        replace(part, train=(*part.train, *added)) if number == fold else part
        for number, part in enumerate(record.splits.parts)
    ]
    settings = settings.replace(fingerprint=taught_by(folder) or "")
    return taught, replace(record.splits, parts=tuple(parts)), settings


def prepare_store(run: Run, workers: int = 0, progress: Progress | None = None) -> None:
    """Prepare a run's data where it is not there yet.

    Raises:
        ConfigError, DataError, GeometryError: for data that cannot be used.
    """
    store, source, record = run.store, run.dataset, run.record
    trained = (run.folder / "recipe.json").is_file()
    if trained and (store / MANIFEST).is_file():
        return  # what a run is training on stays as it is
    if not source.exists():
        raise ConfigError(
            f"The data of the run in {run.folder} are no longer in {source}. Say where they are: "
            f"transunet train DATASET --resume {run.folder}"
        )
    if store == source:
        return
    dataset = open_dataset(source, record.layout, record.ignore)
    prepare(
        dataset.grouped(record.group_by) if record.group_by else dataset,
        store,
        preprocessing=record.preprocessing,
        dimensions=record.recipe.axes,
        workers=max(workers, 1),
        seed=record.recipe.seed,
        splits=record.splits,
        progress=progress,
    )


@dataclass(frozen=True)
class CrossValidation:
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


def summarise_folds(parent: Run) -> CrossValidation | None:
    """Write RUN/folds.json and return it, or None while a fold is missing or unfinished."""
    if not all(read_log(folder, "end") for folder in parent.folds):
        return None
    best = [
        [entry for entry in read_log(folder, "validation") if entry["best"]][-1]
        for folder in parent.folds
    ]
    measured = [dice for entry in best for dice in entry["cases"].values()]
    values = {
        name: [dice[name] for dice in measured if dice[name] is not None] for name in measured[0]
    }
    mean = {name: float(np.mean(known)) for name, known in values.items() if known}
    summary = CrossValidation(
        folds=[entry["mean_dice"] for entry in best],
        mean=mean,
        deviation={name: float(np.std(values[name])) for name in mean},
        mean_dice=float(np.mean(list(mean.values()))) if mean else float("nan"),
        cases={case: dice for entry in best for case, dice in entry["cases"].items()},
        held_out=len(measured),
    )
    write_text(dumps(asdict(summary), indent=1), parent.folder / "folds.json")
    return summary


def is_store_of_volumes(folder: Path) -> bool:
    """Whether `folder` is a store that was prepared for networks of three axes."""
    return is_store(folder) and Store.open(folder).preprocessing.of_volumes


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested `values` as one level, keys joined by dots."""
    flattened: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict)
        flattened |= flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flattened


def _recorded(path: Path, folder: Path) -> str:
    """Return how a run in `folder` notes `path`: relative where both can only move together.

    That is, where `path` lies in the run's folder, or in that of its cross-validation.
    """
    whole = folder.parent if (folder.parent / "run.json").is_file() else folder
    if path.resolve().is_relative_to(whole.resolve()):
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    return str(path.resolve())


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    """Return `recipe` with paths, of its weights and its teachers, that hold in every folder."""
    if recipe.weights not in {"auto", "none", *SOURCES}:
        recipe = recipe.replace(weights=_absolute(recipe.weights))
    if recipe.distillation:
        own = recipe.distillation
        teachers = [
            _absolute(name) if Path(name).expanduser().exists() else name for name in own.teachers
        ]
        images = own.images and _absolute(own.images)
        recipe = recipe.replace(distillation=own.replace(teachers=teachers, images=images))
    return recipe


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())

"""`transunet train`: from a data set to a bundle."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from transunet.cli.notes import showing_notes
from transunet.cli.options import Device, GroupBy, Ignore, Layout, SplitsFile

if TYPE_CHECKING:
    from transunet.training.distributed import Processes
    from transunet.training.recipe import Recipe
    from transunet.training.runs import Run
    from transunet.training.trainer import Job

EXAMPLE = "Example: transunet train Task04_Hippocampus -o runs/hippocampus --epochs 50"


def train(
    dataset: Annotated[
        Path | None, typer.Argument(help="A data set's folder, or a prepared store.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="New folder for the run.", metavar="RUN")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder.", metavar="RUN")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="paper (the default), modern, or a TOML or JSON file.", rich_help_panel="Recipe"
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any value of the recipe, such as ema=0.999; repeat for more.",
            rich_help_panel="Recipe",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="R50-ViT-B_16, R26-ViT-Ti_16, ...", rich_help_panel="Recipe")
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(help="Side in pixels; or auto.", rich_help_panel="Recipe")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="imagenet21k, none, or a weight file, bundle or run to fine-tune.",
            rich_help_panel="Recipe",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="How often all slices are seen.", rich_help_panel="Recipe"),
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(help="Steps, instead of epochs.", rich_help_panel="Recipe")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Wall-clock limit.", rich_help_panel="Recipe")
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(help="Slices per step, of all processes; or auto.", rich_help_panel="Recipe"),
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate.", rich_help_panel="Recipe")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Of everything that is drawn: weights, batches, split.", rich_help_panel="Recipe"
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            help="Cross-validate in so many folds: those that the data bring, else drawn.",
            rich_help_panel="Recipe",
        ),
    ] = None,
    fold: Annotated[
        int | None,
        typer.Option(
            help="Train only this fold, from 0; without --folds of those that the data bring.",
            rich_help_panel="Recipe",
        ),
    ] = None,
    splits: SplitsFile = None,
    group_by: GroupBy = None,
    layout: Layout = None,
    ignore: Ignore = None,
    store: Annotated[
        Path | None, typer.Option(help="Where to prepare the data; RUN/store if not given.")
    ] = None,
    device: Device = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that prepare slices.")
    ] = None,
) -> None:
    """Train a network; RUN/best and RUN/last are bundles to predict with.

    Interrupt it whenever you like: --resume goes on where it was.
    """
    from transunet.device import choose_device
    from transunet.training.distributed import processes

    named = {
        "model": model,
        "image_size": _whole_number(image_size),
        "weights": weights,
        "epochs": epochs,
        "iterations": iterations,
        "minutes": minutes,
        "batch_size": _whole_number(batch_size),
        "lr": lr,
        "seed": seed,
        "folds": folds,
        "fold": fold,
    }
    overrides = _overrides(named, settings or [])
    if _goes_on(dataset, out, resume):
        order = _order_to_go_on(dataset, resume, recipe, overrides, splits, group_by, ignore)
    else:
        order = _order_to_start(
            dataset, out or resume, recipe, overrides, store, layout, splits, group_by, ignore
        )
    with processes(choose_device(device).type) as place, _how_to_go_on(order.folder):
        _train(order, place, device, _default_workers(place) if workers is None else workers)


@dataclass(frozen=True)
class _Order:
    """What is to be trained."""

    folder: Path
    dataset: Path
    recipe: "Recipe"
    store: Path | None
    layout: str | None
    splits: Path | None
    group_by: str | None
    ignore: int | None
    run: "Run | None"
    """The run to go on with; None to start one."""

    @property
    def folds(self) -> list[int] | None:
        """Which folds of a cross-validation, or None for a single run."""
        if self.recipe.folds is None or (self.run and self.run.record.recipe.fold is not None):
            return None
        return list(range(self.recipe.folds)) if self.recipe.fold is None else [self.recipe.fold]


def _goes_on(dataset: Path | None, out: Path | None, resume: Path | None) -> bool:
    """Return whether a run is gone on with.

    With a data set, --resume starts the run that is not there yet: one command for a job that a
    cluster may start again.
    """
    from transunet.errors import ConfigError

    if resume is None:
        return False
    if out is not None and out != resume:
        raise ConfigError(
            f"--resume {resume} and -o {out} name two folders. Give --resume to go on with a run, "
            "-o to start a new one."
        )
    return dataset is None or (resume / "run.json").is_file()


def _order_to_go_on(
    dataset: Path | None,
    folder: Path | None,
    recipe: str | None,
    overrides: dict[str, Any],
    splits: Path | None,
    group_by: str | None,
    ignore: int | None,
) -> _Order:
    from transunet.training.recipe import changed_recipe, load_recipe
    from transunet.training.runs import Run
    from transunet.training.start import refuse_other_data

    assert folder is not None
    run = Run.reopen(folder)
    if dataset is not None:
        run = run.with_data_at(dataset)
    record = run.record
    refuse_other_data(run, splits, group_by, ignore)
    if "fold" in overrides:
        overrides = {"folds": record.recipe.folds} | overrides
    if recipe is not None or (dataset is not None and overrides):  # the first command, once more
        # What was taken over from a bundle, which need not be there any more.
        asked = load_recipe(recipe or "paper", overrides, record.recipe.taken_over)
    else:
        asked = changed_recipe(record.recipe, overrides)
    data = run.dataset, asked, run.store, record.layout
    return _Order(folder, *data, splits=None, group_by=None, ignore=None, run=run)


def _order_to_start(
    dataset: Path | None,
    folder: Path | None,
    recipe: str | None,
    overrides: dict[str, Any],
    store: Path | None,
    layout: str | None,
    splits: Path | None,
    group_by: str | None,
    ignore: int | None,
) -> _Order:
    from transunet.errors import ConfigError
    from transunet.training.recipe import load_recipe
    from transunet.training.start import number_of_folds

    if dataset is None or folder is None:
        raise ConfigError(
            "Give a data set and a folder for the run: transunet train DATASET -o RUN; or a run to "
            "go on with: transunet train --resume RUN."
        )
    if overrides.get("fold") is not None and "folds" not in overrides:
        others = {key: value for key, value in overrides.items() if key != "fold"}
        if load_recipe(recipe or "paper", others).folds is None:  # the data say how many
            overrides = overrides | {"folds": number_of_folds(dataset, layout, splits)}
    asked = load_recipe(recipe or "paper", overrides)
    return _Order(folder, dataset, asked, store, layout, splits, group_by, ignore, run=None)


def _train(order: _Order, place: "Processes", device: str | None, workers: int) -> None:
    from transunet.cli.train_display import (
        show_folds,
        show_recipe,
        show_result,
        show_split,
        watch,
    )
    from transunet.training.interruption import Interrupted

    parent, jobs = _jobs(order, place, device, workers)
    try:
        for number, job in enumerate(jobs):
            if place.first and not number:
                show_recipe(job)
            if place.first:
                show_split(job)
            watch(job)
            if place.first:
                show_result(job)
    except Interrupted as stop:
        if place.first:
            typer.echo(
                f"Stopped in {stop.folder} after step {stop.step}; everything is saved. "
                f"Go on with: transunet train --resume {order.folder}"
            )
        raise typer.Exit(stop.exit_code) from None
    if place.first and parent is not None:
        show_folds(parent)


def _jobs(
    order: _Order, place: "Processes", device: str | None, workers: int
) -> "tuple[Run | None, Iterator[Job]]":
    """Return the cross-validation, if it is one, and the jobs to train, one after the other."""
    from transunet.training.folds import fold_job, open_folds
    from transunet.training.start import resume, start

    how: dict[str, Any] = {"device": device, "workers": workers}
    data: dict[str, Any] = {
        "store": order.store,
        "layout": order.layout,
        "splits": order.splits,
        "group_by": order.group_by,
        "ignore": order.ignore,
    }
    folder, dataset, recipe = order.folder, order.dataset, order.recipe
    going_on, folds = order.run is not None, order.folds
    with _preparation(place) as progress:
        if folds is None and going_on:
            return None, iter([resume(folder, recipe, place, progress=progress, **how)])
        if folds is None:
            job = start(folder, dataset, recipe, place, progress=progress, **data, **how)
            return None, iter([job])
        # Who trains one fold may find the folder begun by who trains another.
        data |= {"join": going_on or recipe.fold is not None, "workers": workers}
        parent = open_folds(folder, dataset, recipe, place, progress=progress, **data)
    return parent, (fold_job(parent, fold, place, go_on=going_on, **how) for fold in folds)


@contextmanager
def _how_to_go_on(folder: Path) -> Iterator[None]:
    """Tell it to who stops while data is prepared, or presses Ctrl-C twice."""
    try:
        yield
    except KeyboardInterrupt:
        if (folder / "run.json").is_file():
            typer.echo(f"Stopped. Go on with: transunet train --resume {folder}")
        raise typer.Exit(130) from None


@contextmanager
def _preparation(place: "Processes") -> Iterator[Callable[[int, int, str], None]]:
    """Show a bar while data is prepared, and none when nothing is."""
    from transunet.cli.progress import progress_bar

    with showing_notes(), progress_bar("cases") as bar:
        task = bar.add_task("Preparing", total=None, visible=False)

        def progress(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, visible=place.first)

        yield progress


def _overrides(given: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    from transunet.training.recipe import parse_settings

    named = {key: value for key, value in given.items() if value is not None}
    return named | parse_settings(settings)


def _whole_number(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def _default_workers(place: "Processes") -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", place.world))
    return max(0, min(8, (cores or 1) // here - 1))

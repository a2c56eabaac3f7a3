"""`transunet train`: from a data set to a bundle."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from transunet.training.distributed import Processes
    from transunet.training.job import Job
    from transunet.training.recipe import Recipe


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
        typer.Option("--set", help="key=value of the recipe.", rich_help_panel="Recipe"),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="R50-ViT-B_16, R26-ViT-Ti_16, ...", rich_help_panel="Recipe")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side in pixels.", rich_help_panel="Recipe")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="imagenet21k, none, a weight file or bundle.", rich_help_panel="Recipe"),
    ] = None,
    epochs: Annotated[int | None, typer.Option(rich_help_panel="Recipe")] = None,
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
    seed: Annotated[int | None, typer.Option(rich_help_panel="Recipe")] = None,
    layout: Annotated[
        str | None, typer.Option(help="The data set's layout, if not recognised.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Where to prepare the data; RUN/store if not given.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 or mps; the best one if not given.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that prepare slices.")
    ] = None,
) -> None:
    """Train a network; RUN/best and RUN/last are bundles to predict with.

    Interrupt it whenever you like: --resume goes on where it was.
    """
    from transunet.device import choose_device
    from transunet.training.distributed import processes

    given = {
        "model": model,
        "image_size": image_size,
        "weights": weights,
        "epochs": epochs,
        "iterations": iterations,
        "minutes": minutes,
        "batch_size": _whole_number(batch_size),
        "lr": lr,
        "seed": seed,
    }
    order = _Order(dataset, out, resume, recipe, _overrides(given, settings), store, layout)
    with processes(choose_device(device).type) as place:
        _train(order, place, device, _default_workers(place) if workers is None else workers)


@dataclass(frozen=True)
class _Order:
    """What was asked for on the command line."""

    dataset: Path | None
    out: Path | None
    resume: Path | None
    recipe: str | None
    overrides: dict[str, Any]
    store: Path | None
    layout: str | None


def _train(order: _Order, place: "Processes", device: str | None, workers: int) -> None:
    from transunet.cli.train_display import show_recipe, show_result, watch
    from transunet.training.interruption import Interrupted

    job = _job(order, place, device, workers)
    try:
        if place.first:
            show_recipe(job)
        watch(job)
    except Interrupted as stop:
        if place.first:
            typer.echo(str(stop))
        raise typer.Exit(stop.exit_code) from None
    if place.first:
        show_result(job)


def _job(order: _Order, place: "Processes", device: str | None, workers: int) -> "Job":
    from transunet.cli.progress import progress_bar
    from transunet.training.start import resume, start

    with progress_bar("cases") as bar:
        task = bar.add_task("Preparing", total=None, visible=False)

        def progress(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        folder = _folder_to_resume(order)
        if folder is not None:
            recipe = _recipe_to_compare(order, folder)
            return resume(folder, recipe, place, device=device, workers=workers, progress=progress)
        dataset, out = _what_and_where(order)
        return start(
            out,
            dataset,
            _recipe(order),
            place,
            store=order.store,
            layout=order.layout,
            device=device,
            workers=workers,
            progress=progress,
        )


def _recipe(order: _Order) -> "Recipe":
    from transunet.training.recipe import load_recipe

    return load_recipe(order.recipe or "paper", order.overrides)


def _recipe_to_compare(order: _Order, folder: Path) -> "Recipe | None":
    """Return what was asked for beside --resume, or None where nothing was."""
    from transunet.training.recipe import changed_recipe
    from transunet.training.run import Run

    if order.recipe is not None or order.dataset is not None:
        return _recipe(order)
    if order.overrides:
        return changed_recipe(Run.reopen(folder).record.recipe, order.overrides)
    return None


def _folder_to_resume(order: _Order) -> Path | None:
    """Return the run to go on with, or None where a new one is to be started.

    With a data set, --resume starts the run that is not there yet: one command for a job that a
    cluster may start again.
    """
    from transunet.errors import ConfigError

    if order.resume and order.out and order.resume != order.out:
        raise ConfigError(
            f"--resume {order.resume} and -o {order.out} name two folders. Give --resume to go on "
            "with a run, -o to start a new one."
        )
    started = order.resume and (order.resume / "run.json").is_file()
    return order.resume if started or order.dataset is None else None


def _what_and_where(order: _Order) -> tuple[Path, Path]:
    from transunet.errors import ConfigError

    out = order.out or order.resume
    if order.dataset is None or out is None:
        raise ConfigError(
            "Give a data set and a folder for the run: transunet train DATASET -o RUN; or a run to "
            "go on with: transunet train --resume RUN."
        )
    return order.dataset, out


def _overrides(given: dict[str, Any], settings: list[str] | None) -> dict[str, Any]:
    from transunet.training.recipe import parse_settings

    named = {key: value for key, value in given.items() if value is not None}
    return named | parse_settings(settings or [])


def _whole_number(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def _default_workers(place: "Processes") -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", place.world))
    return max(0, min(8, (cores or 1) // here - 1))

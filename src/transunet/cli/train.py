"""`transunet train`: from a data set to a bundle."""

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from transunet.cli.notes import showing_notes
from transunet.cli.options import Device, GroupBy, Ignore, Layout, MemoryGib, SplitsFile

if TYPE_CHECKING:
    from transunet.training.distributed import ProcessGroup
    from transunet.training.recipe import Recipe
    from transunet.training.runs import Run
    from transunet.training.trainer import Trainer

_recipe = partial(typer.Option, rich_help_panel="Recipe")
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
        _recipe(
            help="paper (the default) or modern; of 3D models paper3d or modern3d (the default); "
            "or a TOML or JSON file."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        _recipe(
            "--set",
            metavar="KEY=VALUE",
            help="Any value of the recipe, such as ema=0.999; repeat for more.",
        ),
    ] = None,
    model: Annotated[str | None, _recipe(help="R50-ViT-B_16, TransUNet3D-S, ...")] = None,
    image_size: Annotated[
        str | None,
        _recipe(help="Side in pixels; several, the first axis first: 48x192x192; or auto."),
    ] = None,
    weights: Annotated[
        str | None, _recipe(help="imagenet21k, none, or a weight file, bundle or run to fine-tune.")
    ] = None,
    epochs: Annotated[int | None, _recipe(help="How often all slices are seen.")] = None,
    iterations: Annotated[int | None, _recipe(help="Steps, instead of epochs.")] = None,
    minutes: Annotated[float | None, _recipe(help="Wall-clock limit.")] = None,
    batch_size: Annotated[
        str | None, _recipe(help="Slices or patches per step, of all processes; or auto.")
    ] = None,
    memory_gib: MemoryGib = None,
    lr: Annotated[float | None, _recipe(help="Learning rate.")] = None,
    seed: Annotated[
        int | None, _recipe(help="Of everything that is drawn: weights, batches, split.")
    ] = None,
    folds: Annotated[
        int | None,
        _recipe(help="Cross-validate in so many folds: those that the data bring, else drawn."),
    ] = None,
    fold: Annotated[
        int | None,
        _recipe(help="Train only this fold, from 0; without --folds of those that the data bring."),
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
    from transunet.cli.progress import count_cases
    from transunet.device import choose_device
    from transunet.errors import ConfigError
    from transunet.training import runs
    from transunet.training.distributed import process_group
    from transunet.training.loop import Interrupted
    from transunet.training.recipe import load_recipe, parse_settings

    named = {
        "model": model,
        "image_size": _sides(image_size),
        "weights": weights,
        "epochs": epochs,
        "iterations": iterations,
        "minutes": minutes,
        "batch_size": _whole_number(batch_size),
        "memory_gib": memory_gib,
        "lr": lr,
        "seed": seed,
        "folds": folds,
        "fold": fold,
    }
    overrides: dict[str, Any] = {k: value for k, value in named.items() if value is not None}
    overrides |= parse_settings(settings or [])
    if resume is not None and out not in (None, resume):
        raise ConfigError(
            f"--resume {resume} and -o {out} name two folders. Give --resume to go on with a run, "
            "-o to start a new one."
        )
    # With a data set, --resume starts the run that is not there yet: one command for a job that a
    # cluster may start again.
    folder, begun = out or resume, None
    if resume is not None and (dataset is None or (resume / "run.json").is_file()):
        folder, begun = resume, runs.Run.reopen(resume)
        if dataset is not None:
            begun = begun.with_data_at(dataset)
        begun.check_same_data(splits, group_by, ignore)
        asked = _asked_of_run(begun, dataset, recipe, overrides)
        dataset = begun.dataset
    elif dataset is None or folder is None:
        raise ConfigError(
            "Give a data set and a folder for the run: transunet train DATASET -o RUN; or a run to "
            "go on with: transunet train --resume RUN."
        )
    else:
        decided = recipe or overrides.keys() & {"model", "weights"}
        if not decided and runs.is_store_of_volumes(dataset):
            recipe = "modern3d"
        if overrides.get("fold") is not None and "folds" not in overrides:
            others = {key: value for key, value in overrides.items() if key != "fold"}
            if load_recipe(recipe, others).folds is None:  # the data say how many
                overrides["folds"] = runs.number_of_folds(dataset, layout, splits)
        asked = load_recipe(recipe, overrides)

    with process_group(choose_device(device).type) as world:
        if workers is None:
            known = hasattr(os, "sched_getaffinity")
            cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
            here = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
            workers = max(0, min(8, cores // here - 1))
        how: dict[str, Any] = {"device": device, "workers": workers}
        data: dict[str, Any] = {
            "store": store,
            "layout": layout,
            "splits": splits,
            "group_by": group_by,
            "ignore": ignore,
        }
        parent: Run | None = None
        trainers: Iterable[Trainer]
        try:
            with showing_notes(), count_cases("Preparing", at_once=False) as bar:
                progress = bar if world.first else None
                if begun and not begun.has_folds:
                    trainers = [runs.resume(folder, world, progress=progress, **how)]
                elif not begun and asked.folds is None:
                    data |= {"progress": progress}
                    trainers = [runs.start(folder, dataset, asked, world, **how, **data)]
                else:
                    # Who trains one fold may find the folder begun by who trains another.
                    data |= {"join": begun is not None or asked.fold is not None}
                    parent = runs.begin(folder, dataset, asked.replace(fold=None), world, **data)
                    runs.prepare_folds(parent, world, workers, progress)
                    numbers = range(asked.folds or 0) if asked.fold is None else [asked.fold]
                    trainers = (
                        runs.start_fold(parent, number, world, go_on=begun is not None, **how)
                        for number in numbers
                    )
            _train_all(trainers, parent, asked, world)
        except Interrupted as stop:
            if world.first:
                typer.echo(
                    f"Stopped in {stop.folder} after step {stop.step}; everything is saved. "
                    f"Go on with: transunet train --resume {folder}"
                )
            raise typer.Exit(stop.exit_code) from None
        except KeyboardInterrupt:  # while data is prepared, or Ctrl-C twice
            if (folder / "run.json").is_file():
                typer.echo(f"Stopped. Go on with: transunet train --resume {folder}")
            raise typer.Exit(130) from None


def _asked_of_run(
    run: "Run", dataset: Path | None, recipe: str | None, overrides: dict[str, Any]
) -> "Recipe":
    """Return the recipe that a command to go on with `run` asks for, which must be the run's."""
    from transunet.training.recipe import changed_recipe, load_recipe

    begun_with = run.record.recipe
    if "fold" in overrides:
        overrides = {"folds": begun_with.folds} | overrides
    if recipe is not None or (dataset is not None and overrides):  # the first command, once more
        # What was taken over from a bundle, which need not be there any more.
        asked = load_recipe(recipe, overrides, begun_with.taken_over)
    else:
        asked = changed_recipe(begun_with, overrides)
    # Of a cross-validation, one fold may be asked for.
    run.check_same_recipe(asked.replace(fold=None) if run.has_folds else asked)
    return asked


def _train_all(
    trainers: "Iterable[Trainer]", parent: "Run | None", asked: "Recipe", world: "ProcessGroup"
) -> None:
    """Train one run, or the folds of the cross-validation `parent` one after the other."""
    from transunet.cli import train_display

    for number, trainer in enumerate(trainers):
        if world.first and not number:
            train_display.show_recipe(trainer, asked)
        if world.first:
            train_display.show_split(trainer)
        train_display.watch(trainer)
        if world.first:
            train_display.show_result(trainer)
        if world.first and parent is None and asked.calibrate:
            train_display.teach_best(trainer)
    if world.first and parent is not None and train_display.show_folds(parent):
        train_display.report_folds(parent, str(trainer.device))
        if asked.calibrate:
            train_display.teach_folds(parent, str(trainer.device))


def _whole_number(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def _sides(text: str | None) -> int | str | list[int] | None:
    """Return one side, or those of `48x192x192`; anything else is left for the recipe to refuse."""
    parts = (text or "").replace(",", "x").split("x")
    if len(parts) > 1 and all(map(str.isdecimal, parts)):
        return [int(part) for part in parts]
    return _whole_number(text)

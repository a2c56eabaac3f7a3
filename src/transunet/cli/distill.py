"""`transunet distill`: a small network learns from large ones, or from what they predicted."""

import json
import os
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from transunet.cli.notes import say, showing_notes
from transunet.cli.options import Device, Engine, SplitsFile

if TYPE_CHECKING:
    from transunet.training.runs import Run

_teaching = partial(typer.Option, rich_help_panel="What the teacher says")
_student = partial(typer.Option, rich_help_panel="Recipe of the student")
EXAMPLE = (
    "Example: transunet distill runs/large/best --data STORE -o runs/small --images MORE_IMAGES"
)


def distill(
    teachers: Annotated[
        list[str] | None,
        typer.Argument(
            help="Bundles, whose mean teaches; or a folder of another tool's label maps or "
            "probabilities, called like the cases.",
            metavar="TEACHER...",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="A prepared store, or a data set, that the student learns; with --report "
            "labelled cases that nobody trained on.",
            metavar="STORE",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="New folder for the run.", metavar="RUN")
    ] = None,
    images: Annotated[
        Path | None, _teaching(help="Images that nobody labelled, to learn from the teacher alone.")
    ] = None,
    temperature: Annotated[
        float, _teaching(min=0.1, help="Above 1 it shows what else the teacher thinks of.")
    ] = 2.0,
    soft_weight: Annotated[
        float, _teaching(min=0, max=1, help="Share of the teacher in the loss; labels: the rest.")
    ] = 0.5,
    mirror: Annotated[
        bool, _teaching("--mirror", help="Let bundles look at mirror images too.")
    ] = False,
    recipe: Annotated[
        str | None, _student(help="modern or, of 3D models, modern3d if not given; as of train.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        _student("--set", metavar="KEY=VALUE", help="Any value of the recipe; repeat for more."),
    ] = None,
    model: Annotated[
        str | None, _student(help="R26-ViT-Ti_16 or, of a store of volumes, UNet3D-S if not given.")
    ] = None,
    epochs: Annotated[int | None, _student(help="How often all samples are seen.")] = None,
    iterations: Annotated[int | None, _student(help="Steps, instead of epochs.")] = None,
    minutes: Annotated[float | None, _student(help="Wall-clock limit.")] = None,
    seed: Annotated[int | None, _student(help="Of everything that is drawn.")] = None,
    splits: SplitsFile = None,
    device: Device = None,
    engine: Engine = "auto",
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that prepare samples.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Only measure again what a run's student kept.", metavar="RUN"),
    ] = None,
    attach: Annotated[
        Path | None,
        typer.Option(
            metavar="BUNDLE",
            help="Then copy the student into this bundle, where predict --fast takes it.",
        ),
    ] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Only train.")] = False,
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="BUNDLE", help="Measure this bundle too, such as the student's twin without."
        ),
    ] = None,
) -> None:
    """Train a small network by a teacher's probabilities, and tell what it kept.

    The run is one of `train`: interrupt it and go on with `transunet train --resume RUN`, then
    `transunet distill --report RUN`.
    """
    from transunet.bundle.bundle_config import read_config
    from transunet.bundle.fast import place_for_fast
    from transunet.cli.train import train
    from transunet.errors import ConfigError
    from transunet.training.runs import Run, is_store_of_volumes

    if report is not None:
        if teachers or out:
            raise ConfigError(
                "--report RUN measures a run that is there: leave TEACHER and -o out."
            )
        run = Run.reopen(report)
        if attach:
            _attach(run, attach)
        if not no_report:
            show_report(run, data, compare or [], device, engine)
        return
    if not teachers or data is None or out is None:
        raise ConfigError(
            "Give teachers, data and a folder for the run: transunet distill TEACHER... --data "
            "STORE -o RUN; or a run to measure: transunet distill --report RUN."
        )
    if attach:
        place_for_fast(attach)  # what is wrong with it is better known before the training
    for bundle in compare or []:
        read_config(bundle)  # likewise
    told = {
        "teachers": teachers,
        "mirror": mirror,
        "temperature": temperature,
        "soft_weight": soft_weight,
        **({"images": str(images)} if images else {}),
    }
    if recipe is None and model is None:
        volumes = is_store_of_volumes(data)
        model = "UNet3D-S" if volumes else "R26-ViT-Ti_16"
        recipe = "modern3d" if volumes else "modern"
    train(
        data,
        out,
        recipe=recipe,
        model=model,
        settings=[
            *(f"distillation.{key}={json.dumps(value)}" for key, value in told.items()),
            *(settings or []),
        ],
        epochs=epochs,
        iterations=iterations,
        minutes=minutes,
        seed=seed,
        splits=splits,
        device=device,
        workers=workers,
    )
    if int(os.environ.get("RANK", "0")):
        return  # of processes that train together, one tells
    run = Run.reopen(out)
    if run.has_folds:  # which can be attached and measured one by one
        fold = quote(str(run.fold(0)))
        say(f"Measure a fold, or --attach it, with: transunet distill --report {fold}", "dim")
        return
    if attach:
        _attach(run, attach)
    if not no_report:
        show_report(run, None, compare or [], device, engine)


def _attach(run: "Run", bundle: Path) -> None:
    from transunet.bundle.fast import attach

    say(f"Attached: {attach(run.folder / 'best', bundle)}")
    say(f"Take it with: transunet predict {quote(str(bundle))} INPUT... -o OUT --fast")


def show_report(
    run: "Run", data: Path | None, compare: list[Path], device: str | None, engine: str
) -> None:
    """Measure teacher and student, and print what the student kept."""
    from transunet.cli.progress import count_cases
    from transunet.distillation_report import CHOSEN, RECORD
    from transunet.distillation_report import report as measure

    with showing_notes(), count_cases("Measuring", at_once=False) as progress:
        networks = measure(run, data, compare, device, engine, progress)
    table = Table(title="What the student kept", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("network", overflow="fold")
    for title in (
        "Dice\n95 %",
        "kept, %\n95 %",
        "student\nminus it\np",
        "agrees",
        "s",
        "MiB",
        "MB",
    ):
        table.add_column(title, justify="right", no_wrap=True)
    for each in networks:
        low, high = each.dice_95
        kept = [each.kept, *(each.kept_95 or (None, None))]
        percent = [None if share is None else 100 * share for share in kept]
        table.add_row(
            each.name,
            f"{each.dice:.3f}\n{low:.3f}-{high:.3f}",
            _told("{:.1f}\n{:.1f}-{:.1f}", *percent),
            _told("{:+.3f}\n{:.2g}", each.gain, each.p_value),
            _told("{:.3f}", each.agreement),
            _told("{:.3f}", each.seconds),
            _told("{:.0f}", each.memory_mib),
            _told("{:.1f}", each.megabytes),
        )
    say(table)
    if data is None:
        say(CHOSEN, "dim")
    say(f"Written: {run.folder / RECORD}")


def _told(form: str, *figures: float | None) -> str:
    return "-" if None in figures else form.format(*figures)

"""`transunet prepare`: from a data set to slices that training maps into memory."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from transunet.cli.notes import showing_notes
from transunet.cli.options import WHO_TRAINS, GroupBy, Ignore, Layout, SplitsFile

if TYPE_CHECKING:
    from rich.console import Console

    from transunet.data.cases import DataSet
    from transunet.data.split_rules import How
    from transunet.data.splits import Splits
    from transunet.data.store import Store

EXAMPLE = "Example: transunet prepare Task04_Hippocampus -o stores/hippocampus --folds 5"

Normalisation = Literal["clip", "zscore", "range"]
_HOW = "How slices are made"


def prepare(
    dataset: Annotated[Path, typer.Argument(help="The data set's folder.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder for the store, or one to update.", metavar="STORE"
        ),
    ],
    layout: Layout = None,
    ignore: Ignore = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes; each holds one case in memory.")
    ] = 1,
    modality: Annotated[
        str | None,
        typer.Option(
            help="What the channels are: CT, MRI, ...; with commas for several.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    normalisation: Annotated[
        Normalisation | None,
        typer.Option(help="Of every channel; by modality if not given.", rich_help_panel=_HOW),
    ] = None,
    window: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Lowest and highest intensity, for clip.", rich_help_panel=_HOW),
    ] = None,
    spacing: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="Resample slices to these mm from row to row and column to column.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    slice_axis: Annotated[
        int | None,
        typer.Option(
            min=0, max=2, help="In the orientation: 2 is axial in RAS.", rich_help_panel=_HOW
        ),
    ] = None,
    orientation: Annotated[
        str, typer.Option(help="What axes are turned to.", rich_help_panel=_HOW)
    ] = "RAS",
    split: Annotated[
        Literal["auto", "own", "holdout", "kfold"],
        typer.Option(
            help="auto: the data set's own split, else hold-out.", rich_help_panel=WHO_TRAINS
        ),
    ] = "auto",
    fraction: Annotated[
        float | None,
        typer.Option(
            help="Of the groups, held out: 0.2 if not given, 0 trains on everything.",
            rich_help_panel=WHO_TRAINS,
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            help="Cross-validation folds: the data set's own (splits_final.json) if it has as "
            "many, else drawn.",
            rich_help_panel=WHO_TRAINS,
        ),
    ] = None,
    splits: SplitsFile = None,
    group_by: GroupBy = None,
    seed: Annotated[int, typer.Option(help="Of the split.", rich_help_panel=WHO_TRAINS)] = 1234,
) -> None:
    """Prepare a data set for training; a second run does nothing, a changed file redoes its case.

    Everything that is derived from the data is shown, with the option that overrides it.
    """
    from rich.console import Console

    from transunet.cli.progress import count_cases
    from transunet.data.layouts import open_dataset
    from transunet.data.planning import grids_of, preprocessing_for
    from transunet.data.prepare import labelled
    from transunet.data.prepare import prepare as prepare_dataset

    data = open_dataset(dataset, layout, ignore)
    if modality:
        data = data.with_channels(tuple(name.strip() for name in modality.split(",")))
    if group_by:
        data = data.grouped(group_by)
    chosen = _splits(data, split, fraction, folds, splits, seed)
    preprocessing = preprocessing_for(
        data,
        grids_of(labelled(data)),
        normalisation=normalisation,
        window=window,
        orientation=orientation,
        slice_axis=slice_axis,
    ).replace(spacing_mm=spacing and (None, *spacing))
    with showing_notes(), count_cases("Preparing") as progress:
        store = prepare_dataset(
            data,
            out,
            preprocessing=preprocessing,
            workers=workers,
            seed=seed,
            splits=chosen,
            progress=progress,
        )
    console = Console(soft_wrap=True, highlight=False)
    _show_settings(console, store)
    _show_cases(console, store, data)
    console.print(f"Next: transunet train {quote(str(store.path))} -o RUN", markup=False)


def _splits(
    data: "DataSet",
    how: "How",
    fraction: float | None,
    folds: int | None,
    file: Path | None,
    seed: int,
) -> "Splits":
    """Return who trains and who validates; refuse options that contradict each other."""
    from transunet.data.prepare import labelled
    from transunet.data.split_rules import splits_in, splits_of
    from transunet.data.splits import FRACTION
    from transunet.errors import ConfigError

    asked = {
        "--splits": file is not None,
        "--folds": folds is not None or how == "kfold",
        "--fraction": fraction is not None or how == "holdout",
        "--split own": how == "own",
    }
    several = [option for option, given in asked.items() if given]
    if several[1:] and (several != ["--splits", "--folds"] or how != "auto"):
        raise ConfigError(f"{' and '.join(several)} split the cases in several ways. Give one.")
    if file is not None:
        return splits_in(file, labelled(data), folds, data.group_by)
    if fraction is not None and how == "auto":
        how = "holdout"
    share = FRACTION if fraction is None else fraction
    return splits_of(data, labelled(data), seed, how=how, fraction=share, folds=folds)


def _show_settings(console: "Console", store: "Store") -> None:
    from transunet.cli.hanging import hanging
    from transunet.data.planning import decisions
    from transunet.training.recipe import load_recipe

    recipe = load_recipe()
    for decision in decisions(
        store.preprocessing,
        store.fingerprint,
        recipe=recipe.name,
        image_size=recipe.size[0],
        batch_size=recipe.batch,
    ):
        value = hanging(console, decision.value, 15)
        console.print(f"{decision.name:<15}[bold]{value}[/bold]")
        why = hanging(console, f"{decision.reason}; change with {decision.option}", 15)
        console.print(f"{'':<15}{why}", style="dim", markup=False)


def _show_cases(console: "Console", store: "Store", data: "DataSet") -> None:
    from rich.table import Table

    from transunet.data.split_rules import split_warnings

    frequencies = store.fingerprint.frequencies
    table = Table("class", "name", "share of voxels", "cases", box=None)
    for index, name in store.labels.items():
        cases = f"{store.fingerprint.cases_with[index]} of {store.fingerprint.cases}"
        table.add_row(str(index), name, f"{frequencies[index]:.3%}", cases)
    console.print(table)
    if data.ignore is not None:
        console.print(f"Voxels that hold {data.ignore} count in nothing: nobody labelled them.")
    if data.label_map:
        console.print(f"Labels mapped by {data.label_map}.")
    console.print(
        f"{len(store.cases)} cases, {store.fingerprint.slices} slices ({store.prepared.text()}) in "
        f"{store.path}",
        markup=False,
    )
    for fold, part in enumerate(store.splits):
        where = f"fold {fold}: " if store.splits[1:] else ""
        for warning in split_warnings(store, part):
            console.print(f"Warning: {where}{warning}", style="yellow", markup=False)

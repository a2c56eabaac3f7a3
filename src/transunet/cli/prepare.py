"""`transunet prepare`: from a data set to slices that training maps into memory."""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from transunet.cli.notes import showing_notes
from transunet.cli.options import Ignore

if TYPE_CHECKING:
    from rich.console import Console

    from transunet.data.cases import DataSet
    from transunet.data.preprocessing import Channel, Preprocessing
    from transunet.data.splits import How, Splits
    from transunet.data.store import Store

EXAMPLE = "Example: transunet prepare Task04_Hippocampus -o stores/hippocampus --folds 5"

_OPTIONS = {
    "normalisation": "--modality, --normalisation, --window",
    "slices along": "--slice-axis, --orientation",
    "in-plane mm": "--spacing",
    "image size": "train --image-size",
    "batch size": "train --batch-size",
}
"""What is derived, and the option that overrides it."""

_HOW = "How slices are made"
_SPLIT = "Who trains and who validates"


@dataclass(frozen=True)
class _Wishes:
    """What was asked for of the preprocessing; None where it is to be derived."""

    normalisation: Literal["clip", "zscore", "range"] | None
    window: tuple[float, float] | None
    spacing: tuple[float, float] | None
    slice_axis: int | None
    orientation: str


def prepare(
    dataset: Annotated[Path, typer.Argument(help="The data set's folder.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder for the store, or one to update.", metavar="STORE"
        ),
    ],
    layout: Annotated[
        str | None, typer.Option(help="The data set's layout, if not recognised.")
    ] = None,
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
        Literal["clip", "zscore", "range"] | None,
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
        typer.Option(help="auto: the data set's own split, else hold-out.", rich_help_panel=_SPLIT),
    ] = "auto",
    fraction: Annotated[
        float | None,
        typer.Option(
            help="Of the groups, held out: 0.2 if not given, 0 trains on everything.",
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            help="Cross-validation folds: the data set's own (splits_final.json) if it has as "
            "many, else drawn.",
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option(
            help='Your own: JSON as nnU-Net has it, [{"train": [names], "val": [names]}, ...], '
            "one for a plain split.",
            metavar="FILE",
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            help="Regular expression; cases in whose names it finds the same stay together, such "
            "as 'patient[0-9]+'.",
            metavar="REGEX",
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split.", rich_help_panel=_SPLIT)] = 1234,
) -> None:
    """Prepare a data set for training; a second run does nothing, a changed file redoes its case.

    Everything that is derived from the data is shown, with the option that overrides it.
    """
    from rich.console import Console

    from transunet.cli.progress import progress_bar
    from transunet.data.layouts import open_dataset
    from transunet.data.prepare import prepare as prepare_dataset

    data = open_dataset(dataset, layout, ignore)
    if modality:
        data = data.with_channels(tuple(name.strip() for name in modality.split(",")))
    if group_by:
        data = data.grouped(group_by)
    chosen = _splits(data, split, fraction, folds, splits, seed)
    wishes = _Wishes(normalisation, window, spacing, slice_axis, orientation)
    with showing_notes(), progress_bar("cases") as bar:
        task = bar.add_task("Preparing", total=None)

        def progress(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total)

        store = prepare_dataset(
            data,
            out,
            preprocessing=_preprocessing(data, wishes),
            workers=workers,
            seed=seed,
            splits=chosen,
            progress=progress,
        )
    _show(Console(), store, data)


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
    from transunet.data.split_rules import FRACTION, splits_in, splits_of
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


def _preprocessing(data: "DataSet", wishes: _Wishes) -> "Preprocessing":
    from transunet.data.prepare import grids_of, labelled
    from transunet.data.preprocessing import preprocessing_for

    derived = preprocessing_for(data, grids_of(labelled(data)))
    channels = tuple(_channel(channel, wishes) for channel in derived.channels)
    axis = derived.slice_axis if wishes.slice_axis is None else wishes.slice_axis
    return derived.replace(
        channels=channels,
        slice_axis=axis,
        orientation=wishes.orientation,
        spacing_mm=wishes.spacing,
    )


def _channel(derived: "Channel", wishes: _Wishes) -> "Channel":
    from transunet.data.preprocessing import Channel
    from transunet.errors import ConfigError

    kind = wishes.normalisation or ("clip" if wishes.window else derived.normalisation)
    if kind == derived.normalisation and not wishes.window:
        return derived
    if kind != "zscore" and not wishes.window:
        raise ConfigError(f"--normalisation {kind} needs --window LOW HIGH, such as -125 275.")
    low, high = wishes.window or (0.0, 1.0)
    return Channel(name=derived.name, normalisation=kind, low=low, high=high)


def _show(console: "Console", store: "Store", data: "DataSet") -> None:
    from transunet.data.checks.coverage import split_warnings

    _show_settings(console, store)
    _show_classes(console, store, data)
    console.print(
        f"{len(store.cases)} cases, {store.fingerprint.slices} slices ({store.prepared.text()}) in "
        f"{store.path}",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    for fold, part in enumerate(store.splits):
        where = f"fold {fold}: " if store.splits[1:] else ""
        for warning in split_warnings(store, part):
            console.print(f"Warning: {where}{warning}", style="yellow", markup=False)
    console.print(
        f"Next: transunet train {quote(str(store.path))} -o RUN",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )


def _show_settings(console: "Console", store: "Store") -> None:
    from transunet.cli.hanging import hanging
    from transunet.data.planning import derive_defaults
    from transunet.device import choose_device, free_memory

    used = store.preprocessing
    values = derive_defaults(store.fingerprint, free_memory(choose_device()), used)
    spacing = " x ".join(f"{edge:g}" for edge in used.spacing_mm) if used.spacing_mm else "as it is"
    axis = f"axis {used.slice_axis} of {used.orientation}"
    why_spacing = "slices keep their own unless told otherwise"
    rows = [
        ("normalisation", ", ".join(values.normalisation.value), values.normalisation.reason),
        ("slices along", axis, values.slice_axis.reason),
        ("in-plane mm", spacing, why_spacing),
        ("image size", str(values.image_size.value[0]), values.image_size.reason),
        ("batch size", str(values.batch_size.value), values.batch_size.reason),
    ]
    for name, value, reason in rows:
        value = hanging(console, value, 15)
        console.print(f"{name:<15}[bold]{value}[/bold]", highlight=False, soft_wrap=True)
        why = hanging(console, f"{reason}; change with {_OPTIONS[name]}", 15)
        console.print(f"{'':<15}{why}", style="dim", markup=False, highlight=False, soft_wrap=True)


def _show_classes(console: "Console", store: "Store", data: "DataSet") -> None:
    from rich.table import Table

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

"""`transunet prepare`: from a data set to slices that training maps into memory."""

from functools import partial
from pathlib import Path
from shlex import quote
from typing import Annotated, Literal

import typer
from rich.console import Console

from transunet.cli.notes import hanging, say, showing_notes
from transunet.cli.options import GroupBy, Ignore, Layout, MemoryGib, SplitsFile, who_trains

EXAMPLE = "Example: transunet prepare Task04_Hippocampus -o stores/hippocampus --folds 5"

Normalisation = Literal["clip", "zscore", "range", "foreground", "nonzero"]
_slices = partial(typer.Option, rich_help_panel="How slices are made")


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
    dimensions: Annotated[
        int,
        typer.Option(
            min=2,
            max=3,
            help="Of the network to train: 3 brings all volumes to one spacing, for the models "
            "with 3D in their names.",
        ),
    ] = 2,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes; each holds one case in memory.")
    ] = 1,
    modality: Annotated[
        str | None, _slices(help="What the channels are: CT, MRI, ...; with commas for several.")
    ] = None,
    normalisation: Annotated[
        Normalisation | None,
        _slices(help="Of every channel; by modality if not given. foreground is for 3 dimensions."),
    ] = None,
    window: Annotated[
        tuple[float, float] | None, _slices(help="Lowest and highest intensity, for clip.")
    ] = None,
    spacing: Annotated[
        tuple[float, float] | None,
        _slices(help="Resample slices to these mm from row to row and column to column."),
    ] = None,
    plane_spacing: Annotated[
        float | None, _slices(help="Of 3 dimensions: mm from plane to plane.")
    ] = None,
    slice_axis: Annotated[
        int | None, _slices(min=0, max=2, help="In the orientation: 2 is axial in RAS.")
    ] = None,
    orientation: Annotated[str, _slices(help="What axes are turned to.")] = "RAS",
    split: Annotated[
        Literal["auto", "own", "holdout", "kfold"],
        who_trains(help="auto: the data set's own split, else hold-out."),
    ] = "auto",
    fraction: Annotated[
        float | None,
        who_trains(help="Of the groups, held out: 0.2 if not given, 0 trains on everything."),
    ] = None,
    folds: Annotated[
        int | None,
        who_trains(
            help="Cross-validation folds: the data set's own (splits_final.json) if it has as "
            "many, else drawn."
        ),
    ] = None,
    splits: SplitsFile = None,
    group_by: GroupBy = None,
    seed: Annotated[int, who_trains(help="Of the split.")] = 1234,
    memory_gib: MemoryGib = None,
) -> None:
    """Prepare a data set for training; a second run does nothing, a changed file redoes its case.

    Everything that is derived from the data is shown, with the option that overrides it.
    """
    from rich.table import Table

    from transunet.cli.progress import count_cases
    from transunet.data.layouts import open_dataset
    from transunet.data.planning import (
        decisions,
        grids_of,
        patch_decisions,
        preprocessing_for,
        recommendation,
        volume_preprocessing,
    )
    from transunet.data.prepare import labelled, measure
    from transunet.data.prepare import prepare as prepare_dataset
    from transunet.data.regions import described, members_of_structures, structures_in
    from transunet.data.split_rules import split_warnings, splits_in, splits_of
    from transunet.data.splits import FRACTION
    from transunet.device import choose_device
    from transunet.errors import ConfigError
    from transunet.training.memory import fit_to_memory
    from transunet.training.recipe import load_recipe

    data = open_dataset(dataset, layout, ignore)
    if modality:
        data = data.with_channels(tuple(name.strip() for name in modality.split(",")))
    if group_by:
        data = data.grouped(group_by)
    cases = labelled(data)
    asked = {
        "--splits": splits is not None,
        "--folds": folds is not None or split == "kfold",
        "--fraction": fraction is not None or split == "holdout",
        "--split own": split == "own",
    }
    several = [option for option, given in asked.items() if given]
    if several[1:] and (several != ["--splits", "--folds"] or split != "auto"):
        raise ConfigError(f"{' and '.join(several)} split the cases in several ways. Give one.")
    if splits is not None:
        chosen = splits_in(splits, cases, folds, data.group_by)
    else:
        how = "holdout" if fraction is not None and split == "auto" else split
        share = FRACTION if fraction is None else fraction
        chosen = splits_of(data, cases, seed, how=how, fraction=share, folds=folds)
    if plane_spacing is not None and dimensions == 2:
        raise ConfigError(
            "--plane-spacing is for --dimensions 3: slices keep the volume's own planes."
        )
    recipe = load_recipe("modern3d" if dimensions == 3 else "paper", {"memory_gib": memory_gib})
    if dimensions == 3:
        with showing_notes(), count_cases("Measuring") as progress:
            measured = measure(data, cases, out, workers, progress)
        preprocessing, reasons = volume_preprocessing(
            data,
            grids_of(cases),
            measured,
            normalisation=normalisation,
            window=window,
            orientation=orientation,
            slice_axis=slice_axis,
            plane_mm=plane_spacing,
            in_plane_mm=spacing,
        )
    else:
        preprocessing = preprocessing_for(
            data,
            grids_of(cases),
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
    console = Console()
    too_small = ""
    if dimensions == 3:
        shown = [*reasons, recommendation(store.fingerprint)]
        try:
            recipe = fit_to_memory(recipe, store, choose_device())
            patches = recipe.size, recipe.architecture["poolings"], recipe.batch, recipe.model
            shown = [
                *reasons,
                *patch_decisions(store.fingerprint, *patches),
                recommendation(store.fingerprint, recipe.size),
            ]
        except ConfigError as error:  # the store is made all the same
            too_small = f"Warning: {recipe.model} cannot be trained on it as it is: {error}"
    else:
        shown = decisions(
            store.preprocessing,
            store.fingerprint,
            recipe=recipe.name,
            image_size=recipe.size[0],
            batch_size=recipe.batch,
        )
    for decision in shown:
        say(f"{decision.name:<15}", end="")
        say(hanging(console, decision.value, 15), "bold")
        why = hanging(console, f"{decision.reason}; change with {decision.option}", 15)
        say(f"{'':<15}{why}", "dim")
    frequencies = store.fingerprint.frequencies
    table = Table("class", "name", "share of voxels", "cases", box=None)
    names = {0: store.labels[0], **structures_in(store.labels, store.regions)}
    for index, members in {0: (0,), **members_of_structures(store.labels, store.regions)}.items():
        share = sum(frequencies[member] for member in members)
        found = [case.fingerprint.voxels.keys() & members for case in store.cases.values()]
        with_it = f"{sum(map(bool, found))} of {len(found)}"
        table.add_row(str(index), names[index], f"{share:.3%}", with_it)
    say(table)
    if store.regions:
        say(described(store.regions))
    if data.ignore is not None:
        say(f"Voxels that hold {data.ignore} count in nothing: nobody labelled them.")
    if data.label_map:
        say(f"Labels mapped by {data.label_map}.")
    say(
        f"{len(store.cases)} cases, {store.fingerprint.slices} slices ({store.prepared.text()}) in "
        f"{store.path}"
    )
    for fold, part in enumerate(store.splits):
        where = f"fold {fold}: " if store.splits[1:] else ""
        for warning in split_warnings(store, part):
            say(f"Warning: {where}{warning}", "yellow")
    if too_small:
        say(too_small, "yellow")
    taken = f" --recipe {recipe.name}" if dimensions == 3 else ""
    taken += f" --memory-gib {memory_gib:g}" if memory_gib else ""
    say(f"Next: transunet train {quote(str(store.path))} -o RUN{taken}")

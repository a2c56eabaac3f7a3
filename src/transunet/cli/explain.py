"""`transunet explain`: what the network attends to, as maps on the image's grid and figures."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from transunet.cli.notes import raise_failed, say, showing_notes
from transunet.cli.options import Device
from transunet.errors import MACHINE_ERRORS, ConfigError, as_user_error

EXAMPLE = "Example: transunet explain runs/hippocampus/best patient.nii.gz -o attention"

_whose = partial(typer.Option, rich_help_panel="Whose attention")
_written = partial(typer.Option, rich_help_panel="What is written")


def explain(
    bundle: Annotated[str, typer.Argument(help="A bundle's folder, or its hub id.")],
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...", help="Images, folders of images, or patterns ('*.nii')."
        ),
    ],
    out: Annotated[Path, _written("--out", "-o", help="Folder for maps and figures.")],
    layer: Annotated[
        str,
        _written(
            metavar="all|rollout|N",
            help="A layer from 0, the roll-out over all layers, or a file of each.",
        ),
    ] = "rollout",
    head: Annotated[
        str,
        _written(
            metavar="all|mean|N",
            help="A head from 0, the mean of a layer's heads, or a file of each.",
        ),
    ] = "mean",
    format_: Annotated[
        Literal["nii", "npy"],
        _written("--format", help="nii: NIfTI on the image's grid. npy: an array (X, Y, Z)."),
    ] = "nii",
    at: Annotated[
        str | None,
        _whose(
            metavar="I,J,K",
            help="The token that contains this voxel of the image's array, counted from 0.",
        ),
    ] = None,
    structure: Annotated[
        str | None,
        _whose(
            metavar="LABEL",
            help="The tokens where this structure is segmented, each by its share of it.",
        ),
    ] = None,
    device: Device = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Take images of another kind than training saw, such as a CT for MRI."
        ),
    ] = False,
) -> None:
    """Show where the network looks: NIfTI maps of attention, and a figure of every layer and head.

    Without --at or --structure: how much attention each place gets from all tokens alike. Each
    slice, or patch of a volume, is looked at by itself, as the network does. Of a 3D network with
    queries also what each of them sees, and which class it gives to it.
    """
    from transunet.attention.explain import check_writable, explain_with
    from transunet.attention.rollout import layers_and_heads
    from transunet.bundle.io import from_pretrained
    from transunet.cli.progress import case_bars
    from transunet.data.classes import classes_named
    from transunet.data.formats import read_image
    from transunet.data.inputs import find_inputs
    from transunet.drawing.figures import check_figure_path

    if at is not None and structure is not None:
        raise ConfigError("Give --at or --structure, not both.")
    query: str | tuple[int, ...] | None = structure
    if at is not None:
        try:
            query = tuple(int(part) for part in at.split(","))
        except ValueError:
            raise ConfigError(
                f"--at {at} is not a voxel; expected three whole numbers such as 20,31,12."
            ) from None
    layers, heads = _number(layer), _number(head)
    check_figure_path(out / "figure.png")  # rather than when the network has been read
    model, config = from_pretrained(bundle)
    layers_and_heads(layers, heads, config.architecture)
    classes_named([structure] if structure else [], config.structures)
    cases = find_inputs(inputs, len(config.preprocessing.channels))
    if at is not None and len(cases) > 1:
        raise ConfigError(f"--at is a voxel of one image; {len(cases)} were given.")
    check_writable(out)
    written: list[Path] = []
    failed: dict[str, Exception | None] = {}
    with showing_notes(), case_bars(len(cases), config.sampling.kind) as (begun, ended):
        for case in cases:
            progress = begun(case.name)
            try:
                explanation = explain_with(
                    model,
                    config,
                    read_image(case.images, case.series),
                    layer=layers,
                    head=heads,
                    at=query,
                    device=device,
                    progress=progress,
                    force=force,
                )
                written += explanation.write(out, case.name, format_)
            except MACHINE_ERRORS as error:
                failed[case.name] = as_user_error(error, case.images[0])
            ended(case)
    if written:
        figures = [path for path in written if path.suffix == ".png"]
        tables = [path for path in written if path.suffix == ".csv"]
        maps = [path for path in written if path.suffix in (".gz", ".npy")]
        for what, paths in (("figure", figures), ("table", tables), ("map", maps)):
            if not paths:
                continue
            several = f"{len(paths)} {what}s in {out}"
            say(f"{what.capitalize()}: {paths[0]}" if len(paths) == 1 else several)
        if config.architecture.layers:
            say("In the maps, 1 is what each token would get if all got the same.", "dim")
        if tables:
            say("In a query's mask, 1 is what is surely in it.", "dim")
    raise_failed(failed, len(cases), "explained")


def _number(word: str) -> int | str:
    """A layer's or head's number, or the word for several of them."""
    return int(word) if word.isascii() and word.isdigit() else word

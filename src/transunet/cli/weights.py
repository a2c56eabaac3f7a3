"""`transunet weights`: what is published, fetching it, and telling what a weight file is."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from transunet.cli.help import Command, Group
from transunet.cli.notes import say
from transunet.data.text import extents

app = typer.Typer(
    cls=Group,
    help="List and download pretrained weights, and inspect weight files.",
    epilog="Example: transunet weights list",
    no_args_is_help=True,
)

_WIDE = 160  # columns where there is no terminal
_LISTED = 10  # problems shown by `inspect`


@app.command("list", cls=Command, epilog="Example: transunet weights list --source imagenet21k")
def list_weights(
    source: Annotated[
        str | None, typer.Option(help="Only this source; there is one: imagenet21k.")
    ] = None,
) -> None:
    """Show the published weights: variant, source, file, size, licence, checksum, cached or not."""
    from rich import box
    from rich.table import Table

    from transunet.cache import cache_folder
    from transunet.weights.catalog import PARTS, SOURCES, files_for
    from transunet.weights.download import cached_path, is_cached, record_of

    # A pipe has no width: leave the lines whole for grep.
    console = Console(width=None if sys.stdout.isatty() else _WIDE)
    for name in SOURCES if source is None else (source,):
        table = Table(title=f'weights="{name}"', title_justify="left", box=box.SIMPLE)
        for column in ("variant", "source", "size", "licence", "checksum", "cached"):
            table.add_column(column, overflow="fold", no_wrap=column == "variant")
        for variant in PARTS:
            for file in files_for(variant, name):
                size = f"~{file.about_bytes / 1e6:.0f} MB"
                checksum = f"sha256 {file.sha256[:12]}" if file.sha256 else "declared at download"
                cached = is_cached(file)
                if cached:
                    size = f"{cached_path(file).stat().st_size / 1e6:.0f} MB"
                    if record := record_of(file):
                        checksum = f"sha256 {record.sha256[:12]}, from {record.checksum_from}"
                is_here = "yes" if cached else "no"
                table.add_row(variant, f"hub: {file.repo}", size, file.licence, checksum, is_here)
        console.print(table)
    console.print(
        f"~ before a size: from the number of parameters. Cache: {cache_folder()}", soft_wrap=True
    )


@app.command(cls=Command, epilog="Example: transunet weights download R50-ViT-B_16")
def download(
    variants: Annotated[list[str], typer.Argument(help="Such as R50-ViT-B_16 or ViT-L_16.")],
    source: Annotated[
        str, typer.Option(help="Where from; there is one: imagenet21k, on the hub.")
    ] = "imagenet21k",
    offline: Annotated[
        bool, typer.Option("--offline", help="Use no network: only check what is in the cache.")
    ] = False,
) -> None:
    """Download the weights of each VARIANT into the cache."""
    from transunet.weights.catalog import files_for
    from transunet.weights.download import fetch

    wanted = {file.key: file for name in variants for file in files_for(name, source)}
    for file in wanted.values():
        say(f"{file.key}: {fetch(file, offline=offline or None)}")


@app.command(cls=Command, epilog="Example: transunet weights inspect R50+ViT-B_16.npz")
def inspect(
    file: Annotated[Path, typer.Argument(help="A .npz, .pth or .safetensors file, or a bundle.")],
) -> None:
    """Tell what a weight FILE is: format, variant, entries, position grid, what does not fit."""
    from transunet.weights.weight_inspection import inspect as look_into

    inspection = look_into(file)
    grid = extents(inspection.grid) if inspection.grid else "in no known grid"
    if inspection.grid and inspection.whole and not inspection.grid_told:
        grid += ", if they fill a square: the file alone does not tell"
    holds = "a whole TransUNet" if inspection.whole else "an encoder"
    lines = [
        f"file        {inspection.path}",
        f"format      {inspection.container}, {inspection.scheme}",
        f"holds       {holds}: {inspection.traits}",
        f"variant     {inspection.variant or 'none of the known ones'}",
        f"entries     {inspection.entries}, {inspection.parameters:,} numbers",
        f"positions   {grid}",
    ]
    if inspection.whole and inspection.classes is not None:
        lines.append(f"decoder     {inspection.classes} classes, n_skip={inspection.n_skip}")
    if inspection.labels:
        lines.append(f"classes     {', '.join(f'{i} {n}' for i, n in inspection.labels.items())}")
    if names := inspection.channels:
        plural = "" if len(names) == 1 else "s"
        lines.append(f"image       {len(names)} channel{plural}: {', '.join(names)}")
    elif inspection.stem_channels == 3:
        lines.append("image       1 channel, repeated to three, or 3 channels; others are adapted")
    elif inspection.stem_channels:
        lines.append(f"image       {inspection.stem_channels} channels")
    if inspection.unused:
        lines.append(f"without use {', '.join(inspection.unused)}")
    lines += [f"{entry.kind:<11} {entry}" for entry in inspection.mismatches[:_LISTED]]
    if len(inspection.mismatches) > _LISTED:
        lines.append(f"            ... and {len(inspection.mismatches) - _LISTED} more")
    if inspection.variant:
        whole = "complete: nothing missing, nothing extra"
        lines.append("incomplete" if inspection.mismatches else whole)
    for line in lines:
        say(line)

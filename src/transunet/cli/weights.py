"""`transunet weights`: what is published, fetching it, and telling what a weight file is."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transunet.cli.help import Command, Group

if TYPE_CHECKING:
    from rich.table import Table

    from transunet.weights.catalog import WeightFile
    from transunet.weights.inspection import Inspection

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
    from rich.console import Console

    from transunet.cache import cache_folder
    from transunet.weights.catalog import SOURCES

    # A pipe has no width: leave the lines whole for grep.
    console = Console(width=None if sys.stdout.isatty() else _WIDE)
    for name in SOURCES if source is None else (source,):
        console.print(_table(name))
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
    from rich.console import Console

    from transunet.weights.catalog import files_for
    from transunet.weights.download import fetch

    wanted = {file.key: file for name in variants for file in files_for(name, source)}
    console = Console()
    for file in wanted.values():
        path = fetch(file, offline=offline or None)
        console.print(f"{file.key}: {path}", soft_wrap=True, highlight=False)


@app.command(cls=Command, epilog="Example: transunet weights inspect R50+ViT-B_16.npz")
def inspect(
    file: Annotated[Path, typer.Argument(help="A .npz, .pth or .safetensors file, or a bundle.")],
) -> None:
    """Tell what a weight FILE is: format, variant, entries, position grid, what does not fit."""
    from rich.console import Console

    from transunet.weights.inspection import inspect as look_into

    console = Console()
    for line in _report(look_into(file)):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _table(source: str) -> "Table":
    from rich import box
    from rich.table import Table

    from transunet.weights.catalog import PARTS, files_for

    table = Table(title=f'weights="{source}"', title_justify="left", box=box.SIMPLE)
    for column in ("variant", "source", "size", "licence", "checksum", "cached"):
        table.add_column(column, overflow="fold", no_wrap=column == "variant")
    for variant in PARTS:
        for file in files_for(variant, source):
            table.add_row(variant, *_row(file))
    return table


def _row(file: "WeightFile") -> tuple[str, str, str, str, str]:
    from transunet.weights.download import cached_path, is_cached, record_of

    record = record_of(file)
    cached = is_cached(file)
    if cached:
        size = f"{cached_path(file).stat().st_size / 1e6:.0f} MB"
    else:
        size = f"~{file.about_bytes / 1e6:.0f} MB"
    if cached and record is not None:
        checksum = f"sha256 {record.sha256[:12]}, from {record.checksum_from}"
    else:
        checksum = f"sha256 {file.sha256[:12]}" if file.sha256 else "declared at download"
    return (
        f"hub: {file.repo}",
        size,
        file.licence,
        checksum,
        "yes" if cached else "no",
    )


def _channels(found: "Inspection") -> str:
    if found.channels:
        many = "" if len(found.channels) == 1 else "s"
        return f"{len(found.channels)} channel{many}: {', '.join(found.channels)}"
    if found.stem_channels == 3:
        return "1 channel, repeated to three, or 3 channels; others are adapted"
    return f"{found.stem_channels} channels"


def _report(found: "Inspection") -> list[str]:
    grid = f"{found.grid[0]} x {found.grid[1]}" if found.grid else "fill no square"
    if found.grid and found.whole and not found.grid_told:
        grid += ", if they fill a square: the file alone does not tell"
    lines = [
        f"file        {found.path}",
        f"format      {found.container}, {found.scheme}",
        f"holds       {'a whole TransUNet' if found.whole else 'an encoder'}: {found.traits}",
        f"variant     {found.variant or 'none of the known ones'}",
        f"entries     {found.entries}, {found.parameters:,} numbers",
        f"positions   {grid}",
    ]
    if found.whole:
        lines.append(f"decoder     {found.classes} classes, n_skip={found.n_skip}")
    if found.labels:
        lines.append(f"classes     {', '.join(f'{i} {n}' for i, n in found.labels.items())}")
    if found.stem_channels:
        lines.append(f"image       {_channels(found)}")
    if found.unused:
        lines.append(f"without use {', '.join(found.unused)}")
    lines += [f"{problem.kind:<11} {problem}" for problem in found.problems[:_LISTED]]
    if len(found.problems) > _LISTED:
        lines.append(f"            ... and {len(found.problems) - _LISTED} more")
    if found.variant:
        lines.append("incomplete" if found.problems else "complete: nothing missing, nothing extra")
    return lines

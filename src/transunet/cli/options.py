"""Options that several commands take, each with the same words."""

from pathlib import Path
from typing import Annotated

import typer

WHO_TRAINS = "Who trains and who validates"
"""The heading of the options that split a data set."""

Layout = Annotated[str | None, typer.Option(help="The data set's layout, if not recognised.")]
Ignore = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="VALUE",
        help="The value in label maps, such as 255, of what nobody labelled; a data set's own "
        "label 'ignore' needs no option.",
    ),
]
SplitsFile = Annotated[
    Path | None,
    typer.Option(
        help='Your own: JSON as nnU-Net has it, [{"train": [names], "val": [names]}, ...], '
        "one for a plain split.",
        metavar="FILE",
        rich_help_panel=WHO_TRAINS,
    ),
]
GroupBy = Annotated[
    str | None,
    typer.Option(
        help="Regular expression; cases in whose names it finds the same stay together, such "
        "as 'patient[0-9]+'.",
        metavar="REGEX",
        rich_help_panel=WHO_TRAINS,
    ),
]

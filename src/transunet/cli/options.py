"""Options that several commands take, each with the same words."""

from typing import Annotated

import typer

Ignore = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="VALUE",
        help="The value in label maps, such as 255, of what nobody labelled; a data set's own "
        "label 'ignore' needs no option.",
    ),
]

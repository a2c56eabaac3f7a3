"""`transunet dossier`: what a reviewer asks for, from a run itself."""

from pathlib import Path
from typing import Annotated

import typer

from transunet.cli.notes import say, showing_notes

EXAMPLE = (
    "Example: transunet dossier runs/hippocampus -o dossier --evaluation report --purpose "
    "'volumes of the hippocampus in research'"
)


def dossier(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="The folder of a run or a bundle, or an exported file. A bundle tells less.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the dossier.")],
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="What `transunet evaluate -o` wrote of this network; repeat for several.",
        ),
    ] = None,
    purpose: Annotated[str, typer.Option(help="What the model is for, in your words.")] = "",
    data_licence: Annotated[
        str, typer.Option(help="The licence of the data, where dataset.json does not state it.")
    ] = "",
    prove: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="STEPS",
            help="Train so many first steps twice on the CPU, and compare to the bit.",
        ),
    ] = None,
) -> None:
    """Write a model card, a bill of materials, and the commands that train it again.

    All of it is read from the run, its data and the evaluations; what is not known is said to be
    not known. Needs the extra dossier.
    """
    from transunet.cli.progress import progress_bar
    from transunet.dossier.write import write_dossier

    with showing_notes(), progress_bar("steps") as bar:
        task = bar.add_task("Training twice", total=None, visible=False)
        limits = write_dossier(
            source,
            out,
            evaluations=evaluation or (),
            purpose=purpose,
            licence=data_licence,
            prove=prove,
            told=lambda done, total: bar.update(task, completed=done, total=total, visible=True),
        )
    say("What its figures do not support:")
    for limit in limits:
        say(f"  - {limit}")
    say(f"Written into {out}; begin with {out / 'index.html'}")

"""The `transunet` command: one line per sub-command, and how errors end.

Sub-commands import what is heavy inside their function, so that `--help` stays fast.
"""

import os
import sys
from typing import Annotated

import typer
from rich.console import Console

from transunet.cli import (
    calibrate,
    check,
    distill,
    dossier,
    evaluate,
    explain,
    export,
    nnunet,
    predict,
    prepare,
    queue,
    serve,
    train,
    view,
    weights,
)
from transunet.cli.help import Command, Group
from transunet.errors import TransUNetError

# Before torch is imported: threads that wait for work soon sleep, since beside other work (data
# loaders, a second run, a browser) spinning makes every process several times slower. Not at once
# where that can be said (GNU's OpenMP): 0.1 ms of spinning is what a network's short steps need.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

app = typer.Typer(
    name="transunet",
    cls=Group,
    help="TransUNet for medical image segmentation: train on any data set, predict on the "
    "patient's own grid, measure honestly.",
    epilog="Example: transunet train Task04_Hippocampus -o runs/hippocampus",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=Command, epilog=check.EXAMPLE)(check.check)
app.command(cls=Command, epilog=prepare.EXAMPLE)(prepare.prepare)
app.command(cls=Command, epilog=train.EXAMPLE)(train.train)
app.command(cls=Command, epilog=distill.EXAMPLE)(distill.distill)
app.command(cls=Command, epilog=predict.EXAMPLE)(predict.predict)
app.command(cls=Command, epilog=queue.EXAMPLE)(queue.queue)
app.command(cls=Command, epilog=evaluate.EXAMPLE)(evaluate.evaluate)
app.command(cls=Command, epilog=calibrate.EXAMPLE)(calibrate.calibrate)
app.command(cls=Command, epilog=dossier.EXAMPLE)(dossier.dossier)
app.command(cls=Command, epilog=view.EXAMPLE)(view.view)
app.command(cls=Command, epilog=explain.EXAMPLE)(explain.explain)
app.command(cls=Command, epilog=export.EXAMPLE)(export.export)
app.command(cls=Command, epilog=nnunet.EXAMPLE, context_settings=nnunet.SETTINGS)(nnunet.nnunet)
app.command(cls=Command, epilog=serve.EXAMPLE)(serve.serve)
app.add_typer(weights.app, name="weights")


def _print_version(wanted: bool) -> None:
    if wanted:
        from transunet.optional import own_version

        print(own_version())
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, help="Print the version.", is_eager=True
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; a `TransUNetError` becomes one message and its exit code."""
    try:
        app()
    except TransUNetError as error:
        message = Console(stderr=True, soft_wrap=True)
        message.print(f"Error: {error}", style="red", markup=False, highlight=False)
        sys.exit(error.exit_code)

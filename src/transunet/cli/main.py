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
# Before numpy is: what its products do beside the network on one core takes milliseconds; on
# several, whose threads spin while the network's have the cores, many times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# What a step keeps comes in pages of 2 MiB where Linux has them: it is got anew at every step, and
# page faults took an eighth of a training's time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

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
_DATA, _TRAIN = "Data", "Train"
_PREDICT, _SERVE = "Predict and measure", "Serve, correct, hand on"
app.command(cls=Command, epilog=check.EXAMPLE, rich_help_panel=_DATA)(check.check)
app.command(cls=Command, epilog=prepare.EXAMPLE, rich_help_panel=_DATA)(prepare.prepare)
app.add_typer(weights.app, name="weights", rich_help_panel=_TRAIN)
app.command(cls=Command, epilog=train.EXAMPLE, rich_help_panel=_TRAIN)(train.train)
app.command(cls=Command, epilog=distill.EXAMPLE, rich_help_panel=_TRAIN)(distill.distill)
app.command(
    cls=Command,
    epilog=nnunet.EXAMPLE,
    context_settings=nnunet.SETTINGS,
    rich_help_panel=_TRAIN,
)(nnunet.nnunet)
app.command(cls=Command, epilog=predict.EXAMPLE, rich_help_panel=_PREDICT)(predict.predict)
app.command(cls=Command, epilog=evaluate.EXAMPLE, rich_help_panel=_PREDICT)(evaluate.evaluate)
app.command(cls=Command, epilog=calibrate.EXAMPLE, rich_help_panel=_PREDICT)(calibrate.calibrate)
app.command(cls=Command, epilog=view.EXAMPLE, rich_help_panel=_PREDICT)(view.view)
app.command(cls=Command, epilog=explain.EXAMPLE, rich_help_panel=_PREDICT)(explain.explain)
app.command(cls=Command, epilog=queue.EXAMPLE, rich_help_panel=_SERVE)(queue.queue)
app.command(cls=Command, epilog=serve.EXAMPLE, rich_help_panel=_SERVE)(serve.serve)
app.command(cls=Command, epilog=export.EXAMPLE, rich_help_panel=_SERVE)(export.export)
app.command(cls=Command, epilog=dossier.EXAMPLE, rich_help_panel=_SERVE)(dossier.dossier)


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

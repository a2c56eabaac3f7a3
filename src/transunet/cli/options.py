"""Options that several commands take, each with the same words."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

ON_THIS_MACHINE = "On this machine"
"""The heading of the options that say what computes."""
on_this_machine = partial(typer.Option, rich_help_panel=ON_THIS_MACHINE)
who_trains = partial(typer.Option, rich_help_panel="Who trains and who validates")
"""Makes an option that splits a data set."""


def _name_of(kind: str, help: str) -> Any:
    """Return the option for the name of an "engine" or a "precision"; `--help` imports neither."""

    def check(name: str) -> str:
        if name != "auto":
            from transunet.backends.engines import check_name

            check_name(kind, name)
        return name

    def complete(incomplete: str) -> list[str]:
        from transunet.backends.engines import names_of

        return [name for name in names_of(kind) if name.startswith(incomplete)]

    return on_this_machine(help=help, metavar="NAME", callback=check, autocompletion=complete)


Device = Annotated[
    str | None, on_this_machine(help="cpu, cuda, cuda:1 or mps; the best one if not given.")
]
Engine = Annotated[
    str,
    _name_of(
        "engine",
        "What computes the network: openvino, onnxruntime, eager or compiled; auto: the fastest "
        "installed. For openvino and onnxruntime a bundle is converted once.",
    ),
]
Precision = Annotated[
    str,
    _name_of(
        "precision",
        "auto: fp32, or an exported file's own. bf16 and fp16 are faster where the processor has "
        "them, and change a few labels. int8: faster still, of exported files that hold it and of "
        "bundles that were calibrated; where it changes too much or is no faster, fp32 is taken.",
    ),
]
MemoryGib = Annotated[
    float | None,
    on_this_machine(
        help="Plan automatic sizes of patches and batches for a device of so many GiB; if not "
        "given, for the memory that is free here, and on a CPU for its speed."
    ),
]
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
    who_trains(
        help='Your own: JSON as nnU-Net has it, [{"train": \\[names], "val": \\[names]}, ...], '
        "one for a plain split.",
        metavar="FILE",
    ),
]
GroupBy = Annotated[
    str | None,
    who_trains(
        help="Regular expression; cases in whose names it finds the same stay together, such "
        "as 'patient[0-9]+'.",
        metavar="REGEX",
    ),
]

"""`transunet queue`: which of many images a person should label, or look at, first."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from transunet.cli.notes import raise_failed, say, showing_notes
from transunet.cli.options import Device, Engine, Precision, on_this_machine
from transunet.cli.predict import stoppable
from transunet.errors import ConfigError

if TYPE_CHECKING:
    from transunet.batch.worklist import Worklist

EXAMPLE = "Example: transunet queue runs/nuclei/best unlabelled"
_SHOWN = 20
"""Cases of which the table is printed."""


def queue(
    bundle: Annotated[str, typer.Argument(help="A bundle's folder, or its hub id.")],
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...",
            help="Images, folders of images, data sets, patterns ('*.nii'), as for predict. Cases "
            "of data sets that have a label map are left out.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder for worklist.json, worklist.csv and the label maps."
        ),
    ] = Path("queue"),
    ensemble: Annotated[
        list[str] | None,
        typer.Option(metavar="BUNDLE", help="Average with this bundle too; repeat for more."),
    ] = None,
    series: Annotated[
        str | None,
        typer.Option(
            metavar="UID|NUMBER|all",
            help="Of several DICOM series in a folder or zip: this one, or all, each as a case.",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Of a data set: its cases of this split, such as test.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Take images of another kind than training saw, too.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Predict finished cases again.")
    ] = False,
    device: Device = None,
    batch_size: Annotated[
        int | None, on_this_machine(min=1, help="Slices or patches that go through at once.")
    ] = None,
    engine: Engine = "auto",
    precision: Precision = "auto",
) -> None:
    """Order images by doubt: those of which the bundle expects the least come first.

    Every image is predicted, as by `transunet predict`; a second run goes on where the first one
    ended. A bundle that was not calibrated does not know what to expect: it orders by soft Dice,
    which takes its probabilities at their word, and says so.
    """
    from transunet.backends.engines import own_device
    from transunet.backends.opening import config_of
    from transunet.batch.case_records import read_record
    from transunet.batch.run import OutputOptions, predict_cases
    from transunet.batch.worklist import knows_quality, order_by_doubt, write_worklist
    from transunet.cli.progress import case_bars
    from transunet.data.inputs import find_inputs
    from transunet.inference.predictor import Predictor

    if out.suffix in (".csv", ".json"):
        raise ConfigError(
            f"-o {out} is to be a folder: worklist.json, worklist.csv and the label maps go into "
            f"it. Give -o {out.with_suffix('')}, say."
        )
    channels = len(config_of(bundle, engine).preprocessing.channels)
    with showing_notes():
        found = find_inputs(inputs, channels, series=series, split=split)
        cases = [case for case in found if case.label is None]
        if labelled := len(found) - len(cases):
            say(f"{labelled} of {len(found)} cases have a label map and are left out.", "dim")
        if not cases:
            raise ConfigError(
                "Every case has a label map already, so that none is left to be labelled. Give "
                "the unlabelled images, a folder of them or files."
            )
        predictor = Predictor.from_pretrained(
            [bundle, *(ensemble or [])],
            device=own_device(device),
            engine=engine,
            precision=precision,
            batch_size=batch_size,
            force=force,
        )
    known = knows_quality(predictor.fitted)
    if not known:
        words = [quote(bundle), "DATASET", *(f"--ensemble {quote(b)}" for b in ensemble or [])]
        say(
            "The bundle does not know how good its results are: ordered by soft Dice, how sure it "
            "is of itself, which a network may be of a mistake. Better: with ten or more held-out "
            f"cases, transunet calibrate {' '.join(words)}",
            "yellow",
        )
        predictor = predictor.replace(fitted=None)
    options = OutputOptions(overwrite=overwrite, soft_dice=not known)
    with showing_notes(), stoppable(out), case_bars(len(cases)) as (begun, ended):
        outcomes = predict_cases(predictor, cases, out, options, begun, ended)
    failed = {outcome.case: outcome.error for outcome in outcomes if outcome.status == "failed"}
    done = [read_record(out, outcome.case) for outcome in outcomes if outcome.case not in failed]
    worklist = order_by_doubt(filter(None, done), predictor.sources, predictor.fitted)
    if worklist.cases:
        path = write_worklist(worklist, out)
        _show(worklist)
        say(f"{len(worklist.cases)} images, the most doubtful first: {path.with_suffix('.csv')}")
        say(f"Next: transunet serve {quote(bundle)} --worklist {quote(str(path))} --dataset FOLDER")
    raise_failed(failed, len(outcomes), "predicted")


def _show(worklist: "Worklist") -> None:
    """Print the most doubtful cases, and why they are."""
    table = Table("", "case", worklist.order, "of", "why")
    for place, case in enumerate(worklist.cases[:_SHOWN], 1):
        why = "; ".join(case.reasons)
        table.add_row(str(place), case.case, f"{case.dice:.2f}", case.structure, why)
    Console().print(table)
    if (more := len(worklist.cases) - _SHOWN) > 0:
        say(f"and {more} more")

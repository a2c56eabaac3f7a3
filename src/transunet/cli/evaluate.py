"""`transunet evaluate`: predictions against references, or two predictions against each other."""

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from transunet.cli.notes import showing_notes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from transunet.evaluation.evaluate import Question
    from transunet.evaluation.records import Evaluation

EXAMPLE = (
    "Example: transunet evaluate labels Task04_Hippocampus --subset -o report    "
    "(two predictions: transunet evaluate labels_a labels_b Task04_Hippocampus -o comparison)"
)


def evaluate(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PREDICTION [PREDICTION_B] REFERENCE",
            help="Label maps: files, or folders matched by case name. The reference may be a data "
            "set's folder. With two predictions they are compared case by case.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the HTML page, the CSV and the JSON."),
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this JSON file.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Images to show in the page (a data set's own are found by itself)."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Names of the references' labels, or, where these have names already, of the "
            "predictions': a bundle, a dataset.json or a config.json. Classes are matched by name."
        ),
    ] = None,
    convention: Annotated[
        Literal["honest", "official"],
        typer.Option(
            help="official: the reference TransUNet's voxels and scores for empty structures, only "
            "to compare with the paper."
        ),
    ] = "honest",
    tolerance_mm: Annotated[
        float, typer.Option(help="Distance at which two surfaces agree, for NSD.")
    ] = 2.0,
    subset: Annotated[
        bool,
        typer.Option(
            "--subset", help="Evaluate only the cases that are predicted, and classes of both."
        ),
    ] = False,
    ignore: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="VALUE",
            help="The references' value, such as 255, of voxels that nobody labelled: they count "
            "in neither map. A data set's own label 'ignore' needs no option.",
        ),
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="Layout of the data set; recognised if not given.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Only the data set's cases of this split: train, validation or test."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that measure cases.")] = 1,
    pictures: Annotated[
        int, typer.Option(min=0, help="How many of the worst cases the page shows as pictures.")
    ] = 12,
) -> None:
    """Measure Dice, IoU, HD95, ASSD, NSD and volumes in millimetres, and say how sure they are."""
    from rich.console import Console

    from transunet.errors import ConfigError
    from transunet.evaluation.evaluate import Question

    if len(paths) not in (2, 3):
        raise ConfigError(
            "Give a prediction and a reference, or two predictions and a reference (paths given: "
            f"{len(paths)})."
        )
    question = Question(
        references=paths[-1],
        images=images,
        labels=labels,
        convention=convention,
        tolerance_mm=tolerance_mm,
        layout=layout,
        split=split,
        subset=subset,
        ignore=ignore,
        workers=workers,
    )
    console = Console(soft_wrap=True)
    with showing_notes():
        if len(paths) == 2:
            _evaluate(console, paths[0], question, out, json, pictures)
        else:
            print_comparison(console, paths[0], paths[1], question, out=out, json=json)


def _evaluate(
    console: "Console",
    prediction: Path,
    question: "Question",
    out: Path | None,
    json: Path | None,
    pictures: int,
) -> None:
    from transunet.evaluation import report, table
    from transunet.evaluation.evaluate import evaluate, write_report

    _check_outputs(out, json)
    with _counting() as progress:
        answer = evaluate(prediction, question, progress)
    evaluation = answer.evaluation
    for cases in table.cases_tables(evaluation):
        console.print(cases)
    console.print(table.summary_table(evaluation))
    _print_notes(console, evaluation.policy, evaluation)
    if out:
        _print_written(console, write_report(answer, out, pictures))
    if json:
        report.write_json(report.to_json(evaluation), json)
    console.print(table.closing_line(evaluation))


def print_comparison(
    console: "Console",
    first: Path,
    second: Path,
    question: "Question",
    *,
    out: Path | None = None,
    json: Path | None = None,
) -> None:
    """Measure and compare two folders of label maps; print it, and write it to `out` and `json`.

    Raises:
        TransUNetError: as `transunet.evaluation.evaluate.compare`.
    """
    from transunet.evaluation import comparison, report, table
    from transunet.evaluation.evaluate import compare, write_comparison

    _check_outputs(out, json)
    with _counting() as progress:
        found = compare(first, second, question, progress)
    for metric in found.metrics:
        if metric.field in ("dice", "hd95"):  # the files hold the others
            console.print(table.comparison_table(found, metric))
    _print_notes(console, f"{comparison.TEST} {found.first.policy}", found.first)
    if out:
        _print_written(console, write_comparison(found, out))
    if json:
        report.write_json(comparison.to_json(found), json)
    for side, one in (("A", found.first), ("B", found.second)):
        told = f"{side} ({one.predictions}): {table.closing_line(one)}"
        console.print(told, markup=False, highlight=False)


@contextmanager
def _counting() -> "Iterator[Callable[[int, int], None]]":
    """Show a bar that is told after each case."""
    from transunet.cli.progress import progress_bar

    with progress_bar("cases") as bar:
        task = bar.add_task("measuring", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _check_outputs(out: Path | None, json: Path | None) -> None:
    """Find out before the work whether its result can be written, and make nothing yet."""
    from transunet.errors import ConfigError
    from transunet.files import writable_folder

    for folder in (out, json.parent if json else None):
        if folder:
            writable_folder(next(one for one in (folder, *folder.parents) if one.exists()))
    if json and json.is_dir():
        raise ConfigError(f"--json {json} is a folder; give the name of a file.")


def _print_notes(console: "Console", policy: str, evaluation: "Evaluation") -> None:
    plain: dict[str, Any] = {"markup": False, "highlight": False}
    console.print(policy, style="dim", **plain)
    for note in evaluation.notes:
        console.print(note, style="yellow", **plain)
    if evaluation.left_out:
        told = f"References without a prediction, left out as asked: {len(evaluation.left_out)}."
        console.print(told, style="dim", **plain)


def _print_written(console: "Console", written: list[Path]) -> None:
    listed = ", ".join(map(str, written))
    console.print(f"Written: {listed}", markup=False, highlight=False)

"""`transunet evaluate`: predictions against references, or two predictions against each other."""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from transunet.cli.notes import showing_notes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from transunet.data.processes import Progress
    from transunet.evaluation.evaluate import EvaluationRequest
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
    from transunet.evaluation import report, table
    from transunet.evaluation.evaluate import EvaluationRequest, write_report
    from transunet.evaluation.evaluate import evaluate as measure

    if len(paths) not in (2, 3):
        raise ConfigError(
            "Give a prediction and a reference, or two predictions and a reference (paths given: "
            f"{len(paths)})."
        )
    request = EvaluationRequest(
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
        if len(paths) == 3:
            print_comparison(console, paths[0], paths[1], request, out=out, json=json)
            return
        _check_outputs(out, json)
        with _case_bar() as progress:
            result = measure(paths[0], request, progress)
        evaluation = result.evaluation
        for cases in table.cases_tables(evaluation):
            console.print(cases)
        console.print(table.summary_table(evaluation))
        _print_notes(console, evaluation.policy, evaluation)
        if out:
            _print_written(console, write_report(result, out, pictures))
        if json:
            report.write_json(report.to_json(evaluation), json)
        console.print(table.closing_line(evaluation))


def print_comparison(
    console: "Console",
    first: Path,
    second: Path,
    request: "EvaluationRequest",
    *,
    out: Path | None = None,
    json: Path | None = None,
) -> None:
    """Measure and compare two folders of label maps; print it, and write it to `out` and `json`.

    Raises:
        ConfigError: for a path that does not exist or cannot be written to.
        DataError: for a case without its counterpart, a file that is damaged or no label map, or
            when the two hold different cases.
        GeometryError: for a prediction on another grid than its reference.
    """
    from transunet.evaluation import report, table
    from transunet.evaluation.comparison import TEST
    from transunet.evaluation.evaluate import compare, write_comparison

    _check_outputs(out, json)
    with _case_bar() as progress:
        compared = compare(first, second, request, progress)
    for metric in compared.metrics:
        if metric.field in ("dice", "hd95"):  # the files hold the others
            console.print(table.comparison_table(compared, metric))
    _print_notes(console, f"{TEST} {compared.first.policy}", compared.first)
    if out:
        _print_written(console, write_comparison(compared, out))
    if json:
        report.write_json(report.comparison_to_json(compared), json)
    for side, evaluation in (("A", compared.first), ("B", compared.second)):
        line = f"{side} ({evaluation.predictions}): {table.closing_line(evaluation)}"
        console.print(line, markup=False, highlight=False)


@contextmanager
def _case_bar() -> "Iterator[Progress]":
    """Show a bar of the cases that are measured; yield what moves it."""
    from transunet.cli.progress import progress_bar

    with progress_bar("cases") as bar:
        task = bar.add_task("measuring", total=None)
        yield lambda done, total, _: bar.update(task, completed=done, total=total)


def _check_outputs(out: Path | None, json: Path | None) -> None:
    """Find out before the work whether its result can be written, and make nothing yet."""
    from transunet.errors import ConfigError
    from transunet.files import writable_folder

    for folder in (out, json.parent if json else None):
        if folder:
            writable_folder(next(path for path in (folder, *folder.parents) if path.exists()))
    if json and json.is_dir():
        raise ConfigError(f"--json {json} is a folder; give the name of a file.")


def _print_notes(console: "Console", policy: str, evaluation: "Evaluation") -> None:
    lines = [(policy, "dim"), *((note, "yellow") for note in evaluation.notes)]
    if evaluation.left_out:
        count = len(evaluation.left_out)
        lines.append((f"References without a prediction, left out as asked: {count}.", "dim"))
    for line, style in lines:
        console.print(line, style=style, markup=False, highlight=False)


def _print_written(console: "Console", paths: list[Path]) -> None:
    console.print(f"Written: {', '.join(map(str, paths))}", markup=False, highlight=False)

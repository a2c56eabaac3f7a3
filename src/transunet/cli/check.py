"""`transunet check`: every problem in a data set, before anything runs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from json import dumps
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from transunet.cli.options import Ignore, Layout
from transunet.files import atomic_path

if TYPE_CHECKING:
    from rich.console import Console

    from transunet.data.checks.check import Report
    from transunet.data.checks.problems import Problem

EXAMPLE = "Example: transunet check Task04_Hippocampus --fix Task04_corrected"

_SHOWN = 10  # problems of a kind; --json has them all


def check(
    dataset: Annotated[Path, typer.Argument(help="The data set's folder.")],
    layout: Layout = None,
    fix: Annotated[
        Path | None,
        typer.Option(help="Write a corrected copy here; the original stays.", metavar="OUT"),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="Write every problem here.", metavar="FILE")
    ] = None,
    ignore: Ignore = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read cases.")] = 1,
) -> None:
    """List every problem of a data set with its file and its remedy.

    Ends with 1 if there are errors (with --fix: if the copy still has some), with 0 if there are
    only warnings. Preparing and training refuse the errors in the same words.
    """
    from rich.console import Console

    from transunet.cli.progress import count_cases
    from transunet.data.checks.check import check as check_dataset
    from transunet.data.checks.corrections import fix as fix_dataset

    console = Console(soft_wrap=True, highlight=False)
    with count_cases("Checking") as progress:
        report = check_dataset(dataset, layout, workers, progress, ignore)
    _show_problems(console, report)
    copy = None
    if fix:
        with count_cases("Correcting") as progress:
            copy = fix_dataset(report, fix, progress)
        data = report.dataset
        assert data is not None  # else there was nothing to copy
        with count_cases("Checking") as progress:
            report = check_dataset(fix, data.layout, workers, progress, data.ignore)
        for problem in _first_of_each_kind(console, copy.corrected):
            done = f"{problem.found}; {problem.remedy}"
            console.print(f"corrected {problem.where}: {done}.", markup=False)
        for problem in _first_of_each_kind(console, copy.left_out):
            console.print(f"left out  {problem.where}: {problem.found}.", markup=False)
        console.print(
            f"{fix}: {_counted(len(copy.corrected), 'correction')}, {len(copy.left_out)} left "
            f"out, {_counted(len(report.errors), 'error')} and "
            f"{_counted(len(report.warnings), 'warning')} remain.",
            markup=False,
        )
    if json:
        content = report.as_json()
        if copy:
            content["corrected"] = [problem.text for problem in copy.corrected]
            content["left_out"] = [problem.text for problem in copy.left_out]
        with atomic_path(json) as scratch:
            scratch.write_text(dumps(content, indent=1) + "\n", "utf-8")
    if not report.errors:
        option = "" if ignore is None else f" --ignore {ignore}"
        folder = quote(str(fix or dataset))
        console.print(f"Next: transunet train {folder} -o RUN{option}", markup=False)
    raise typer.Exit(1 if report.errors else 0)


def _show_problems(console: "Console", report: "Report") -> None:
    from transunet.cli.hanging import hanging

    for problem in _first_of_each_kind(console, report.problems):
        style = "bold red" if problem.severity == "error" else "yellow"
        console.print(f"{problem.severity:<8}", style=style, end="")
        console.print(hanging(console, f"{problem.where}: {problem.found}.", 8), markup=False)
        remedy = hanging(console, f"{problem.remedy}.", 8)
        console.print(f"        {remedy}", style="dim", markup=False)
    if data := report.dataset:
        errors = _counted(len(report.errors), "error")
        warnings = _counted(len(report.warnings), "warning")
        console.print(
            f"{data.name}: {len(data.cases)} cases in the layout {data.layout}, {errors}, "
            f"{warnings}.",
            markup=False,
        )
    if report.splits:
        console.print(f"To be prepared: {report.splits.text()}.", markup=False)


def _first_of_each_kind(console: "Console", problems: "Sequence[Problem]") -> "Iterator[Problem]":
    """Yield the first ones of every kind, then say how many more there are."""
    counts: Counter[tuple[str, str]] = Counter()
    for problem in problems:
        counts[problem.severity, problem.kind] += 1
        if counts[problem.severity, problem.kind] <= _SHOWN:
            yield problem
    for (_, kind), count in counts.items():
        if count > _SHOWN:
            console.print(
                f"        {count - _SHOWN} more like these ({kind}); --json FILE has them all.",
                markup=False,
            )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

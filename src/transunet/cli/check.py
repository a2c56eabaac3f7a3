"""`transunet check`: every problem in a data set, before anything runs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from transunet.cli.notes import hanging, say
from transunet.cli.options import Ignore, Layout

if TYPE_CHECKING:
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
    from transunet.cli.progress import count_cases
    from transunet.data.checks.check import check as check_dataset
    from transunet.data.checks.corrections import fix as fix_dataset
    from transunet.data.regions import described
    from transunet.files import write_json

    with count_cases("Checking") as progress:
        report = check_dataset(dataset, layout, workers, progress, ignore)
    console = Console()
    for problem in _first_of_each_kind(report.problems):
        style = "bold red" if problem.severity == "error" else "yellow"
        say(f"{problem.severity:<8}", style, end="")
        say(hanging(console, f"{problem.where}: {problem.found}.", 8))
        say(f"        {hanging(console, f'{problem.remedy}.', 8)}", "dim")
    if data := report.dataset:
        counts = f"{len(data.cases)} cases in the layout {data.layout}"
        errors = _counted(len(report.errors), "error")
        warnings = _counted(len(report.warnings), "warning")
        say(f"{data.name}: {counts}, {errors}, {warnings}.")
        if data.learned_regions:
            say(described(data.learned_regions))
    if report.splits:
        say(f"To be prepared: {report.splits.text()}.")
    copy = None
    if fix:
        with count_cases("Correcting") as progress:
            copy = fix_dataset(report, fix, progress)
        assert data is not None  # else there was nothing to copy
        with count_cases("Checking") as progress:
            report = check_dataset(fix, data.layout, workers, progress, data.ignore)
        for problem in _first_of_each_kind(copy.corrected):
            say(f"corrected {problem.where}: {problem.found}; {problem.remedy}.")
        for problem in _first_of_each_kind(copy.left_out):
            say(f"left out  {problem.where}: {problem.found}.")
        say(
            f"{fix}: {_counted(len(copy.corrected), 'correction')}, {len(copy.left_out)} left "
            f"out, {_counted(len(report.errors), 'error')} and "
            f"{_counted(len(report.warnings), 'warning')} remain."
        )
    if json:
        content = report.as_json()
        if copy:
            content["corrected"] = [problem.text for problem in copy.corrected]
            content["left_out"] = [problem.text for problem in copy.left_out]
        write_json(content, json)
    if not report.errors:
        option = "" if ignore is None else f" --ignore {ignore}"
        say(f"Next: transunet train {quote(str(fix or dataset))} -o RUN{option}")
    raise typer.Exit(1 if report.errors else 0)


def _first_of_each_kind(problems: "Sequence[Problem]") -> "Iterator[Problem]":
    """Yield the first ones of every kind, then say how many more there are."""
    counts: Counter[tuple[str, str]] = Counter()
    for problem in problems:
        counts[problem.severity, problem.kind] += 1
        if counts[problem.severity, problem.kind] <= _SHOWN:
            yield problem
    for (_, kind), count in counts.items():
        if count > _SHOWN:
            say(f"        {count - _SHOWN} more like these ({kind}); --json FILE has them all.")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

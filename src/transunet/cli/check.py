"""`transunet check`: every problem in a data set, before anything runs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from transunet.cli.options import Ignore

if TYPE_CHECKING:
    from rich.console import Console

    from transunet.data.checks.check import Report
    from transunet.data.checks.fix import Fixed
    from transunet.data.checks.problems import Problem

EXAMPLE = "Example: transunet check Task04_Hippocampus --fix Task04_corrected"

_SHOWN = 10  # problems of a kind; --json has them all


def check(
    dataset: Annotated[Path, typer.Argument(help="The data set's folder.")],
    layout: Annotated[
        str | None, typer.Option(help="The data set's layout, if not recognised.")
    ] = None,
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

    console = Console(soft_wrap=True, highlight=False)
    report = _checked(dataset, layout, workers, ignore)
    _show_problems(console, report)
    fixed = _fixed(report, fix) if fix else None
    if fixed:
        report = _show_copy(console, fixed, report, workers)
    if json:
        _write_json(json, report, fixed)
    if not report.errors:
        option = "" if ignore is None else f" --ignore {ignore}"
        folder = quote(str(fixed.folder if fixed else dataset))
        console.print(f"Next: transunet train {folder} -o RUN{option}", markup=False)
    raise typer.Exit(1 if report.errors else 0)


def _checked(
    dataset: Path, layout: str | None, workers: int, ignore: int | None = None
) -> "Report":
    from transunet.cli.progress import progress_bar
    from transunet.data.checks.check import check as check_dataset

    with progress_bar("cases") as bar:
        task = bar.add_task("Checking", total=None)

        def progress(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total)

        return check_dataset(dataset, layout, workers, progress, ignore)


def _fixed(report: "Report", out: Path) -> "Fixed":
    from transunet.cli.progress import progress_bar
    from transunet.data.checks.fix import fix as fix_dataset

    with progress_bar("cases") as bar:
        task = bar.add_task("Correcting", total=None)

        def progress(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total)

        return fix_dataset(report, out, progress)


def _show_problems(console: "Console", report: "Report") -> None:
    _show(console, report.problems)
    if report.dataset is None:
        return
    data = report.dataset
    console.print(
        f"{data.name}: {len(data.cases)} cases in the layout {data.layout}, "
        f"{_counted(len(report.errors), 'error')}, {_counted(len(report.warnings), 'warning')}.",
        markup=False,
    )
    if report.splits:
        console.print(f"To be prepared: {report.splits.text()}.", markup=False)


def _show(console: "Console", problems: "Sequence[Problem]") -> None:
    from transunet.cli.hanging import hanging

    for problem in _few(console, problems):
        style = "bold red" if problem.severity == "error" else "yellow"
        console.print(f"{problem.severity:<8}", style=style, end="")
        console.print(hanging(console, f"{problem.where}: {problem.found}.", 8), markup=False)
        remedy = hanging(console, f"{problem.remedy}.", 8)
        console.print(f"        {remedy}", style="dim", markup=False)


def _few(console: "Console", problems: "Sequence[Problem]") -> "Iterator[Problem]":
    """Yield the first of every kind, then say how many more there are."""
    seen: Counter[tuple[str, str]] = Counter()
    for problem in problems:
        key = (problem.severity, problem.kind)
        seen[key] += 1
        if seen[key] <= _SHOWN:
            yield problem
    for (_, kind), count in seen.items():
        if count > _SHOWN:
            console.print(
                f"        {count - _SHOWN} more like these ({kind}); --json FILE has them all.",
                markup=False,
            )


def _show_copy(console: "Console", fixed: "Fixed", original: "Report", workers: int) -> "Report":
    """Say what became of the copy, and return what is still wrong with it."""
    for problem in _few(console, fixed.corrected):
        console.print(
            f"corrected {problem.where}: {problem.found}; {problem.remedy}.", markup=False
        )
    for problem in _few(console, fixed.left_out):
        console.print(f"left out  {problem.where}: {problem.found}.", markup=False)
    layout = original.dataset.layout if original.dataset else None
    ignore = original.dataset.ignore if original.dataset else None
    report = _checked(fixed.folder, layout, workers, ignore)
    console.print(
        f"{fixed.folder}: {_counted(len(fixed.corrected), 'correction')}, {len(fixed.left_out)} "
        f"left "
        f"out, {_counted(len(report.errors), 'error')} and "
        f"{_counted(len(report.warnings), 'warning')} remain.",
        markup=False,
    )
    return report


def _write_json(path: Path, report: "Report", fixed: "Fixed | None") -> None:
    import json

    from transunet.files import atomic_path

    content = report.as_json()
    if fixed:
        content["corrected"] = [problem.text for problem in fixed.corrected]
        content["left_out"] = [problem.text for problem in fixed.left_out]
    with atomic_path(path) as scratch:
        scratch.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

"""`transunet check`: every problem in a data set, before anything runs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from transunet.cli.notes import hanging, say, showing_notes
from transunet.cli.options import Ignore, Layout
from transunet.data.text import counted
from transunet.errors import ConfigError

if TYPE_CHECKING:
    from transunet.data.checks.problems import Problem

EXAMPLE = (
    "Example: transunet check Task04_Hippocampus --fix Task04_corrected    "
    "(which references look wrong: transunet check Task04_Hippocampus --suspect RUN -o suspects)"
)

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
    suspect: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Instead, rank the references by how much networks that never saw them "
            "contradict: a cross-validation, a run with held-out cases, or a folder of such label "
            "maps.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Of --suspect: a folder for the whole list and the pictures."
        ),
    ] = None,
    worst: Annotated[
        int, typer.Option(min=1, help="Of --suspect: how many are shown, and drawn.")
    ] = 10,
) -> None:
    """List every problem of a data set with its file and its remedy.

    Ends with 1 if there are errors (with --fix: if the copy still has some), with 0 if there are
    only warnings. Preparing and training refuse the errors in the same words.
    """
    if suspect:
        _check_references(dataset, suspect, layout, ignore, workers, out, worst)
        return
    if out:
        raise ConfigError("-o is for --suspect. A corrected copy is written by --fix OUT.")
    from transunet.cli.progress import count_cases
    from transunet.data.checks.check import check as check_dataset
    from transunet.data.checks.corrections import check_copy_folder
    from transunet.data.checks.corrections import fix as fix_dataset
    from transunet.data.regions import described
    from transunet.files import write_json

    if fix:
        check_copy_folder(dataset, fix)  # rather than after every case was read
    if json and json.is_dir():
        raise ConfigError(f"--json {json} is a folder. Give a file: {json / 'check.json'}")
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
        errors = counted(len(report.errors), "error")
        warnings = counted(len(report.warnings), "warning")
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
            f"{fix}: {counted(len(copy.corrected), 'correction')}, {len(copy.left_out)} left "
            f"out, {counted(len(report.errors), 'error')} and "
            f"{counted(len(report.warnings), 'warning')} remain."
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


def _check_references(
    dataset: Path,
    suspect: Path,
    layout: str | None,
    ignore: int | None,
    workers: int,
    out: Path | None,
    worst: int,
) -> None:
    """Print the worst references first, and write all of them and pictures to `out`."""
    from transunet.cli.progress import count_cases
    from transunet.evaluation.evaluate import EvaluationRequest, evaluate
    from transunet.evaluation.structure_names import networks_of
    from transunet.evaluation.suspects import (
        rank_suspects,
        reasons,
        worst_of_each_case,
        write_suspects,
    )
    from transunet.files import writable_folder
    from transunet.optional import require
    from transunet.training.chosen_epoch import chosen_epoch

    if not suspect.exists():
        raise ConfigError(f"There is nothing at --suspect {suspect}. Check the path.")
    if out:
        require("matplotlib", "train")
        writable_folder(next(path for path in (out, *out.parents) if path.exists()))
    request = EvaluationRequest(dataset, layout=layout, ignore=ignore, workers=workers, subset=True)
    maps = suspect
    if (suspect / "run.json").is_file():
        from transunet.training.held_out_maps import held_out_maps
        from transunet.training.runs import Run

        with showing_notes(), count_cases("Predicting held-out cases", at_once=False) as progress:
            maps = held_out_maps(Run.reopen(suspect), progress=progress)
    with showing_notes(), count_cases("Comparing") as progress:
        result = evaluate(maps, request, progress)
    cases = [case.name for case in result.evaluation.cases]
    for network, own in networks_of(maps, cases).items():
        if (chosen := chosen_epoch(network, own)) and chosen.trained_on:
            say(
                f"Warning: {network} was trained on {len(chosen.trained_on)} of the {len(cases)} "
                "cases: what is wrong in these it may have learned. Predict each case by a network "
                "that did not see it: transunet train DATASET -o RUN --folds 5",
                "yellow",
            )
    suspects = rank_suspects(result)
    told = reasons(result, worst_of_each_case(suspects)[:worst])
    table = Table(title=f"The {len(told)} most suspect of {len(cases)} references, worst structure")
    for title in ("", "case", "structure", "Dice (usual)", "the reference"):
        table.add_column(title, overflow="fold")
    for number, (each, reason) in enumerate(told.items(), start=1):
        name = Text(each.case), Text(each.structure.name)
        dice = f"{each.dice:.2f} ({each.usual_dice:.2f})"
        table.add_row(str(number), *name, dice, Text(reason))
    say(table)
    if out:
        say(f"Written: {', '.join(map(str, write_suspects(result, suspects, told, out)))}")
    else:
        say("All of them, with pictures of the worst: -o FOLDER")


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

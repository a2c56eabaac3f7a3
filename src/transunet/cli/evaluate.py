"""`transunet evaluate`: predictions against references, or two predictions against each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from transunet.cli.notes import say, showing_notes

if TYPE_CHECKING:
    from transunet.evaluation.audit import ChosenEpoch
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
    groups: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also tell the figures group by group: CSV or TSV, the case first, then one "
            "column per grouping (age, sex, scanner, site); BIDS' participants.tsv will do.",
        ),
    ] = None,
    audit: Annotated[
        bool,
        typer.Option(
            "--audit",
            help="Score by three conventions (the authors', ours, nnU-Net v2's), and say what of a "
            "mean comes from which rule.",
        ),
    ] = False,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Of --audit: the training run of the network, where its log does not lie beside "
            "the bundle that made the predictions.",
        ),
    ] = None,
) -> None:
    """Measure Dice, IoU, HD95, ASSD, NSD and volumes in millimetres, and say how sure they are."""
    from transunet.cli.progress import count_cases
    from transunet.errors import ConfigError
    from transunet.evaluation import report, table
    from transunet.evaluation.evaluate import EvaluationRequest, write_report
    from transunet.evaluation.evaluate import audit as audit_again
    from transunet.evaluation.evaluate import evaluate as measure
    from transunet.evaluation.expectations import judge_expectations
    from transunet.evaluation.groups import group_evaluation, read_group_table

    if len(paths) not in (2, 3):
        raise ConfigError(
            "Give a prediction and a reference, or two predictions and a reference (paths given: "
            f"{len(paths)})."
        )
    if audit and (len(paths) == 3 or convention == "official"):
        raise ConfigError(
            "--audit is of one set of predictions, and shows the official convention beside ours. "
            "Give one prediction and the reference, without --convention."
        )
    if groups and len(paths) == 3:
        raise ConfigError("--groups is of one set of predictions. Give one, and the reference.")
    if run and not audit:
        raise ConfigError("--run is for --audit. Give both, or neither.")
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
    with showing_notes():
        if len(paths) == 3:
            print_comparison(paths[0], paths[1], request, out=out, json=json)
            return
        _check_outputs(out, json)
        # What is wrong with them is told before the work.
        group_table = read_group_table(groups) if groups else None
        if run:
            _chosen_epochs(paths[0], run, [])
        with count_cases("Measuring") as progress:
            result = measure(paths[0], request, progress)
        evaluation = result.evaluation
        for cases in table.cases_tables(evaluation):
            say(cases)
        say(table.summary_table(evaluation))
        _print_notes(evaluation.policy, evaluation)
        grouped = group_evaluation(evaluation, group_table) if group_table else None
        if grouped:
            say(table.groups_table(grouped, evaluation))
            for sentence in grouped.sentences:
                say(sentence)
        judged = judge_expectations(evaluation)
        for sentence in judged.sentences if judged else ():
            say(sentence)
        audited = None
        if audit:
            chosen = _chosen_epochs(paths[0], run, [case.name for case in evaluation.cases])
            with count_cases("Auditing") as progress:
                audited = audit_again(result, chosen, workers, progress)
            say(table.audit_table(audited))
            for sentence in audited.sentences:
                say(sentence)
        if out:
            written = write_report(result, out, pictures, audited, grouped, judged)
            say(f"Written: {', '.join(map(str, written))}")
        if json:
            report.write_json(report.to_json(evaluation, audited, grouped, judged), json)
        say(table.closing_line(evaluation))


def print_comparison(
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
    from transunet.cli.progress import count_cases
    from transunet.evaluation import report, table
    from transunet.evaluation.comparison import TEST
    from transunet.evaluation.evaluate import compare, write_comparison

    _check_outputs(out, json)
    with count_cases("Measuring") as progress:
        compared = compare(first, second, request, progress)
    for metric in compared.metrics:
        if metric.field in ("dice", "hd95"):  # the files hold the others
            say(table.comparison_table(compared, metric))
    _print_notes(f"{TEST} {compared.first.policy}", compared.first)
    if out:
        say(f"Written: {', '.join(map(str, write_comparison(compared, out)))}")
    if json:
        report.write_json(report.comparison_to_json(compared), json)
    for side, evaluation in (("A", compared.first), ("B", compared.second)):
        say(f"{side} ({evaluation.predictions}): {table.closing_line(evaluation)}")


def _chosen_epochs(
    predictions: Path, run: Path | None, cases: Sequence[str]
) -> "list[ChosenEpoch]":
    """How the networks that made the label maps were chosen, as far as a log tells it."""
    from transunet.errors import ConfigError
    from transunet.evaluation.structure_names import networks_of
    from transunet.training.chosen_epoch import chosen_epoch

    networks = {run: list(cases)} if run else networks_of(predictions, cases)
    chosen = [each for network, own in networks.items() if (each := chosen_epoch(network, own))]
    if run and not chosen:
        raise ConfigError(
            f"--run {run}: no validation is told by a log.jsonl there. Give the folder of a "
            "training run (of a cross-validation, that of a fold), or its best or last."
        )
    return chosen


def _check_outputs(out: Path | None, json: Path | None) -> None:
    """Find out before the work whether its result can be written, and make nothing yet."""
    from transunet.errors import ConfigError
    from transunet.files import writable_folder

    for folder in (out, json.parent if json else None):
        if folder:
            writable_folder(next(path for path in (folder, *folder.parents) if path.exists()))
    if json and json.is_dir():
        raise ConfigError(f"--json {json} is a folder; give the name of a file.")


def _print_notes(policy: str, evaluation: "Evaluation") -> None:
    say(policy, "dim")
    for note in evaluation.notes:
        say(note, "yellow")
    if evaluation.left_out:
        count = len(evaluation.left_out)
        say(f"References without a prediction, left out as asked: {count}.", "dim")

"""From paths to an evaluation, and from an evaluation to a folder of reports."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transunet.data.formats import warn_of_contradictions
from transunet.data.processes import Progress
from transunet.errors import ConfigError
from transunet.evaluation import report
from transunet.evaluation.audit import Audit, ChosenEpoch, audit_of
from transunet.evaluation.comparison import PairedComparison
from transunet.evaluation.expectations import JudgedExpectations
from transunet.evaluation.groups import GroupedEvaluation
from transunet.evaluation.measure import Settings, gather, measure_all
from transunet.evaluation.metrics import Convention
from transunet.evaluation.pages import comparison_page, report_page
from transunet.evaluation.pairs import Pair, References, match, references_in
from transunet.evaluation.pictures import CasePicture, case_picture
from transunet.evaluation.records import CaseRecord, Evaluation, complete
from transunet.evaluation.structure_names import number_alike
from transunet.files import write_text
from transunet.optional import require

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationRequest:
    """What is evaluated and how: everything but the predictions."""

    references: Path
    """A label map, a folder of them, or a data set."""
    images: Path | None = None
    labels: Path | None = None
    """A bundle, data set or JSON file that names the labels: those of the references, or, where
    these have names already, those of the predictions."""
    convention: Convention = "honest"
    tolerance_mm: float = 2.0
    layout: str | None = None
    """How the data set is laid out; None recognises it."""
    split: str | None = None
    """Only the data set's cases of this split, such as "test"."""
    subset: bool = False
    """Whether references may lack a prediction, and classes their counterpart."""
    ignore: int | None = None
    """The value in the references of voxels that nobody labelled; a data set may know its own."""
    workers: int = 1


@dataclass(frozen=True)
class EvaluationResult:
    """An evaluation and the files that it was made from."""

    evaluation: Evaluation
    pairs: tuple[Pair, ...]
    settings: Settings


def evaluate(
    predictions: Path, request: EvaluationRequest, progress: Progress | None = None
) -> EvaluationResult:
    """Measure predictions against references.

    Args:
        predictions: a label map or a folder of them.
        request: the references and how to measure.
        progress: called after each case.

    Raises:
        ConfigError: for a path that does not exist, or a setting that cannot work.
        DataError: for a case without its counterpart, or a file that is damaged or no label map.
        GeometryError: for a prediction on another grid than its reference.
    """
    return _evaluate(predictions, _references(request), request, progress)


def compare(
    first: Path, second: Path, request: EvaluationRequest, progress: Progress | None = None
) -> PairedComparison:
    """Measure two predictions of the same cases, for a paired comparison.

    Arguments and errors are those of `evaluate`, for A and for B; also:

    Raises:
        DataError: when the two hold different cases.
    """
    references = _references(request)
    sides = []
    for half, predictions in enumerate((first, second)):

        def of_both(done: int, total: int, case: str, half: int = half) -> None:
            if progress:
                progress(half * total + done, 2 * total, case)

        sides.append(_evaluate(predictions, references, request, of_both).evaluation)
    # Without names, A may hold labels that B has not: both get the union, and all notes.
    union = tuple(sorted({structure for side in sides for structure in side.structures}))
    notes = tuple(dict.fromkeys(note for side in sides for note in side.notes))
    return PairedComparison(*(side.with_structures(union, notes) for side in sides))


def audit(
    result: EvaluationResult,
    chosen: Sequence[ChosenEpoch] = (),
    workers: int = 1,
    progress: Progress | None = None,
) -> Audit:
    """Measure once more by the authors' convention, and say what makes the difference.

    Args:
        result: from `evaluate`, by the convention `honest`.
        chosen: how the networks that made the label maps were chosen.
        workers: processes that measure cases.
        progress: called after each case.
    """
    settings = replace(result.settings, convention="official")
    records = measure_all(result.pairs, settings, workers, progress)
    ours = result.evaluation
    authors = replace(
        ours,
        convention=settings.convention,
        cases=complete(records, ours.structures, settings.convention),
    )
    return audit_of(ours, authors, chosen)


def write_report(
    result: EvaluationResult,
    folder: Path,
    pictures: int = 12,
    audited: Audit | None = None,
    grouped: GroupedEvaluation | None = None,
    judged: JudgedExpectations | None = None,
) -> list[Path]:
    """Write metrics.csv, metrics.json and report.html.

    Args:
        result: from `evaluate`.
        folder: made where it is missing.
        pictures: how many of the worst cases are shown one by one.
        audited: from `audit`, where that is told too.
        grouped: from `groups.group_evaluation`, likewise.
        judged: from `expectations.judge_expectations`, likewise.

    Raises:
        ConfigError: when the folder cannot be written to.
    """
    evaluation = result.evaluation
    paths = [folder / name for name in ("report.html", "metrics.csv", "metrics.json")]
    worst: dict[str, CasePicture | None] = dict.fromkeys(
        case.name for case, _ in evaluation.ranked()[:pictures]
    )
    no_pictures = ""
    try:
        if worst:
            require("matplotlib", "train")
    except ConfigError as error:
        no_pictures = f"There are no pictures. {error}"
        _LOGGER.warning("%s: %s", paths[0], no_pictures)
    for pair in result.pairs if not no_pictures else ():
        if pair.name in worst:
            worst[pair.name] = case_picture(pair, result.settings, evaluation.structures)
    more = audited, grouped, judged
    write_text(report_page(evaluation, worst, no_pictures, *more), paths[0])
    report.write_csv(evaluation, paths[1], judged)
    report.write_json(report.to_json(evaluation, *more), paths[2])
    return paths


def write_comparison(compared: PairedComparison, folder: Path) -> list[Path]:
    """Write comparison.html, comparison.csv and comparison.json.

    Raises:
        ConfigError: when the folder cannot be written to.
    """
    paths = [folder / f"comparison.{suffix}" for suffix in ("html", "csv", "json")]
    write_text(comparison_page(compared), paths[0])
    report.write_comparison_csv(compared, paths[1])
    report.write_json(report.comparison_to_json(compared), paths[2])
    return paths


def _references(request: EvaluationRequest) -> References:
    references = references_in(request.references, request.layout, request.split, request.ignore)
    warn_of_contradictions(references.labels.values())
    return references


def _evaluate(
    predictions: Path,
    references: References,
    request: EvaluationRequest,
    progress: Progress | None,
) -> EvaluationResult:
    pairs, left_out = match(predictions, references, request.images, request.subset)
    warn_of_contradictions(pair.prediction for pair in pairs)
    numbered = number_alike(pairs, predictions, references, request.labels, request.subset)
    settings = Settings(
        numbered.structures,
        request.convention,
        request.tolerance_mm,
        references.dataset,
        numbered.ignore if request.ignore is None else request.ignore,
    )
    records = measure_all(numbered.pairs, settings, request.workers, progress)
    if settings.structures is None and _black_and_white(records):
        settings = replace(settings, white=True)
        records = measure_all(numbered.pairs, settings, request.workers, progress)
    notes = list(numbered.notes)
    white = [record.white for record in records if record.white]
    if white:
        notes.append(
            f"In {len(white)} references 255 is read as class 1: they are black-and-white masks."
        )
    if soft := white.count("soft"):
        notes.append(
            f"The edges of {soft} of them are soft: more than half of 255 is read as class 1."
        )
    present = frozenset[int]().union(*(record.predicted | record.labelled for record in records))
    absent = [s.name for s in settings.structures or () if not present & {*s.values}]
    if absent:
        notes.append(f"No prediction and no reference holds {', '.join(absent)}.")
    for note in settings.dataset.notes if settings.dataset else ():
        if note.kind == "255-label":
            notes.append(f"{note.found[0].upper()}{note.found[1:]}. {note.remedy}.")
    ignore = settings.dataset.ignore if settings.dataset else settings.ignore
    if ignore is not None:
        notes.append(f"Voxels that hold {ignore} in the reference count in neither map.")
    names = str(predictions), str(references.source)
    evaluation = gather(records, numbered.pairs, settings, *names, left_out, tuple(notes))
    return EvaluationResult(evaluation, tuple(numbered.pairs), settings)


def _black_and_white(records: Sequence[CaseRecord]) -> bool:
    """Whether the predictions hold 0 and 1, and the references 0 and 255, or grey close to them."""
    predicted = frozenset[int]().union(*(record.predicted for record in records))
    labelled = [record.labelled - {0} for record in records]
    white = [
        values == {255} or (len(values) > 2 and min(values) < 128 <= sorted(values)[-2])
        for values in labelled
    ]
    masks = all(is_white or values <= {1} for is_white, values in zip(white, labelled, strict=True))
    return any(white) and masks and 1 in predicted and predicted <= {0, 1}

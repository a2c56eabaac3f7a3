"""From paths to an evaluation, and from an evaluation to a folder of reports."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from transunet.data.formats import warn_of_contradictions
from transunet.errors import ConfigError
from transunet.evaluation import comparison, report
from transunet.evaluation.comparison import Comparison
from transunet.evaluation.measure import Settings, gather, measure_all
from transunet.evaluation.metrics import Convention
from transunet.evaluation.numbering import count_alike
from transunet.evaluation.pages import comparison_page, report_page
from transunet.evaluation.pairs import Pair, References, match, references_in
from transunet.evaluation.pictures import CasePicture, case_picture
from transunet.evaluation.records import CaseRecord, Evaluation
from transunet.files import atomic_path
from transunet.optional import require

_LOGGER = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Told after each case: how many are done, and of how many."""


@dataclass(frozen=True)
class Question:
    """What an evaluation is asked: everything but the predictions."""

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
class Answer:
    """An evaluation and the files that it was made from."""

    evaluation: Evaluation
    pairs: tuple[Pair, ...]
    settings: Settings


def evaluate(predictions: Path, question: Question, progress: Progress | None = None) -> Answer:
    """Measure predictions against references.

    Args:
        predictions: a label map or a folder of them.
        question: the references and how to measure.
        progress: called after each case.

    Raises:
        ConfigError: for a path that does not exist, or a setting that cannot work.
        DataError: for a case without its counterpart, or a file that is damaged or no label map.
        GeometryError: for a prediction on another grid than its reference.
    """
    references = _references(question)
    warn_of_contradictions(references.labels.values())
    return _evaluate(predictions, references, question, progress or _silent)


def compare(
    first: Path, second: Path, question: Question, progress: Progress | None = None
) -> Comparison:
    """Measure two predictions of the same cases, for a paired comparison.

    Raises:
        As `evaluate`; DataError also when the two hold different cases.
    """
    references = _references(question)
    warn_of_contradictions(references.labels.values())
    tell = progress or _silent
    answers = []
    for index, predictions in enumerate((first, second)):
        answers.append(_evaluate(predictions, references, question, partial(_half, tell, index)))
    return Comparison(*_same_structures(answers))


def write_report(answer: Answer, folder: Path, pictures: int = 12) -> list[Path]:
    """Write metrics.csv, metrics.json and report.html.

    Args:
        answer: from `evaluate`.
        folder: made where it is missing.
        pictures: how many of the worst cases are shown with a picture.

    Raises:
        ConfigError: when the folder cannot be written to.
    """
    evaluation = answer.evaluation
    paths = [folder / name for name in ("report.html", "metrics.csv", "metrics.json")]
    worst: dict[str, CasePicture | None] = dict.fromkeys(
        case.name for case, _ in evaluation.ranked()[:pictures]
    )
    no_pictures = ""
    try:
        require("matplotlib", "train")
    except ConfigError as error:
        no_pictures = f"There are no pictures. {error}"
        if worst:
            _LOGGER.warning("%s: %s", paths[0], no_pictures)
    for pair in answer.pairs if not no_pictures else ():
        if pair.name in worst:
            worst[pair.name] = case_picture(pair, answer.settings, evaluation.structures)
    _write_text(report_page(evaluation, worst, no_pictures), paths[0])
    report.write_csv(evaluation, paths[1])
    report.write_json(report.to_json(evaluation), paths[2])
    return paths


def write_comparison(found: Comparison, folder: Path) -> list[Path]:
    """Write comparison.html, comparison.csv and comparison.json.

    Raises:
        ConfigError: when the folder cannot be written to.
    """
    paths = [folder / f"comparison.{suffix}" for suffix in ("html", "csv", "json")]
    _write_text(comparison_page(found), paths[0])
    comparison.write_csv(found, paths[1])
    report.write_json(comparison.to_json(found), paths[2])
    return paths


def _references(question: Question) -> References:
    return references_in(question.references, question.layout, question.split, question.ignore)


def _evaluate(
    predictions: Path, references: References, question: Question, progress: Progress
) -> Answer:
    pairs, without = match(predictions, references, question.images, question.subset)
    warn_of_contradictions(pair.prediction for pair in pairs)
    alike = count_alike(pairs, predictions, references, question.labels, question.subset)
    settings = Settings(
        alike.structures,
        question.convention,
        question.tolerance_mm,
        references.dataset,
        alike.ignore if question.ignore is None else question.ignore,
    )
    records = _measured(alike.pairs, settings, question, progress)
    if settings.structures is None and _black_and_white(records):
        settings = replace(settings, white=True)
        records = _measured(alike.pairs, settings, question, progress)
    source = str(references.source)
    notes = (*alike.notes, *_notes(settings, records))
    evaluation = gather(records, alike.pairs, settings, str(predictions), source, without, notes)
    return Answer(evaluation, tuple(alike.pairs), settings)


def _measured(
    pairs: Sequence[Pair], settings: Settings, question: Question, progress: Progress
) -> list[CaseRecord]:
    records = []
    for record in measure_all(pairs, settings, question.workers):
        records.append(record)
        progress(len(records), len(pairs))
    return records


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


def _notes(settings: Settings, records: Sequence[CaseRecord]) -> Iterator[str]:
    """What was done to label values before they were compared."""
    white = [record.white for record in records if record.white]
    if white:
        yield f"In {len(white)} references 255 is read as class 1: they are black-and-white masks."
    if soft := white.count("soft"):
        yield f"The edges of {soft} of them are soft: more than half of 255 is read as class 1."
    held = frozenset[int]().union(*(record.predicted | record.labelled for record in records))
    absent = [one.name for one in settings.structures or () if not held & {*one.values}]
    if absent:
        yield f"No prediction and no reference holds {', '.join(absent)}."
    for note in settings.dataset.notes if settings.dataset else ():
        if note.kind == "255-label":
            yield f"{note.found[0].upper()}{note.found[1:]}. {note.remedy}."
    ignore = settings.dataset.ignore if settings.dataset else settings.ignore
    if ignore is not None:
        yield f"Voxels that hold {ignore} in the reference count in neither map."


def _same_structures(answers: Iterable[Answer]) -> list[Evaluation]:
    """Without names, A may hold labels that B has not: both get the union, and all notes."""
    first, second = (answer.evaluation for answer in answers)
    union = tuple(sorted({*first.structures, *second.structures}))
    notes = tuple(dict.fromkeys((*first.notes, *second.notes)))
    return [replace(one.with_structures(union), notes=notes) for one in (first, second)]


def _write_text(text: str, path: Path) -> None:
    with atomic_path(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def _half(progress: Progress, index: int, done: int, total: int) -> None:
    progress(index * total + done, 2 * total)


def _silent(done: int, total: int) -> None:
    pass

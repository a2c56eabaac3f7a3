"""Predictions and references that count their classes alike: by name, where both have names."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transunet.data.classes import MatchedClasses, match_classes
from transunet.errors import DataError
from transunet.evaluation.pairs import Pair, References
from transunet.evaluation.records import Structure, structures_of
from transunet.evaluation.structure_names import LabelNames, names_from, names_of


@dataclass(frozen=True)
class CommonNumbers:
    """Pairs whose label values mean the same, and what that took."""

    pairs: Sequence[Pair]
    structures: tuple[Structure, ...] | None = None
    """What to measure; None where nobody names the references: every label that occurs."""
    ignore: int | None = None
    """The value of voxels that nobody labelled, where the references' description tells it."""
    notes: tuple[str, ...] = ()
    """What every report is to say of it."""


def number_alike(
    pairs: Sequence[Pair],
    predictions: Path,
    references: References,
    labels: Path | None = None,
    subset: bool = False,
) -> CommonNumbers:
    """Find out what the labels of both are called, and let equal names have equal numbers.

    Args:
        pairs: from `pairs.match`.
        predictions: the folder or file that they were found in.
        references: from `pairs.references_in`.
        labels: a file of names, or a bundle's or data set's folder: of the references, or, where
            these have names already, of the predictions.
        subset: leave out classes that only one side has.

    Raises:
        ConfigError: when there is no such file of names.
        DataError: when it is damaged, or a class of one side has no counterpart on the other.
    """
    given = names_from(labels) if labels else None
    of_predictions = [names_of(pair.prediction, predictions) for pair in pairs]
    of_references: list[LabelNames | None]
    if references.dataset is None or references.structures is None:
        of_references = [names_of(pair.reference, references.source) for pair in pairs]
    else:  # a data set's labels are class indices
        dataset = references.dataset
        names = LabelNames(dataset.folder, dataset.labels, references.structures)
        of_references = [names] * len(pairs)
    ignore = next((names.ignore for names in (given, *of_references) if names), None)

    # A description beside a folder of label maps counts where the predictions have names, too.
    loose = all(names is None or names.beside for names in of_references)
    unnamed = not any(of_predictions)
    if loose and unnamed and not all(_same_classes(given, names) for names in of_references):
        of_references = [given for _ in pairs]
    of_predictions = [
        _fitting(own, given, others)
        for own, others in zip(of_predictions, of_references, strict=True)
    ]
    of_references = [names or given for names in of_references]

    notes = list(_notes_on_numbers(of_predictions, of_references))
    reference = _union(of_references)
    if reference is None:
        return CommonNumbers(pairs, ignore=ignore, notes=tuple(notes))
    prediction = _union(of_predictions) or reference
    matched = match_classes(prediction.labels, reference.labels)
    if not (reference.whole or matched.second_only):  # what no reference holds is no less a class
        reference = _union([reference, prediction]) or reference
        matched = match_classes(prediction.labels, reference.labels)
    # Where masks without a description are the references, the predictions' names say more.
    common = prediction if prediction.named and not reference.named else reference
    lost = frozenset[str]()
    absent = not (prediction.whole or matched.first_only)  # no prediction holds them
    if prediction.named and reference.named and not absent:
        lost = _without_counterpart(prediction, reference, matched, subset)
    if not matched.in_order:
        moved = ", ".join(
            f"{prediction.labels[first]} is {first} in the predictions and {second} in the "
            "references"
            for first, second in matched.numbers.items()
            if first != second
        )
        notes.append(f"Classes are matched by name, not by number: {moved}.")
    if lost:
        listed = ", ".join(sorted(lost))
        notes.append(f"Classes that only one side has are left out: {listed}.")
    numbered = [
        replace(
            pair,
            prediction_numbers=_numbers(own, common, lost),
            reference_numbers=_numbers(others, common, lost),
        )
        for pair, own, others in zip(pairs, of_predictions, of_references, strict=True)
    ]
    dropped = {number for number, name in common.labels.items() if name in lost}
    structures = tuple(s for s in common.structures if not dropped & set(s.values))
    return CommonNumbers(numbered, structures, ignore, tuple(notes))


def _fitting(
    own: LabelNames | None, given: LabelNames | None, reference: LabelNames | None
) -> LabelNames | None:
    """What a prediction's labels are called: as its files say, unless only `given` fits."""
    for names in (own, given):
        if _same_classes(names, reference):
            return names
    return own if reference is None else given or own


def _same_classes(names: LabelNames | None, others: LabelNames | None) -> bool:
    """Whether both name the same classes, in whatever order."""
    if names is None or others is None:
        return False
    matched = match_classes(names.labels, others.labels)
    return not matched.first_only and not matched.second_only


def _union(lists: Iterable[LabelNames | None]) -> LabelNames | None:
    """One list of all names; files that count each in its own way get common numbers."""
    union: LabelNames | None = None
    for names in lists:
        if names is None or names == union:
            continue
        if union is None:
            union = names
            continue
        more = match_classes(names.labels, union.labels).first_only
        labels = dict(union.labels)
        for number, name in more.items():
            labels[number if number not in labels else max(labels) + 1] = name
        if more:
            union = replace(union, labels=labels, structures=structures_of(labels))
    return union


def _numbers(own: LabelNames | None, common: LabelNames, lost: frozenset[str]) -> Mapping[int, int]:
    """Label value -> the common number, 0 for what is left out; {} where nothing changes."""
    if own is None:
        return {}
    matched = match_classes(own.labels, common.labels)
    numbers = {
        number: 0 if common.labels.get(other, "") in lost else other
        for number, other in matched.numbers.items()
    }
    numbers |= {number: 0 for number, name in matched.first_only.items() if name in lost}
    return numbers if any(number != other for number, other in numbers.items()) else {}


def _without_counterpart(
    prediction: LabelNames, reference: LabelNames, matched: MatchedClasses, subset: bool
) -> frozenset[str]:
    """The names that only one side has, to be left out.

    Raises:
        DataError: when that was not asked for, or nothing would remain.
    """
    sides = (
        ("predictions", prediction, matched.first_only),
        ("references", reference, matched.second_only),
    )
    lost = [
        f"only the {role} ({names.source}) have {', '.join(only.values())}"
        for role, names, only in sides
        if only
    ]
    if lost and (not subset or len(matched.numbers) == 1):
        raise DataError(
            f"The classes do not match by name: {' and '.join(lost)}. If these are the same "
            "classes otherwise called, give the predictions' names as the references have them: "
            '--labels FILE with {"labels": {"0": "background", "1": ...}}'
            + ("." if subset else "; to measure only the classes that both have: --subset.")
        )
    return frozenset([*matched.first_only.values(), *matched.second_only.values()])


def _notes_on_numbers(
    of_predictions: Sequence[LabelNames | None], of_references: Sequence[LabelNames | None]
) -> Iterable[str]:
    """Say that only one side tells what several classes are called, so that numbers count."""
    sides = {"predictions": of_predictions, "references": of_references}
    named = [
        role
        for role, lists in sides.items()
        if any(names and names.named and len(names.structures) > 1 for names in lists)
    ]
    unnamed = [role for role, lists in sides.items() if not any(lists)]
    if named and unnamed:
        yield (
            f"Only the {named[0]} name their classes: they are compared by number. If the "
            f"{unnamed[0]} number theirs otherwise, give their names: --labels FILE."
        )

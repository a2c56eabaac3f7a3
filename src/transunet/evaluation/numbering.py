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
class Alike:
    """Pairs that count alike, and what that took."""

    pairs: Sequence[Pair]
    structures: tuple[Structure, ...] | None = None
    """What to measure; None where nobody names the references: every label that occurs."""
    ignore: int | None = None
    """The value of voxels that nobody labelled, where the references' description tells it."""
    notes: tuple[str, ...] = ()
    """What every report is to say of it."""


def count_alike(
    pairs: Sequence[Pair],
    predictions: Path,
    references: References,
    labels: Path | None = None,
    subset: bool = False,
) -> Alike:
    """Find out what the labels of both are called, and let equal names have equal numbers.

    Args:
        pairs: from `pairs.match`.
        predictions: where they were found.
        references: where theirs were.
        labels: a file of names, or a bundle's or data set's folder: of the references, or, where
            these have names already, of the predictions.
        subset: leave out classes that only one side has.

    Raises:
        ConfigError: when there is no such file of names.
        DataError: when it is damaged, or a class of one side has no counterpart on the other.
    """
    given = names_from(labels) if labels else None
    ours = [names_of(pair.prediction, predictions) for pair in pairs]
    theirs = _names_of_references(pairs, references)
    ignore = next((names.ignore for names in (given, *theirs) if names), None)
    # A description beside a folder of label maps counts where the predictions have names, too.
    loose = all(names is None or names.beside for names in theirs)
    if loose and not any(ours) and not all(_fits(given, names) for names in theirs):
        theirs = [given for _ in pairs]
    ours = [_fitting(our, given, their) for our, their in zip(ours, theirs, strict=True)]
    theirs = [their or given for their in theirs]
    by_number = tuple(_note_on_numbers(ours, theirs))
    reference = _together(theirs)
    if reference is None:
        return Alike(pairs, ignore=ignore, notes=by_number)
    prediction = _together(ours) or reference
    matched = match_classes(prediction.labels, reference.labels)
    if not (reference.whole or matched.second_only):  # what no reference holds is no less a class
        reference = _together([reference, prediction]) or reference
        matched = match_classes(prediction.labels, reference.labels)
    # Where masks without a description are the references, the predictions' names say more.
    common = prediction if prediction.real and not reference.real else reference
    lost = frozenset[str]()
    absent = not (prediction.whole or matched.first_only)  # no prediction holds them
    if prediction.real and reference.real and not absent:
        lost = _without_counterpart(prediction, reference, matched, subset)
    alike = [
        replace(
            pair,
            prediction_numbers=_numbers(our, common, lost),
            reference_numbers=_numbers(their, common, lost),
        )
        for pair, our, their in zip(pairs, ours, theirs, strict=True)
    ]
    dropped = {number for number, name in common.labels.items() if name in lost}
    structures = tuple(one for one in common.structures if not dropped & set(one.values))
    notes = (*by_number, *_notes(matched, prediction, lost))
    return Alike(alike, structures, ignore, notes)


def _names_of_references(pairs: Sequence[Pair], references: References) -> list[LabelNames | None]:
    """For each pair what its reference's labels are called; a data set's are class indices."""
    dataset, structures = references.dataset, references.structures
    if dataset is None or structures is None:
        return [names_of(pair.reference, references.source) for pair in pairs]
    return [LabelNames(dataset.folder, dataset.labels, structures)] * len(pairs)


def _fitting(
    told: LabelNames | None, given: LabelNames | None, theirs: LabelNames | None
) -> LabelNames | None:
    """What a prediction's labels are called: as its files say, unless only `given` fits."""
    for names in (told, given):
        if _fits(names, theirs):
            return names
    return told if theirs is None else given or told


def _fits(names: LabelNames | None, others: LabelNames | None) -> bool:
    """Whether both name the same classes, in whatever order."""
    if names is None or others is None:
        return False
    matched = match_classes(names.labels, others.labels)
    return not matched.first_only and not matched.second_only


def _together(names: Iterable[LabelNames | None]) -> LabelNames | None:
    """One list of all names; files that count each in its own way get common numbers."""
    whole: LabelNames | None = None
    for one in names:
        if one is None or one == whole:
            continue
        if whole is None:
            whole = one
            continue
        more = match_classes(one.labels, whole.labels).first_only
        labels = dict(whole.labels)
        for number, name in more.items():
            labels[number if number not in labels else max(labels) + 1] = name
        if more:
            whole = replace(whole, labels=labels, structures=structures_of(labels))
    return whole


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


def _note_on_numbers(
    ours: Sequence[LabelNames | None], theirs: Sequence[LabelNames | None]
) -> Iterable[str]:
    """Say that only one side tells what several classes are called, so that numbers count."""
    sides = {"predictions": ours, "references": theirs}
    named = [
        role
        for role, names in sides.items()
        if any(one and one.real and len(one.structures) > 1 for one in names)
    ]
    unnamed = [role for role, names in sides.items() if not any(names)]
    if named and unnamed:
        yield (
            f"Only the {named[0]} name their classes: they are compared by number. If the "
            f"{unnamed[0]} number theirs otherwise, give their names: --labels FILE."
        )


def _notes(matched: MatchedClasses, prediction: LabelNames, lost: frozenset[str]) -> Iterable[str]:
    if not matched.in_order:
        moved = ", ".join(
            f"{prediction.labels[ours]} is {ours} in the predictions and {theirs} in the references"
            for ours, theirs in matched.numbers.items()
            if ours != theirs
        )
        yield f"Classes are matched by name, not by number: {moved}."
    if lost:
        yield f"Classes that only one side has are left out: {', '.join(sorted(lost))}."

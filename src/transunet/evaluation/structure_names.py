"""What labels are called, and which are the same in predictions and references.

A bundle tells it, a description of a data set, or a label map's own files. Classes of both sides
are matched by name where both have names, and get equal numbers.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any

from transunet.data.classes import MatchedClasses, is_named, match_classes
from transunet.data.formats import FORMATS, dicom, suffix_of
from transunet.data.layouts.description import named_by_regions
from transunet.errors import ConfigError, DataError, TransUNetError
from transunet.evaluation.pairs import Pair, References
from transunet.evaluation.records import Structure, structures_of

_FILES = ("config.json", "dataset.json")
_LABEL_FOLDERS = frozenset({"labelsTr", "labelsTs", "labelsVal"})
"""Folders whose labels the `dataset.json` beside them describes."""


@dataclass(frozen=True)
class LabelNames:
    """Names of label values, and who tells them."""

    source: Path
    labels: Mapping[int, str]
    """Label value -> name; 0 is the background."""
    structures: tuple[Structure, ...]
    """What to measure: the labels, or the regions that they make up."""
    ignore: int | None = None
    """The value of voxels that nobody labelled."""
    whole: bool = True
    """Whether classes are listed that no voxel has; a file's header may list what it holds."""
    beside: bool = False
    """Whether a file beside the label map tells them, rather than itself or its data set."""

    @property
    def named(self) -> bool:
        """Whether there is a name that tells more than a number."""
        return any(is_named(name) for value, name in self.labels.items() if value)

    def with_more(self, others: "LabelNames") -> "LabelNames":
        """Add the classes that only `others` have, whatever numbers they have there."""
        more = match_classes(others.labels, self.labels).first_only
        labels = dict(self.labels)
        for number, name in more.items():
            labels[number if number not in labels else max(labels) + 1] = name
        return replace(self, labels=labels, structures=structures_of(labels)) if more else self


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


def names_from(path: Path) -> LabelNames:
    """Read what the labels mean.

    Known are number -> name (a bundle, Decathlon; a bundle and a prediction list their regions
    beside) and name -> number or numbers (nnU-Net; several numbers make a region, and `ignore` is
    what nobody labelled). The background is 0.

    Args:
        path: a JSON file with the key 'labels', or the folder of a bundle or data set.

    Raises:
        ConfigError: when there is no such file.
        DataError: when it holds no usable labels.
    """
    if path.is_dir():
        files = [path / name for name in _FILES if (path / name).is_file()]
        if not files:
            listed = " nor ".join(_FILES)
            raise ConfigError(f"{path} holds neither {listed}; give the file of labels.")
        path = files[0]
    elif not path.is_file():
        raise ConfigError(f"There are no labels at {path}. Check the path.")
    content = _json_in(path, path.stat().st_mtime_ns)
    labels = content.get("labels") if isinstance(content, dict) else None
    values = _label_values(labels) if isinstance(labels, dict) else []
    ignored = [numbers for name, numbers in values if name == "ignore"]
    regions = [(name, numbers) for name, numbers in values if numbers != (0,) and name != "ignore"]
    if not regions or any(len(numbers) > 1 for numbers in ignored):
        raise DataError(
            f"{path}: expected 'labels' as numbers and names, such as "
            f'{{"0": "background", "1": "liver"}}, found {labels!r:.200}.'
        )
    if all(len(numbers) == 1 for _, numbers in regions):
        names = {numbers[0]: name for name, numbers in regions}
    else:
        names = named_by_regions(dict(regions))
    if learned := content.get("regions"):
        try:
            regions = [(each["name"], tuple(each["members"])) for each in learned]
        except (TypeError, KeyError):
            raise DataError(f"{path}: its 'regions' are damaged: {learned!r:.200}.") from None
    return LabelNames(
        path,
        {0: "background", **names},
        tuple(sorted(Structure(numbers, name) for name, numbers in regions)),
        ignored[0][0] if ignored else None,
    )


def names_of(label_map: Path, folder: Path | None = None) -> LabelNames | None:
    """Return what a label map's own files call its labels; None where they tell nothing.

    They are told by its header (3D Slicer's `.seg.nrrd`, a DICOM SEG, a NIfTI of ours or of
    TotalSegmentator), by the `manifest.json` of `transunet predict`, or by a `dataset.json` that
    nnU-Net put beside predictions or a data set has beside its `labelsTr`.

    Args:
        label_map: a file.
        folder: where it was found, if deeper; `predict` keeps folders in its output.
    """
    own = None
    try:
        known = FORMATS.get(suffix_of(label_map) or "", dicom.FORMAT)
        if names := known.label_names(label_map):
            names = {**names, 0: "background"}
            own = LabelNames(label_map, names, structures_of(names), whole=False)
        file = _description_of(label_map, (folder or label_map.parent).parent)
        told = replace(names_from(file), beside=True) if file else None
    except TransUNetError:
        return own  # damaged, which reading tells, or somebody else's
    # Of two that say the same, the one beside tells regions, too.
    return own if own and not (told and told.labels == own.labels) else told


def networks_of(predictions: Path, cases: Sequence[str]) -> dict[Path, list[str]]:
    """Return the bundles that made label maps, and which cases of `cases` each made.

    The `manifest.json` of `transunet predict` tells it, or that of the cases that a run held out;
    of others' label maps nothing is known.
    """
    folder = predictions if predictions.is_dir() else predictions.parent
    file = folder / "manifest.json"
    match _json_in(file, file.stat().st_mtime_ns) if file.is_file() else None:
        case {"bundle": {"sources": [*sources]}}:
            return {Path(source): list(cases) for source in sources}
        case {"cases": {**told}}:
            made: dict[Path, list[str]] = {}
            for name in cases:
                match told.get(name):
                    case {"network": str(network)}:
                        made.setdefault(folder / network, []).append(name)
            return made
    return {}


def _description_of(label_map: Path, top: Path) -> Path | None:
    """The file that names a label map's labels, not above `top`."""
    here = label_map.parent
    for folder in (here, *(above for above in here.parents if above.is_relative_to(top))):
        manifest = folder / "manifest.json"
        if not manifest.is_file():
            continue
        content = _json_in(manifest, manifest.stat().st_mtime_ns)
        cases = content.get("cases", {}).values() if isinstance(content, dict) else ()
        name = label_map.relative_to(folder).as_posix()
        # Above the label map's folder it is `predict`'s own only where it lists the label map.
        if folder == here or any(name in case.get("outputs", ()) for case in cases):
            return manifest
    folders = [here, here.parent] if here.name in _LABEL_FOLDERS else [here]
    files = (folder / "dataset.json" for folder in folders)
    return next((file for file in files if file.is_file()), None)


@lru_cache(maxsize=16)
def _json_in(file: Path, changed: int) -> Any:
    """The JSON in a file that was `changed` at that time; each label map beside it asks again."""
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"Cannot read {file}: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not valid JSON ({error}). Give the file of labels.") from None


def _label_values(labels: Mapping[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    """Names and their label values; empty where they are no such thing."""
    if all(key.isascii() and key.isdigit() for key in labels):
        return [(str(name), (int(key),)) for key, name in labels.items()]
    lists = [(name, v if isinstance(v, list) else [v]) for name, v in labels.items()]
    values = [value for _, members in lists for value in (members or [None])]
    if not all(type(value) is int and value >= 0 for value in values):
        return []
    return [(name, tuple(sorted(set(members)))) for name, members in lists]


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
    for index, (own, others) in enumerate(zip(of_predictions, of_references, strict=True)):
        # As the prediction's files say, unless only what is given fits.
        if others and not _same_classes(own, others):
            of_predictions[index] = given or own
    of_references = [names or given for names in of_references]

    notes = []
    sides = {"predictions": of_predictions, "references": of_references}
    unnamed_sides = [role for role, lists in sides.items() if not any(lists)]
    for role, lists in sides.items():
        if unnamed_sides and any(n and n.named and len(n.structures) > 1 for n in lists):
            notes.append(
                f"Only the {role} name their classes: they are compared by number. If the "
                f"{unnamed_sides[0]} number theirs otherwise, give their names: --labels FILE."
            )
    reference = _union(of_references)
    if reference is None:
        return CommonNumbers(pairs, ignore=ignore, notes=tuple(notes))
    prediction = _union(of_predictions) or reference
    matched = match_classes(prediction.labels, reference.labels)
    if not (reference.whole or matched.second_only):  # what no reference holds is no less a class
        reference = reference.with_more(prediction)
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


def _same_classes(names: LabelNames | None, others: LabelNames | None) -> bool:
    """Whether both name the same classes, in whatever order."""
    if names is None or others is None:
        return False
    matched = match_classes(names.labels, others.labels)
    return not matched.first_only and not matched.second_only


def _union(lists: Iterable[LabelNames | None]) -> LabelNames | None:
    """One list of all names; files that count each in its own way get common numbers."""
    told = [names for names in lists if names is not None]
    return reduce(LabelNames.with_more, told) if told else None


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

"""nnU-Net v2: `dataset.json` names channels and labels, `CASE_0000.nii.gz` is channel 0."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from transunet.data.cases import Case, DataSet
from transunet.data.checks.problems import Problem
from transunet.data.formats import channel_of, stem_of, suffix_of
from transunet.data.layouts import description, lists

SHAPE = (
    "dataset.json with 'channel_names' and 'labels'; "
    "imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz"
)

# What follows `images` and `labels` in folders' names -> the split that this says.
_PARTS = {"Tr": None, "Va": "validation", "Ts": "test"}

# One file may hold all channels only in formats that know colours.
_COLOUR = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff")


def recognises(folder: Path) -> bool:
    """Whether `folder` holds an nnU-Net v2 description."""
    return {"channel_names", "labels"} <= description.keys_of(folder)


def open(folder: Path) -> DataSet:
    """Find the cases in `imagesTr` and `imagesTs`, or those listed under 'dataset'.

    Raises:
        DataError: when the description is missing or contradicts itself.
    """
    content = description.description_of(folder)
    names = description.section(folder, content, "channel_names", dict)
    channels = description.numbered(folder, names, "channel_names")
    values, regions = _labels(folder, content)
    labels, label_values = description.classes(folder, values)
    ending = _ending(folder, content)
    cases, notes = _cases(folder, content, len(channels), ending)
    index = label_values or {value: value for value in labels}
    return DataSet(
        name=str(content.get("name") or folder.name),
        folder=folder,
        layout="nnunet",
        cases=tuple(cases),
        labels=labels,
        channels=channels,
        label_values=label_values,
        regions={name: tuple(index[v] for v in members) for name, members in regions.items()},
        split_rule=lists.RULE,
        notes=(*notes, *_orphans(folder, cases, ending)),
    )


def without(folder: Path, names: frozenset[str]) -> None:
    """Take cases out of the description in `folder`, a copy."""
    content = description.description_of(folder)
    if isinstance(content.get("dataset"), dict):
        content["dataset"] = {k: v for k, v in content["dataset"].items() if k not in names}
    description.rewrite(folder, content)
    if content.get("training"):
        lists.without(folder, names)
    cases = [case for case in open(folder).cases if case.split in (None, "train")]
    content = description.description_of(folder)
    description.rewrite(folder, {**content, "numTraining": len(cases)})


def _labels(
    folder: Path, content: dict[str, Any]
) -> tuple[dict[int, str], dict[str, tuple[int, ...]]]:
    """Value -> name, and the regions (name -> values) where labels are given as lists."""
    given = description.section(folder, content, "labels", dict)
    if all(key.isdecimal() and isinstance(name, str) for key, name in given.items()):
        given = {name: int(value) for value, name in given.items()}  # Decathlon's way round
    members = {name: _members(folder, name, value) for name, value in given.items()}
    if len(members.get("ignore", (0,))) > 1:
        raise description.wrong(folder, "the label 'ignore' must be one number, not several")
    if all(len(values) == 1 for values in members.values()):
        names = {values[0]: name for name, values in members.items()}
        if len(names) < len(members):
            raise description.wrong(folder, f"two labels have the same value: {given!r}"[:300])
        return names, {}
    regions = {name: values for name, values in members.items() if values != (0,)}
    return named_by_regions(regions), regions


def _members(folder: Path, name: str, value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(type(v) is int and v >= 0 for v in values):
        raise description.wrong(
            folder, f"the label {name!r} must be a number or a list of numbers, found {value!r}"
        )
    return tuple(sorted(set(values)))


def named_by_regions(regions: dict[str, tuple[int, ...]]) -> dict[int, str]:
    """Name each value by the smallest region that holds it.

    The network learns the values, which do not overlap; regions are unions of them.
    """
    names = {0: "background"}
    for value in sorted({v for values in regions.values() for v in values} - {0}):
        holding = [(len(values), name) for name, values in regions.items() if value in values]
        smallest = min(holding)[1]
        names[value] = f"{smallest} ({value})" if smallest in names.values() else smallest
    return names


def _ending(folder: Path, content: dict[str, Any]) -> str:
    """How images end; where the description does not say so, as those that are there do."""
    images = description.on_disk(folder, "imagesTr")
    known = {suffix_of(path) for path in description.listed(images)} - {None}
    if not content.get("file_ending"):
        return known.pop() or "" if len(known) == 1 else ".nii.gz"
    ending = str(content["file_ending"]).lower()
    if known and not description.listed(images, ending):
        others = ", ".join(sorted(filter(None, known)))
        raise description.wrong(
            folder, f"'file_ending' is {ending!r}, but the files in imagesTr end in {others}"
        )
    return ending


def _cases(
    folder: Path, content: dict[str, Any], channels: int, ending: str
) -> tuple[list[Case], list[Problem]]:
    """The cases that are listed, or else those whose files are there; and what is to be noted."""
    files = description.listed(description.on_disk(folder, "imagesTr"), ending)
    labels = {stem_of(path) for path in description.listed(description.on_disk(folder, "labelsTr"))}
    numbered = any(channel_of(stem_of(p)) and stem_of(p) not in labels for p in files)
    if content.get("training") and (_says_more(content) or not numbered):
        cases, notes = lists.listed_cases(folder, content)
        return [_called_as_by_nnunet(case) for case in cases], notes
    training, *others = (
        list(_found_cases(folder, part, channels, ending, numbered)) for part in _PARTS
    )
    notes = description.wrong_count(folder, content, {len(training)})
    if isinstance(content.get("dataset"), dict):
        training = [_listed_case(folder, *item) for item in content["dataset"].items()]
        notes = []
    if any(others):
        training = [replace(case, split="train") for case in training]
    return [*training, *chain(*others)], notes


def _says_more(content: dict[str, Any]) -> bool:
    """Whether the lists say what folders cannot: which cases validate."""
    training = content["training"] if isinstance(content["training"], list) else []
    folds = any(isinstance(item, dict) and "fold" in item for item in training)
    return folds or bool(content.get("validation") or content.get("val"))


def _called_as_by_nnunet(case: Case) -> Case:
    """Call a case that is listed by its first channel's file CASE, not CASE_0000."""
    channel = channel_of(case.name)
    return replace(case, name=channel[0]) if channel and channel[1] == 0 else case


def _listed_case(folder: Path, name: str, entry: Any) -> Case:
    if not isinstance(entry, dict) or not isinstance(entry.get("images"), list):
        raise description.wrong(
            folder, f"'dataset' must give 'images' and 'label' of case {name!r}, found {entry!r}"
        )
    images = tuple(description.inside(folder, image) for image in entry["images"])
    return Case(name, images, description.inside(folder, entry.get("label")))


def _found_cases(
    folder: Path, part: str, channels: int, ending: str, numbered: bool
) -> Iterator[Case]:
    """A case for each name in a folder of images; those for training must have a label."""
    images = description.on_disk(folder, f"images{part}")
    for name, files in _images(images, channels, ending) if numbered else _whole(images, ending):
        label = description.on_disk(folder, f"labels{part}/{name}{ending}")
        there = part == "Tr" or label.is_file()
        yield Case(name, files, label if there else None, split=_PARTS[part])


def _whole(folder: Path, ending: str) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """Case name -> the one file with all of its channels, as Decathlon has them."""
    for path in description.listed(folder, ending):
        yield stem_of(path), (path,)


def _images(folder: Path, channels: int, ending: str) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """Case name -> one file per channel, missing ones too, so that they are reported."""
    numbered = re.compile(rf"(.+)_(\d{{4}}){re.escape(ending)}", re.IGNORECASE)
    matches = (numbered.fullmatch(path.name) for path in description.listed(folder, ending))
    for name in sorted({match[1] for match in matches if match}):
        files = tuple(
            description.on_disk(folder, f"{name}_{index:04d}{ending}") for index in range(channels)
        )
        colour = ending in _COLOUR and not any(path.exists() for path in files[1:])
        yield name, files[:1] if colour else files


def _orphans(folder: Path, cases: list[Case], ending: str) -> list[Problem]:
    used = {path for case in cases for path in (*case.images, case.label) if path}
    images = description.listed(description.on_disk(folder, "imagesTr"), ending)
    labels = description.listed(description.on_disk(folder, "labelsTr"), ending)
    return [
        *description.orphans(images, used, "orphan", "no case has a channel of this name"),
        *description.orphans(labels, used, "orphan", "this label map has no image"),
    ]

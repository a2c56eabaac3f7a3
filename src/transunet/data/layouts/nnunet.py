"""nnU-Net v2: `dataset.json` names channels and labels, `CASE_0000.nii.gz` is channel 0.

And nnU-Net's folds of any data set: `splits_final.json`, which it puts among its prepared data.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from transunet.data.cases import Case, DataSet
from transunet.data.checks.problems import Problem
from transunet.data.formats import channel_of, stem_of, suffix_of
from transunet.data.layouts import decathlon, description

SHAPE = (
    "dataset.json with 'channel_names' and 'labels'; "
    "imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz"
)

# What follows `images` and `labels` in folders' names -> the split that this says.
_PARTS = {"Tr": None, "Va": "validation", "Ts": "test"}

COLOUR = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff")
"""Endings of formats that know colours: there one file may hold all channels."""


def recognises(folder: Path) -> bool:
    """Whether `folder` holds an nnU-Net v2 description."""
    return {"channel_names", "labels"} <= description.keys_of(folder)


def open(folder: Path) -> DataSet:
    """Find the cases in `imagesTr` and `imagesTs`, or those listed under 'dataset'.

    Raises:
        DataError: when the description is missing or contradicts itself.
    """
    content = description.description_of(folder)
    channels = description.channel_names(folder, content, "channel_names")
    labels = description.labels_of(folder, content)
    parts = [description.path_on_disk(folder, part) for part in ("imagesTr", "labelsTr")]
    ending = ending_of(folder, content)
    cases, notes = _cases(folder, content, len(channels), ending)
    images, label_maps = (description.files_in(part, ending) for part in parts)
    return DataSet(
        name=str(content.get("name") or ""),
        cases=tuple(cases),
        labels=labels.names,
        channels=channels,
        label_values=labels.indices,
        regions=labels.regions,
        learned_regions=labels.learned_regions,
        split_rule=decathlon.RULE,
        notes=(
            *notes,
            *description.unused_files(images, cases, "no case has a channel of this name"),
            *description.unused_files(label_maps, cases, "this label map has no image"),
        ),
    )


def ending_of(folder: Path, content: dict[str, Any]) -> str:
    """Return what images and label maps end in: as described, else as those that are there do.

    Raises:
        DataError: where the two contradict each other.
    """
    images = description.path_on_disk(folder, "imagesTr")
    known = {suffix_of(path) for path in description.files_in(images)} - {None}
    ending = str(content.get("file_ending") or "").lower()
    if not ending:
        return known.pop() or "" if len(known) == 1 else ".nii.gz"
    if known and not description.files_in(images, ending):
        others = ", ".join(sorted(filter(None, known)))
        raise description.wrong(
            folder, f"'file_ending' is {ending!r}, but the files in imagesTr end in {others}"
        )
    return ending


def without(folder: Path, names: frozenset[str]) -> None:
    """Take cases out of the description in `folder`, a copy."""
    content = description.description_of(folder)
    if isinstance(content.get("dataset"), dict):
        content["dataset"] = {k: v for k, v in content["dataset"].items() if k not in names}
    description.rewrite(folder, content)
    if content.get("training"):
        decathlon.without(folder, names)
    cases = [case for case in open(folder).cases if case.split in (None, "train")]
    content = description.description_of(folder)
    description.rewrite(folder, {**content, "numTraining": len(cases)})


def with_folds(dataset: DataSet) -> DataSet:
    """Return a data set of any layout with nnU-Net's file of folds that lies with it, if one does.

    That is in its own folder, in `nnUNet_preprocessed/NAME` beside `nnUNet_raw/NAME`, or where
    nnU-Net's variable says.
    """
    folder = dataset.folder.resolve()
    folders = [dataset.folder, folder.parent.parent / "nnUNet_preprocessed" / folder.name]
    if prepared := os.environ.get("nnUNet_preprocessed"):  # noqa: SIM112 - so it is called
        folders.insert(1, Path(prepared) / folder.name)
    for path in (folder / "splits_final.json" for folder in folders):
        if path.is_file():
            return replace(dataset, folds_file=path)
    for path in (folder / "splits_final.pkl" for folder in folders):  # the first nnU-Net's
        if path.is_file():
            found = "folds in a pickle, which is not read since it can run code; others are drawn"
            remedy = (
                'Where you trust it, write it as JSON: python -c "import json, pickle; '
                "json.dump([{k: list(map(str, v)) for k, v in s.items()} for s in "
                f"pickle.load(open('{path}', 'rb'))], open('splits.json', 'w'))\"; and give "
                "--splits splits.json"
            )
            note = Problem("splits-pickle", str(path), found, remedy, "warning")
            return replace(dataset, notes=(*dataset.notes, note))
    return dataset


def _cases(
    folder: Path, content: dict[str, Any], channels: int, ending: str
) -> tuple[list[Case], list[Problem]]:
    """The cases that are listed, or else those whose files are there; and what is to be noted."""
    files = description.files_in(description.path_on_disk(folder, "imagesTr"), ending)
    label_maps = description.files_in(description.path_on_disk(folder, "labelsTr"))
    labels = {stem_of(path) for path in label_maps}
    numbered = any(channel_of(stem_of(p)) and stem_of(p) not in labels for p in files)
    if training := content.get("training"):
        # The lists count where they say what folders cannot: which cases validate.
        items = training if isinstance(training, list) else []
        folds = any(isinstance(item, dict) and "fold" in item for item in items)
        if folds or content.get("validation") or content.get("val") or not numbered:
            cases, notes = decathlon.listed_cases(folder, content)
            # Called by the first channel's file CASE, not CASE_0000.
            of_channel = [channel_of(case.name) for case in cases]
            return [
                replace(case, name=channel[0]) if channel and channel[1] == 0 else case
                for case, channel in zip(cases, of_channel, strict=True)
            ], notes
    training_cases, *others = (
        list(_cases_in(folder, part, channels, ending, numbered)) for part in _PARTS
    )
    notes = description.wrong_count(folder, content, {len(training_cases)})
    if isinstance(content.get("dataset"), dict):
        training_cases, notes = [], []
        for name, entry in content["dataset"].items():
            if not isinstance(entry, dict) or not isinstance(entry.get("images"), list):
                raise description.wrong(
                    folder,
                    f"'dataset' must give 'images' and 'label' of case {name!r}, found {entry!r}",
                )
            images = tuple(description.path_inside(folder, image) for image in entry["images"])
            label = description.path_inside(folder, entry.get("label"))
            training_cases.append(Case(name, images, label))
    if any(others):
        training_cases = [replace(case, split="train") for case in training_cases]
    return [*training_cases, *chain(*others)], notes


def _cases_in(
    folder: Path, part: str, channels: int, ending: str, numbered: bool
) -> Iterator[Case]:
    """A case for each name in a folder of images; those for training must have a label.

    Of images that are `numbered` by channel a case names all, missing ones too, so that they are
    reported; others hold all channels in one file, as Decathlon's do.
    """
    images = description.path_on_disk(folder, f"images{part}")
    files = description.files_in(images, ending)
    cases: list[tuple[str, tuple[Path, ...]]] = [(stem_of(path), (path,)) for path in files]
    if numbered:
        pattern = re.compile(rf"(.+)_(\d{{4}}){re.escape(ending)}", re.IGNORECASE)
        matches = (pattern.fullmatch(path.name) for path in files)
        cases = []
        for name in sorted({match[1] for match in matches if match}):
            of_channels = [f"{name}_{index:04d}{ending}" for index in range(channels)]
            paths = tuple(description.path_on_disk(images, file) for file in of_channels)
            colour = ending in COLOUR and not any(path.exists() for path in paths[1:])
            cases.append((name, paths[:1] if colour else paths))
    for name, paths in cases:
        label = description.path_on_disk(folder, f"labels{part}/{name}{ending}")
        labelled = part == "Tr" or label.is_file()
        yield Case(name, paths, label if labelled else None, split=_PARTS[part])

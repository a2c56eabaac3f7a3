"""Medical Segmentation Decathlon: `dataset.json` lists the files, 4-D ones hold the modalities.

So do the lists of the first nnU-Net and of MONAI, which name no labels and no modality.
"""

import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from transunet.data.cases import Case, DataSet
from transunet.data.checks.problems import Problem
from transunet.data.formats import FORMATS, channel_of, stem_of, suffix_of
from transunet.data.layouts import description, masks, paired_folders

SHAPE = "dataset.json with a list 'training', and 'modality', 'labels'; imagesTr, labelsTr"
RULE = "split of dataset.json"

MISSING_TEST = "missing-test"
"""The kind of note that says that listed test cases are not there."""


def recognises(folder: Path) -> bool:
    """Whether `folder` holds a Decathlon description."""
    return "training" in description.keys_of(folder)


def open(folder: Path) -> DataSet:
    """Find the cases that `dataset.json` lists.

    MONAI's data lists name no labels and no modality: then the files tell.

    Raises:
        DataError: when the description is missing or contradicts itself.
    """
    content = description.description_of(folder)
    cases, notes = listed_cases(folder, content)
    if "labels" in content or not cases:
        labels = description.labels_of(folder, content)
    else:
        labels = masks.meaning(folder, [case.label for case in cases if case.label])
        notes += labels.notes
    intensity_range = None
    if "modality" in content or not cases:
        channels = description.channel_names(folder, content, "modality")
    elif len(cases[0].images) > 1:
        channels = tuple(f"image {index}" for index in range(len(cases[0].images)))
    else:
        channels, intensity_range, notes_on_images = paired_folders.channels_of(folder, cases)
        notes += notes_on_images
    files = [
        path
        for part in ("imagesTr", "labelsTr", "imagesVa", "labelsVa")
        for path in description.files_in(description.path_on_disk(folder, part), tuple(FORMATS))
    ]
    return DataSet(
        name=str(content.get("name") or ""),
        cases=tuple(cases),
        labels=labels.names,
        channels=channels,
        label_values=labels.indices,
        regions=labels.regions,
        learned_regions=labels.learned_regions,
        intensity_range=intensity_range,
        split_rule=RULE,
        notes=(
            *notes,
            *description.unused_files(files, cases, "dataset.json does not list this file"),
        ),
    )


def listed_cases(folder: Path, content: dict[str, Any]) -> tuple[list[Case], list[Problem]]:
    """Return the cases of every list, and what is to be noted: test cases that are not there.

    Raises:
        DataError: for entries that name no files, or files outside of `folder`.
    """
    entries = [(key, case) for key, _, case in _entries(folder, content)]
    keys = defaultdict[Path, list[str]](list)
    for key, case in entries:
        keys[case.images[0]].append(key)
    repeated = [image for image, listing in keys.items() if len(listing) > 1]
    if repeated:
        raise description.wrong(
            folder,
            f"{len(repeated)} images are listed more than once, such as "
            f"{repeated[0].relative_to(folder)} in "
            f"{' and '.join(repr(key) for key in dict.fromkeys(keys[repeated[0]]))}",
        )
    splits = Counter(case.split for _, case in entries)
    tests = []
    if not splits["test"]:  # the images in `imagesTs` that no list names, as the first nnU-Net's
        images_ts = description.path_on_disk(folder, "imagesTs")
        unlisted = description.files_in(images_ts, tuple(FORMATS))
        name_of = {path: (channel_of(stem_of(path)) or [stem_of(path)])[0] for path in unlisted}
        for name in sorted(set(name_of.values())):
            images = tuple(path for path in unlisted if name_of[path] == name)
            path = description.path_on_disk(folder, f"labelsTs/{name}{suffix_of(images[0])}")
            label = description.label_if_needed(path, "test")
            tests.append(Case(name, images, label, split="test"))
    marked = bool(tests) or any(split != "train" for split in splits)
    cases, missing = [], []
    for _, case in entries:
        files: list[Path] = []
        for image in case.images:
            numbered = rf"{re.escape(stem_of(image))}_\d{{4}}"
            beside = [] if image.exists() else description.files_in(image.parent, tuple(FORMATS))
            # CASE_0000, CASE_0001, ... that the first nnU-Net made of it
            made = [p for p in beside if re.fullmatch(numbered, stem_of(p), re.IGNORECASE)]
            files += made or [image]
        images = tuple(files)
        if case.split == "test" and not all(image.exists() for image in images):
            missing.append(images[0])
            continue
        label = case.label and description.label_if_needed(case.label, case.split)
        split = case.split if marked else None
        cases.append(replace(case, images=images, label=label, split=split))
    notes = []
    if missing:
        found = (
            f"{len(missing)} of the {splits['test']} test cases that it lists are not there, such "
            f"as {missing[0].relative_to(folder)}"
        )
        where, remedy = str(folder / description.NAME), "Copy them along to segment them"
        notes.append(Problem(MISSING_TEST, where, found, remedy, "warning"))
    counts = {splits["train"], splits["train"] + splits["validation"]}
    return [*cases, *tests], notes + description.wrong_count(folder, content, counts)


def without(folder: Path, names: frozenset[str]) -> None:
    """Take cases out of the lists of the description in `folder`, a copy."""
    content = description.description_of(folder)
    kept: dict[str, list[Any]] = {
        key: [] for key in description.SPLITS if isinstance(content.get(key), list)
    }
    for key, item, case in _entries(folder, content):
        if case.name not in names:
            kept[key].append(item)
    description.rewrite(folder, {**content, **kept, "numTraining": len(kept["training"])})


def _entries(folder: Path, content: dict[str, Any]) -> list[tuple[str, Any, Case]]:
    """The list, the item and the case of all that is listed, without a Mac's hidden files.

    A case is called by its image's stem, behind its folders where stems are alike.
    """
    for item in description.section(folder, content, "training", list):
        if not isinstance(item, dict) or not {"image", "label"} <= set(item):
            raise description.wrong(
                folder, f"'training' must list objects with 'image' and 'label', found {item!r}"
            )
    entries = []
    for key, split in description.SPLITS.items():
        items = content.get(key)
        for item in items if isinstance(items, list) else []:
            values = item if isinstance(item, dict) else {"image": item}
            image, fold = values.get("image"), values.get("fold")
            if fold is not None and (type(fold) is not int or fold < 0):
                raise description.wrong(folder, f"'fold' must be a number from 0, found {fold!r}")
            paths = image if isinstance(image, list) and image else [image]  # one file per channel
            images = tuple(description.path_inside(folder, path) for path in paths)
            if images[0].name.startswith("."):
                continue
            label = None
            if values.get("label"):
                label = description.path_inside(folder, values["label"])
            else:  # `labelsTs/CASE` for `imagesTs/CASE`, where a list names the image alone
                part = images[0].parent
                parts = ["imagests", "imagesva", *(["imagestr"] if split == "validation" else [])]
                if part.name.lower() in parts:
                    beside = f"labels{part.name[-2:]}/{images[0].name}"
                    path = description.path_on_disk(part.parent, beside)
                    label = path if path.is_file() else None
            case = Case(stem_of(images[0]), images, label, split=split, fold=fold)
            entries.append((key, item, case))
    stems = Counter(case.name for *_, case in entries)
    files = Counter(case.images[0] for *_, case in entries)
    for index, (key, item, case) in enumerate(entries):
        if stems[case.name] > 1 and files[case.images[0]] == 1:
            folders = case.images[0].relative_to(folder).parts[:-1]
            entries[index] = (key, item, replace(case, name="_".join([*folders, case.name])))
    return entries

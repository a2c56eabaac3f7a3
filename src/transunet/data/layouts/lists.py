"""Cases that a `dataset.json` lists: Decathlon's, the first nnU-Net's, and MONAI's data lists."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transunet.data.cases import Case
from transunet.data.checks.problems import Problem
from transunet.data.formats import FORMATS, channel_of, stem_of, suffix_of
from transunet.data.layouts import description

SPLITS = {
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}
"""Key of a list -> the split that it makes."""

RULE = "split of dataset.json"

MISSING_TEST = "missing-test"
"""The kind of note that says that listed test cases are not there."""


@dataclass(frozen=True)
class _Entry:
    """One entry of a list."""

    key: str
    """The list's."""
    name: str
    """The case's: its image's stem, behind its folders where stems are alike."""
    images: tuple[Path, ...]
    label: Path | None
    fold: int | None
    """In which fold of a cross-validation it validates (MONAI's key `fold`)."""
    content: Any
    """As it stands in the list."""


def listed_cases(folder: Path, content: dict[str, Any]) -> tuple[list[Case], list[Problem]]:
    """Return the cases of every list, and what is to be noted: test cases that are not there.

    Raises:
        DataError: for entries that name no files, or files outside of `folder`.
    """
    entries = _entries(folder, content)
    keys: dict[Path, list[str]] = {}
    for entry in entries:
        keys.setdefault(entry.images[0], []).append(entry.key)
    repeated = [image for image, listing in keys.items() if len(listing) > 1]
    if repeated:
        raise description.wrong(
            folder,
            f"{len(repeated)} images are listed more than once, such as "
            f"{repeated[0].relative_to(folder)} in "
            f"{' and '.join(repr(key) for key in dict.fromkeys(keys[repeated[0]]))}",
        )
    splits = Counter(SPLITS[entry.key] for entry in entries)
    tests = []
    if not splits["test"]:  # the images in `imagesTs` that no list names, as the first nnU-Net's
        files = description.files_in(description.path_on_disk(folder, "imagesTs"), tuple(FORMATS))
        name_of = {path: (channel_of(stem_of(path)) or [stem_of(path)])[0] for path in files}
        for name in sorted(set(name_of.values())):
            images = tuple(path for path in files if name_of[path] == name)
            path = description.path_on_disk(folder, f"labelsTs/{name}{suffix_of(images[0])}")
            label = description.label_if_needed(path, "test")
            tests.append(Case(name, images, label, split="test"))
    marked = bool(tests) or any(split != "train" for split in splits)
    cases, missing = [], []
    for entry in entries:
        split = SPLITS[entry.key]
        images = tuple(file for image in entry.images for file in _channel_files(image))
        if split == "test" and not all(image.exists() for image in images):
            missing.append(images[0])
            continue
        label = entry.label and description.label_if_needed(entry.label, split)
        cases.append(
            Case(entry.name, images, label, split=split if marked else None, fold=entry.fold)
        )
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
    kept: dict[str, list[Any]] = {key: [] for key in SPLITS if isinstance(content.get(key), list)}
    for entry in _entries(folder, content):
        if entry.name not in names:
            kept[entry.key].append(entry.content)
    description.rewrite(folder, {**content, **kept, "numTraining": len(kept["training"])})


def unlisted_files(folder: Path, cases: list[Case]) -> list[Problem]:
    """Return a warning for each file in the usual folders that no list names."""
    files = [
        path
        for part in ("imagesTr", "labelsTr", "imagesVa", "labelsVa")
        for path in description.files_in(description.path_on_disk(folder, part), tuple(FORMATS))
    ]
    return description.unused_files(files, cases, "dataset.json does not list this file")


def _entries(folder: Path, content: dict[str, Any]) -> list[_Entry]:
    """What the lists hold, without the hidden files that a Mac adds."""
    for item in description.section(folder, content, "training", list):
        if not isinstance(item, dict) or not {"image", "label"} <= set(item):
            raise description.wrong(
                folder, f"'training' must list objects with 'image' and 'label', found {item!r}"
            )
    entries = []
    for key in SPLITS:
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
                parts = ["imagests", "imagesva"]
                parts += ["imagestr"] if SPLITS[key] == "validation" else []
                if part.name.lower() in parts:
                    beside = f"labels{part.name[-2:]}/{images[0].name}"
                    path = description.path_on_disk(part.parent, beside)
                    label = path if path.is_file() else None
            entries.append(_Entry(key, stem_of(images[0]), images, label, fold, item))
    stems = Counter(entry.name for entry in entries)
    files = Counter(entry.images[0] for entry in entries)
    named = []
    for entry in entries:
        image = entry.images[0]
        if stems[entry.name] > 1 and files[image] == 1:
            folders = image.parent.relative_to(folder).parts
            entry = replace(entry, name="_".join([*folders, entry.name]))
        named.append(entry)
    return named


def _channel_files(image: Path) -> tuple[Path, ...]:
    """`image`, or the files `CASE_0000`, `CASE_0001`, ... that the first nnU-Net made of it."""
    if image.exists():
        return (image,)
    numbered = re.compile(rf"{re.escape(stem_of(image))}_\d{{4}}", re.IGNORECASE)
    files = description.files_in(image.parent, tuple(FORMATS))
    return tuple(path for path in files if numbered.fullmatch(stem_of(path))) or (image,)

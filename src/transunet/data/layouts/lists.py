"""Cases that a `dataset.json` lists: Decathlon's, the first nnU-Net's, and MONAI's data lists."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
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
class Entry:
    """One entry of a list."""

    key: str
    """The list's."""
    images: tuple[Path, ...]
    label: Path | None
    fold: int | None
    """In which fold of a cross-validation it validates (MONAI's key `fold`)."""
    content: Any
    """As it stands in the list."""

    @property
    def split(self) -> str:
        """What the list is for."""
        return SPLITS[self.key]


def listed_cases(folder: Path, content: dict[str, Any]) -> tuple[list[Case], list[Problem]]:
    """Return the cases of every list, and what is to be noted: test cases that are not there.

    Raises:
        DataError: for entries that name no files, or files outside of `folder`.
    """
    entries = list(entries_of(folder, content))
    _refuse_repeated(folder, entries)
    tests = [] if any(e.split == "test" for e in entries) else list(_unlisted_tests(folder))
    marked = bool(tests) or any(entry.split != "train" for entry in entries)
    cases, missing = [], []
    for entry, name in zip(entries, names_of(folder, entries), strict=True):
        split = entry.split if marked else None
        images = tuple(file for image in entry.images for file in _channel_files(image))
        label = entry.label
        if entry.split == "test":
            if not all(image.exists() for image in images):
                missing.append(images[0])
                continue
            label = label if label and label.is_file() else None
        cases.append(Case(name, images, label, split=split, fold=entry.fold))
    notes = [*_missing_tests(folder, missing, entries), *_wrong_count(folder, content, entries)]
    return [*cases, *tests], notes


def _refuse_repeated(folder: Path, entries: list[Entry]) -> None:
    keys: dict[Path, list[str]] = {}
    for entry in entries:
        keys.setdefault(entry.images[0], []).append(entry.key)
    repeated = {image: listed for image, listed in keys.items() if len(listed) > 1}
    for image, listed in repeated.items():
        where = " and ".join(repr(key) for key in dict.fromkeys(listed))
        raise description.wrong(
            folder,
            f"{len(repeated)} images are listed more than once, such as "
            f"{image.relative_to(folder)} in {where}",
        )


def _unlisted_tests(folder: Path) -> Iterator[Case]:
    """The images in `imagesTs` that no list names, as the first nnU-Net takes them."""
    files = description.listed(description.on_disk(folder, "imagesTs"), tuple(FORMATS))
    name_of = {path: (channel_of(stem_of(path)) or [stem_of(path)])[0] for path in files}
    for name in sorted(set(name_of.values())):
        images = tuple(path for path in files if name_of[path] == name)
        label = description.on_disk(folder, f"labelsTs/{name}{suffix_of(images[0])}")
        yield Case(name, images, label if label.is_file() else None, split="test")


def entries_of(folder: Path, content: dict[str, Any]) -> Iterator[Entry]:
    """Yield what the lists hold, without the hidden files that a Mac adds."""
    for key in SPLITS:
        given = content.get(key) if key != "training" else _training(folder, content)
        for item in given if isinstance(given, list) else []:
            entry = _entry(folder, key, item)
            if not entry.images[0].name.startswith("."):
                yield entry


def names_of(folder: Path, entries: list[Entry]) -> list[str]:
    """Return a name for each entry: its image's stem, behind its folders where stems are alike."""
    count = Counter(stem_of(entry.images[0]) for entry in entries)
    files = Counter(entry.images[0] for entry in entries)
    names = []
    for image in (entry.images[0] for entry in entries):
        stem = stem_of(image)
        apart = count[stem] > 1 and files[image] == 1
        folders = image.parent.relative_to(folder).parts if apart else ()
        names.append("_".join([*folders, stem]))
    return names


def without(folder: Path, names: frozenset[str]) -> None:
    """Take cases out of the lists of the description in `folder`, a copy."""
    content = description.description_of(folder)
    entries = list(entries_of(folder, content))
    kept: dict[str, list[Any]] = {key: [] for key in SPLITS if isinstance(content.get(key), list)}
    for entry, name in zip(entries, names_of(folder, entries), strict=True):
        if name not in names:
            kept[entry.key].append(entry.content)
    description.rewrite(folder, {**content, **kept, "numTraining": len(kept["training"])})


def orphans(folder: Path, cases: list[Case]) -> list[Problem]:
    """Return a warning for each file in the usual folders that no list names."""
    used = {path for case in cases for path in (*case.images, case.label) if path}
    files = [
        path
        for sub in ("imagesTr", "labelsTr", "imagesVa", "labelsVa")
        for path in description.listed(description.on_disk(folder, sub), tuple(FORMATS))
    ]
    return description.orphans(files, used, "orphan", "dataset.json does not list this file")


def _training(folder: Path, content: dict[str, Any]) -> list[Any]:
    training: list[Any] = description.section(folder, content, "training", list)
    for item in training:
        if not isinstance(item, dict) or not {"image", "label"} <= set(item):
            raise description.wrong(
                folder, f"'training' must list objects with 'image' and 'label', found {item!r}"
            )
    return training


def _entry(folder: Path, key: str, item: Any) -> Entry:
    values = item if isinstance(item, dict) else {"image": item}
    image, fold = values.get("image"), values.get("fold")
    if fold is not None and (type(fold) is not int or fold < 0):
        raise description.wrong(folder, f"'fold' must be a number from 0, found {fold!r}")
    paths = image if isinstance(image, list) and image else [image]  # one file per channel
    images = tuple(description.inside(folder, path) for path in paths)
    label = description.inside(folder, values["label"]) if values.get("label") else None
    return Entry(key, images, label or _label_beside(images[0], SPLITS[key]), fold, item)


def _label_beside(image: Path, split: str) -> Path | None:
    """`labelsTs/CASE` for `imagesTs/CASE`, where a list names the image alone."""
    part = image.parent.name[-2:]
    folders = ("imagests", "imagesva", "imagestr" if split == "validation" else "")
    if image.parent.name.lower() not in folders:
        return None
    label = description.on_disk(image.parents[1], f"labels{part}/{image.name}")
    return label if label.is_file() else None


def _channel_files(image: Path) -> tuple[Path, ...]:
    """`image`, or the files `CASE_0000`, `CASE_0001`, ... that the first nnU-Net made of it."""
    if image.exists():
        return (image,)
    numbered = re.compile(rf"{re.escape(stem_of(image))}_\d{{4}}", re.IGNORECASE)
    files = description.listed(image.parent, tuple(FORMATS))
    return tuple(path for path in files if numbered.fullmatch(stem_of(path))) or (image,)


def _missing_tests(folder: Path, missing: list[Path], entries: list[Entry]) -> Iterator[Problem]:
    if missing:
        tests = sum(entry.split == "test" for entry in entries)
        found = (
            f"{len(missing)} of the {tests} test cases that it lists are not there, such as "
            f"{missing[0].relative_to(folder)}"
        )
        where, remedy = str(folder / description.NAME), "Copy them along to segment them"
        yield Problem(MISSING_TEST, where, found, remedy, "warning")


def _wrong_count(folder: Path, content: dict[str, Any], entries: list[Entry]) -> Iterator[Problem]:
    training = sum(entry.split == "train" for entry in entries)
    validation = sum(entry.split == "validation" for entry in entries)
    yield from description.wrong_count(folder, content, {training, training + validation})

"""Medical Segmentation Decathlon: `dataset.json` lists the files, 4-D ones hold the modalities."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transunet.data.cases import Case, DataSet
from transunet.data.formats import FORMATS, stem_of
from transunet.data.layouts import description
from transunet.data.problems import Problem

SHAPE = "dataset.json with 'modality', 'labels' and a list 'training'; imagesTr, labelsTr"


def recognises(folder: Path) -> bool:
    """Whether `folder` holds a Decathlon description."""
    return {"training", "labels"} <= description.keys_of(folder)


def open(folder: Path) -> DataSet:
    """Find the cases that `dataset.json` lists.

    Raises:
        DataError: when the description is missing or contradicts itself.
    """
    content = description.description_of(folder)
    labels, values = description.classes(folder, _labels(folder, content))
    cases = [*_training(folder, content), *_test(folder, content)]
    return DataSet(
        name=str(content.get("name") or folder.name),
        folder=folder,
        layout="decathlon",
        cases=tuple(cases),
        labels=labels,
        channels=_channels(folder, content),
        label_values=values,
        notes=tuple(_orphans(folder, cases)),
    )


def without(folder: Path, names: frozenset[str]) -> None:
    """Take cases out of the description in `folder`, a copy."""
    content = description.description_of(folder)
    kept = [e for e in content["training"] if stem_of(folder / str(e["image"])) not in names]
    description.rewrite(folder, {**content, "training": kept, "numTraining": len(kept)})


def _labels(folder: Path, content: dict[str, Any]) -> dict[int, str]:
    labels = description.section(folder, content, "labels", dict)
    if not all(key.isascii() and key.isdigit() for key in labels):
        raise description.wrong(
            folder, f"'labels' must map numbers to names, found the keys {', '.join(labels)}"
        )
    return {int(key): str(name) for key, name in labels.items()}


def _channels(folder: Path, content: dict[str, Any]) -> tuple[str, ...]:
    modality = description.section(folder, content, "modality", dict)
    return description.numbered(folder, modality, "modality")


def _training(folder: Path, content: dict[str, Any]) -> Iterator[Case]:
    for entry in description.section(folder, content, "training", list):
        if not isinstance(entry, dict) or not {"image", "label"} <= set(entry):
            raise description.wrong(
                folder, f"'training' must list objects with 'image' and 'label', found {entry!r}"
            )
        image = description.inside(folder, entry["image"])
        if not image.name.startswith("."):
            images = _channel_files(image) or (image,)
            yield Case(stem_of(image), images, description.inside(folder, entry["label"]))


def _channel_files(image: Path) -> tuple[Path, ...]:
    """The files `CASE_0000`, `CASE_0001`, ... that the first nnU-Net put in the place of `CASE`."""
    if image.is_file():
        return ()
    stem, suffix = stem_of(image), image.name[len(stem_of(image)) :]
    numbered = re.compile(rf"{re.escape(stem)}_\d{{4}}{re.escape(suffix)}")
    return tuple(p for p in description.listed(image.parent) if numbered.fullmatch(p.name))


def _test(folder: Path, content: dict[str, Any]) -> Iterator[Case]:
    """The challenge's unlabelled cases, those that were copied along."""
    for entry in content.get("test") or []:
        path = entry.get("image") if isinstance(entry, dict) else entry
        image = description.inside(folder, path)
        if not image.name.startswith(".") and image.is_file():
            yield Case(stem_of(image), (image,), None, split="test")


def _orphans(folder: Path, cases: list[Case]) -> list[Problem]:
    used = {path for case in cases for path in (*case.images, case.label) if path}
    endings = tuple(FORMATS)
    files = [
        path
        for sub in ("imagesTr", "labelsTr")
        for path in description.listed(folder / sub, endings)
    ]
    return description.orphans(files, used, "orphan", "dataset.json does not list this file")

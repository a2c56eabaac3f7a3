"""Medical Segmentation Decathlon: `dataset.json` lists the files, 4-D ones hold the modalities."""

from pathlib import Path
from typing import Any

from transunet.data.cases import DataSet
from transunet.data.layouts import description, lists

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
    cases, notes = lists.listed_cases(folder, content)
    return DataSet(
        name=str(content.get("name") or folder.name),
        folder=folder,
        layout="decathlon",
        cases=tuple(cases),
        labels=labels,
        channels=_channels(folder, content),
        label_values=values,
        split_rule=lists.RULE,
        notes=(*notes, *lists.orphans(folder, cases)),
    )


without = lists.without


def _labels(folder: Path, content: dict[str, Any]) -> dict[int, str]:
    labels = description.section(folder, content, "labels", dict)
    if all(type(value) is int for value in labels.values()) and 0 in labels.values():
        labels = description.turned(folder, labels)  # the other way round, as nnU-Net has it
    if not all(key.isascii() and key.isdigit() for key in labels):
        raise description.wrong(
            folder, f"'labels' must map numbers to names, found the keys {', '.join(labels)}"
        )
    return {int(key): str(name) for key, name in labels.items()}


def _channels(folder: Path, content: dict[str, Any]) -> tuple[str, ...]:
    modality = description.section(folder, content, "modality", dict)
    return description.numbered(folder, modality, "modality")

"""nnU-Net v2: `dataset.json` names channels and labels, `CASE_0000.nii.gz` is channel 0."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transunet.data.cases import Case, DataSet
from transunet.data.layouts import description
from transunet.data.problems import Problem

SHAPE = (
    "dataset.json with 'channel_names' and 'labels'; "
    "imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz"
)

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
    ending = str(content.get("file_ending") or ".nii.gz").lower()
    cases = _cases(folder, content, len(channels), ending)
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
        notes=tuple(_orphans(folder, cases, ending)),
    )


def without(folder: Path, names: frozenset[str]) -> None:
    """Take cases out of the description in `folder`, a copy."""
    content = description.description_of(folder)
    if isinstance(content.get("dataset"), dict):
        content["dataset"] = {k: v for k, v in content["dataset"].items() if k not in names}
    description.rewrite(folder, content)
    cases = [case for case in open(folder).cases if case.split is None]
    description.rewrite(folder, {**content, "numTraining": len(cases)})


def _labels(
    folder: Path, content: dict[str, Any]
) -> tuple[dict[int, str], dict[str, tuple[int, ...]]]:
    """Value -> name, and the regions (name -> values) where labels are given as lists."""
    given = description.section(folder, content, "labels", dict)
    members = {name: _members(folder, name, value) for name, value in given.items()}
    if "ignore" in members:
        raise description.wrong(
            folder, "it has nnU-Net's label 'ignore', which training here cannot leave out"
        )
    if all(len(values) == 1 for values in members.values()):
        names = {values[0]: name for name, values in members.items()}
        if len(names) < len(members):
            raise description.wrong(folder, f"two labels have the same value: {given!r}"[:300])
        return names, {}
    regions = {name: values for name, values in members.items() if values != (0,)}
    return _named_by_regions(regions), regions


def _members(folder: Path, name: str, value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(type(v) is int and v >= 0 for v in values):
        raise description.wrong(
            folder, f"the label {name!r} must be a number or a list of numbers, found {value!r}"
        )
    return tuple(sorted(set(values)))


def _named_by_regions(regions: dict[str, tuple[int, ...]]) -> dict[int, str]:
    """Name each value by the smallest region that holds it.

    The network learns the values, which do not overlap; regions are unions of them.
    """
    names = {0: "background"}
    for value in sorted({v for values in regions.values() for v in values} - {0}):
        holding = [(len(values), name) for name, values in regions.items() if value in values]
        smallest = min(holding)[1]
        names[value] = f"{smallest} ({value})" if smallest in names.values() else smallest
    return names


def _cases(folder: Path, content: dict[str, Any], channels: int, ending: str) -> list[Case]:
    listed = content.get("dataset")
    if isinstance(listed, dict):
        return [_listed_case(folder, name, entry) for name, entry in listed.items()]
    training = [
        Case(name, images, folder / "labelsTr" / f"{name}{ending}")
        for name, images in _images(folder / "imagesTr", channels, ending)
    ]
    test = [
        Case(name, images, _test_label(folder, name, ending), split="test")
        for name, images in _images(folder / "imagesTs", channels, ending)
    ]
    return training + test


def _test_label(folder: Path, name: str, ending: str) -> Path | None:
    label = folder / "labelsTs" / f"{name}{ending}"
    return label if label.is_file() else None


def _listed_case(folder: Path, name: str, entry: Any) -> Case:
    if not isinstance(entry, dict) or not isinstance(entry.get("images"), list):
        raise description.wrong(
            folder, f"'dataset' must give 'images' and 'label' of case {name!r}, found {entry!r}"
        )
    images = tuple(description.inside(folder, image) for image in entry["images"])
    return Case(name, images, description.inside(folder, entry.get("label")))


def _images(folder: Path, channels: int, ending: str) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """Case name -> one file per channel, missing ones too, so that they are reported."""
    numbered = re.compile(rf"(.+)_(\d{{4}}){re.escape(ending)}", re.IGNORECASE)
    matches = (numbered.fullmatch(path.name) for path in description.listed(folder, ending))
    for name in sorted({match[1] for match in matches if match}):
        files = tuple(folder / f"{name}_{index:04d}{ending}" for index in range(channels))
        colour = ending in _COLOUR and not any(path.exists() for path in files[1:])
        yield name, files[:1] if colour else files


def _orphans(folder: Path, cases: list[Case], ending: str) -> list[Problem]:
    used = {path for case in cases for path in (*case.images, case.label) if path}
    images = description.listed(folder / "imagesTr", ending)
    labels = description.listed(folder / "labelsTr", ending)
    return [
        *description.orphans(images, used, "orphan", "no case has a channel of this name"),
        *description.orphans(labels, used, "orphan", "this label map has no image"),
    ]

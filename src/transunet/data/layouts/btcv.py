"""Raw BTCV (Synapse): `imgNNNN.nii.gz`, `labelNNNN.nii.gz`, 13 organs mapped to the paper's 8."""

import re
from collections.abc import Iterator
from pathlib import Path

from transunet.data.cases import Case, DataSet
from transunet.data.layouts import description
from transunet.data.layouts.synapse import ORGANS

SHAPE = "imgNNNN.nii.gz and labelNNNN.nii.gz, in one folder or in img/ and label/"

LABEL_MAP = "btcv-13-to-paper-8"
"""The name of the map below."""

BTCV = {
    0: "background",
    1: "spleen",
    2: "right kidney",
    3: "left kidney",
    4: "gallbladder",
    5: "esophagus",
    6: "liver",
    7: "stomach",
    8: "aorta",
    9: "inferior vena cava",
    10: "portal and splenic veins",
    11: "pancreas",
    12: "right adrenal gland",
    13: "left adrenal gland",
}
"""Label values of the challenge's files."""

_CLASS = {name: index for index, name in ORGANS.items()}

BTCV_TO_PAPER = {value: _CLASS.get(name, 0) for value, name in BTCV.items()}
"""BTCV's value -> the paper's class; organs that the paper leaves out become background."""

_NUMBERED = re.compile(r"(img|label)(\d{4})\.nii(\.gz)?", re.IGNORECASE)
# Where the challenge's archive puts the scans, and where people move them.
_TRAINING = (".", "Training", "RawData/Training", "train")
_TESTING = ("Testing", "RawData/Testing", "test")


def recognises(folder: Path) -> bool:
    """Whether there is a scan of that name in `folder` or where the challenge puts it."""
    return any(True for root in (*_TRAINING, *_TESTING) for _ in _files(folder / root, "img"))


def open(folder: Path) -> DataSet:
    """Find the scans; those of the test set may have no label."""
    training = [_case(image, None) for root in _TRAINING for image in _files(folder / root, "img")]
    test = [_case(image, "test") for root in _TESTING for image in _files(folder / root, "img")]
    used = {case.label for case in (*training, *test) if case.label}
    labels = [path for root in _TRAINING for path in _files(folder / root, "label")]
    return DataSet(
        name=folder.name,
        folder=folder,
        layout="btcv",
        cases=(*training, *test),
        labels=ORGANS,
        channels=("CT",),
        label_values=BTCV_TO_PAPER,
        label_map=LABEL_MAP,
        notes=tuple(description.orphans(labels, used, "orphan", "this label map has no image")),
    )


def _files(root: Path, kind: str) -> Iterator[Path]:
    """The files `imgNNNN` or `labelNNNN` in a folder or its `img` or `label`."""
    for sub in (root, root / kind):
        for path in description.listed(sub, (".nii", ".nii.gz")):
            match = _NUMBERED.fullmatch(path.name)
            if match and match[1].lower() == kind:
                yield path


def _case(image: Path, split: str | None) -> Case:
    number = image.name[3:7]
    name = f"label{image.name[3:]}"
    inside = image.parent.name == "img"
    label = image.parents[1] / "label" / name if inside else image.with_name(name)
    missing = split == "test" and not label.is_file()
    return Case(f"case{number}", (image,), None if missing else label, split=split)

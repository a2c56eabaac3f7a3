"""Raw BTCV (Synapse): `imgNNNN.nii.gz`, `labelNNNN.nii.gz`, 13 organs mapped to the paper's 8."""

from collections.abc import Sequence
from pathlib import Path

from transunet.data.cases import Case, DataSet
from transunet.data.layouts import description
from transunet.data.layouts.synapse import ORGANS

SHAPE = "imgNNNN.nii.gz and labelNNNN.nii.gz, in one folder or in img/ and label/"

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

BTCV_TO_PAPER = {
    value: next((index for index, organ in ORGANS.items() if organ == name), 0)
    for value, name in BTCV.items()
}
"""BTCV's value -> the paper's class; organs that the paper leaves out become background."""

# Where the challenge's archive puts the scans, and where people move them.
_TRAINING = (".", "Training", "RawData/Training", "train")
_TESTING = ("Testing", "RawData/Testing", "test")
_NAME = r"\d{4}\.nii(\.gz)?"


def recognises(folder: Path) -> bool:
    """Whether there is a scan of that name in `folder` or where the challenge puts it."""
    return bool(_files(folder, (*_TRAINING, *_TESTING), "img"))


def open(folder: Path) -> DataSet:
    """Find the scans; those of the test set may have no label."""
    cases = []
    for split, roots in ((None, _TRAINING), ("test", _TESTING)):
        for image in _files(folder, roots, "img"):
            name = f"label{image.name[3:]}"
            inside = image.parent.name == "img"
            path = image.parents[1] / "label" / name if inside else image.with_name(name)
            label = description.label_if_needed(path, split)
            cases.append(Case(f"case{image.name[3:7]}", (image,), label, split=split))
    labels = _files(folder, _TRAINING, "label")
    return DataSet(
        cases=tuple(cases),
        labels=ORGANS,
        channels=("CT",),
        label_values=BTCV_TO_PAPER,
        label_map="btcv-13-to-paper-8",
        notes=tuple(description.unused_files(labels, cases, "this label map has no image")),
    )


def _files(folder: Path, roots: Sequence[str], kind: str) -> list[Path]:
    """The files `imgNNNN` or `labelNNNN` in folders or their `img` or `label`."""
    return [
        path
        for root in roots
        for part in (folder / root, folder / root / kind)
        for path, _ in description.files_named(part, kind + _NAME)
    ]

"""ACDC: cardiac MRI, the ends of diastole and systole of every patient, raw or prepared as HDF5.

Raw: `patientNNN/patientNNN_frameNN.nii.gz` and `..._gt.nii.gz`, as the challenge gives them, in
`training` and `testing`. Prepared: `patientNNN_frameNN.h5` with the arrays `image` and `label`
(volumes), or `..._slice_N.h5`. The two frames of a patient are one group, so that they never part.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from transunet.data.cases import Case, DataSet
from transunet.data.checks.problems import Problem
from transunet.data.layouts import description

SHAPE = "patientNNN/patientNNN_frameNN.nii.gz and patientNNN_frameNN_gt.nii.gz"

LABELS = {0: "background", 1: "right ventricle", 2: "myocardium", 3: "left ventricle"}
"""The challenge's label values."""

_FRAME = re.compile(r"(patient\d+)_frame\d+\.nii(\.gz)?", re.IGNORECASE)
# Where patients' folders lie -> the split that this says.
_ROOTS = {
    ".": None,
    "training": "train",
    "testing": "test",
    "database/training": "train",
    "database/testing": "test",
}


def recognises(folder: Path) -> bool:
    """Whether there is a patient's frame in `folder` or where the challenge puts it."""
    return any(True for root in _ROOTS for _ in _frames(folder / root))


def open(folder: Path) -> DataSet:
    """Find the frames of every patient; those of the test set may have no label."""
    cases = [
        _case(image, split) for root, split in _ROOTS.items() for image in _frames(folder / root)
    ]
    return DataSet(
        name=folder.name,
        folder=folder,
        layout="acdc",
        cases=tuple(cases),
        labels=LABELS,
        channels=("MRI",),
        notes=tuple(_orphans(folder, cases)),
    )


def _frames(root: Path) -> Iterator[Path]:
    if not root.is_dir():
        return
    for patient in sorted(root.glob("patient*")):
        files = description.listed(patient, (".nii", ".nii.gz"))
        yield from (path for path in files if _FRAME.fullmatch(path.name))


def _case(image: Path, split: str | None) -> Case:
    stem, dot, suffix = image.name.partition(".")
    label = image.with_name(f"{stem}_gt{dot}{suffix}")
    missing = split == "test" and not label.is_file()
    group = stem.split("_frame")[0]
    return Case(stem, (image,), None if missing else label, group=group, split=split)


def _orphans(folder: Path, cases: Sequence[Case]) -> list[Problem]:
    used = {case.label for case in cases if case.label}
    labels = [
        path
        for root in _ROOTS
        for patient in sorted((folder / root).glob("patient*"))
        for path in description.listed(patient, ("_gt.nii", "_gt.nii.gz"))
    ]
    return description.orphans(labels, used, "orphan", "this label map has no image")

"""ACDC: cardiac MRI, the ends of diastole and systole of every patient, as the challenge gives it.

`patientNNN/patientNNN_frameNN.nii.gz` and `..._gt.nii.gz`, in `training` and `testing`. The two
frames of a patient are one group, so that they never part.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from transunet.data.cases import Case, DataSet
from transunet.data.layouts import description

SHAPE = "patientNNN/patientNNN_frameNN.nii.gz and patientNNN_frameNN_gt.nii.gz"

LABELS = {0: "background", 1: "right ventricle", 2: "myocardium", 3: "left ventricle"}
"""The challenge's label values."""

_FRAME, _LABEL = r"patient\d+_frame\d+\.nii(\.gz)?", r".*_gt\.nii(\.gz)?"
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
    return any(True for root in _ROOTS for _ in _files(folder / root, _FRAME))


def open(folder: Path) -> DataSet:
    """Find the frames of every patient; those of the test set may have no label."""
    cases = []
    for root, split in _ROOTS.items():
        for image in _files(folder / root, _FRAME):
            stem, dot, suffix = image.name.partition(".")
            label = description.label_if_needed(image.with_name(f"{stem}_gt{dot}{suffix}"), split)
            cases.append(Case(stem, (image,), label, group=stem.split("_frame")[0], split=split))
    labels = [path for root in _ROOTS for path in _files(folder / root, _LABEL)]
    return DataSet(
        cases=tuple(cases),
        labels=LABELS,
        channels=("MRI",),
        notes=tuple(description.unused_files(labels, cases, "this label map has no image")),
    )


def _files(root: Path, name: str) -> Iterator[Path]:
    for patient in sorted(root.glob("patient*")):
        for path in description.files_in(patient, (".nii", ".nii.gz")):
            if re.fullmatch(name, path.name, re.IGNORECASE):
                yield path

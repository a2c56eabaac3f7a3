"""ACDC: cardiac MRI, the ends of diastole and systole of every patient, as the challenge gives it.

`patientNNN/patientNNN_frameNN.nii.gz` and `..._gt.nii.gz`, in `training` and `testing`. The two
frames of a patient are one group, so that they never part.
"""

from pathlib import Path

from transunet.data.cases import Case, DataSet
from transunet.data.layouts import description

SHAPE = "patientNNN/patientNNN_frameNN.nii.gz and patientNNN_frameNN_gt.nii.gz"

LABELS = {0: "background", 1: "right ventricle", 2: "myocardium", 3: "left ventricle"}
"""The challenge's label values."""

_FRAME = r"((patient\d+)_frame\d+)(\.nii(?:\.gz)?)"
_LABEL = r".*_gt\.nii(\.gz)?"
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
    return any(description.files_named(patient, _FRAME) for patient, _ in _patients(folder))


def open(folder: Path) -> DataSet:
    """Find the frames of every patient; those of the test set may have no label."""
    cases, labels = [], []
    for patient, split in _patients(folder):
        labels += [path for path, _ in description.files_named(patient, _LABEL)]
        for image, match in description.files_named(patient, _FRAME):
            stem, name, suffix = match.groups()
            label = description.label_if_needed(patient / f"{stem}_gt{suffix}", split)
            cases.append(Case(stem, (image,), label, group=name, split=split))
    return DataSet(
        cases=tuple(cases),
        labels=LABELS,
        channels=("MRI",),
        notes=tuple(description.unused_files(labels, cases, "this label map has no image")),
    )


def _patients(folder: Path) -> list[tuple[Path, str | None]]:
    return [
        (path, split)
        for root, split in _ROOTS.items()
        for path in sorted((folder / root).glob("patient*"))
    ]

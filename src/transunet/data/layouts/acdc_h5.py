"""ACDC prepared as HDF5: `patientNNN_frameNN.h5`, the arrays `image` and `label` in each.

Where both are there, the volumes are taken: they hold the same slices. Lists (`train.list`,
`val.list`, `test.list`, or `.txt`) say the split; without them all of it is to be split, patients
whole.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from transunet.data.cases import Case, DataSet
from transunet.data.layouts import description
from transunet.data.layouts.acdc import LABELS
from transunet.data.text import text_of

SHAPE = (
    "patientNNN_frameNN.h5 or patientNNN_frameNN_slice_N.h5, lists train.list, val.list, test.list"
)

_FILE = re.compile(r"(patient\d+)_frame\d+(_slice_?\d+)?\.h5", re.IGNORECASE)
_FOLDERS = (
    ".",
    "data",
    "volumes",
    "ACDC_training_volumes",
    "slices",
    "data/slices",
    "ACDC_training_slices",
)
_SPLITS = {
    "train": ("train", "train_slices"),
    "validation": ("val", "valid", "validation"),
    "test": ("test",),
}


def recognises(folder: Path) -> bool:
    """Whether there is a patient's file in `folder` or where such data sets keep them."""
    return any(True for _ in _files(folder))


def open(folder: Path) -> DataSet:
    """Find the volumes (or slices) and the split that lists give them."""
    files = list(_files(folder))
    volumes = [path for path in files if "_slice" not in path.name]
    split_of = _listed_splits(folder)
    return DataSet(
        name=folder.name,
        folder=folder,
        layout="acdc-h5",
        cases=tuple(_case(path, split_of) for path in sorted(volumes or files)),
        labels=LABELS,
        channels=("MRI",),
    )


def _files(folder: Path) -> Iterator[Path]:
    for sub in _FOLDERS:
        files = description.listed(folder / sub, ".h5")
        yield from (path for path in files if _FILE.fullmatch(path.name))


def _case(path: Path, split_of: dict[str, str]) -> Case:
    patient = path.name.split("_frame")[0]
    return Case(path.stem, (path,), path, group=patient, split=split_of.get(patient))


def _listed_splits(folder: Path) -> dict[str, str]:
    """Patient -> split: a list that names one frame or slice of a patient means all of them."""
    found: dict[str, str] = {}
    for split, names in _SPLITS.items():
        for name in names:
            for path in [folder / f"{name}.list", folder / f"{name}.txt"]:
                lines = text_of(path).split() if path.is_file() else []
                found.update({line.split("_frame")[0]: split for line in lines})
    return found

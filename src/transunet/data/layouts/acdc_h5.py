"""ACDC prepared as HDF5: `patientNNN_frameNN.h5`, the arrays `image` and `label` in each.

Where both are there, the volumes are taken: they hold the same slices. Lists (`train.list`,
`val.list`, `test.list`, or `.txt`) say the split; without them all of it is to be split, patients
whole.
"""

import re
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
_LISTS = {
    "train": "train",
    "train_slices": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""Name of a list -> the split that it makes."""


def recognises(folder: Path) -> bool:
    """Whether there is a patient's file in `folder` or where such data sets keep them."""
    return bool(_files(folder))


def open(folder: Path) -> DataSet:
    """Find the volumes (or slices) and the split that lists give them."""
    files = _files(folder)
    volumes = [path for path in files if "_slice" not in path.name]
    split_of: dict[str, str] = {}  # a list that names one frame of a patient means all of them
    for name, split in _LISTS.items():
        for path in (folder / f"{name}.list", folder / f"{name}.txt"):
            lines = text_of(path).split() if path.is_file() else []
            split_of |= {line.split("_frame")[0]: split for line in lines}
    cases = []
    for path in sorted(volumes or files):
        patient = path.name.split("_frame")[0]
        cases.append(Case(path.stem, (path,), path, group=patient, split=split_of.get(patient)))
    return DataSet(
        cases=tuple(cases),
        labels=LABELS,
        channels=("MRI",),
    )


def _files(folder: Path) -> list[Path]:
    files = (path for part in _FOLDERS for path in description.files_in(folder / part, ".h5"))
    return [path for path in files if _FILE.fullmatch(path.name)]

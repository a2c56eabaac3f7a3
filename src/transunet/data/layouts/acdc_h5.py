"""ACDC prepared as HDF5: `patientNNN_frameNN.h5`, the arrays `image` and `label` in each.

Where both are there, the volumes are taken: they hold the same slices. Lists (`train.list`,
`val.list`, `test.list`, or `.txt`) say the split; without them all of it is to be split, patients
whole.
"""

from pathlib import Path

from transunet.data.cases import Case, DataSet
from transunet.data.layouts import description
from transunet.data.layouts.acdc import LABELS
from transunet.data.text import text_of

SHAPE = (
    "patientNNN_frameNN.h5 or patientNNN_frameNN_slice_N.h5, lists train.list, val.list, test.list"
)

_FILE = r"(patient\d+)_frame\d+(_slice_?\d+)?\.h5"
_FOLDERS = (
    ".",
    "data",
    "volumes",
    "ACDC_training_volumes",
    "slices",
    "data/slices",
    "ACDC_training_slices",
)
_LISTS = {**description.SPLITS, "train_slices": "train"}


def recognises(folder: Path) -> bool:
    """Whether there is a patient's file in `folder` or where such data sets keep them."""
    return any(description.files_named(folder / part, _FILE) for part in _FOLDERS)


def open(folder: Path) -> DataSet:
    """Find the volumes (or slices) and the split that lists give them."""
    files = sorted(
        file for part in _FOLDERS for file in description.files_named(folder / part, _FILE)
    )
    volumes = [file for file in files if not file[1][2]]
    split_of: dict[str, str] = {}  # a list that names one frame of a patient means all of them
    for name, split in _LISTS.items():
        for path in (folder / f"{name}.list", folder / f"{name}.txt"):
            lines = text_of(path).split() if path.is_file() else []
            split_of |= {line.split("_frame")[0]: split for line in lines}
    cases = [
        Case(path.stem, (path,), path, group=match[1], split=split_of.get(match[1]))
        for path, match in volumes or files
    ]
    return DataSet(cases=tuple(cases), labels=LABELS, channels=("MRI",))

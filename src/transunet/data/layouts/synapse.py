"""The authors' prepared Synapse folder: slices in `train_npz`, volumes in `test_vol_h5`.

The slices are windowed to [0, 1] already, and carry the paper's eight organs. List files name the
cases; without them every file is one.
"""

import re
from pathlib import Path

from transunet.data.cases import Case, DataSet
from transunet.data.layouts import description
from transunet.data.text import text_of

SHAPE = "train_npz/caseNNNN_sliceNNN.npz and test_vol_h5/caseNNNN.npy.h5, lists/*/train.txt"

ORGANS = {
    0: "background",
    1: "aorta",
    2: "gallbladder",
    3: "left kidney",
    4: "right kidney",
    5: "liver",
    6: "pancreas",
    7: "spleen",
    8: "stomach",
}
"""The paper's eight organs, in its order."""

_LISTS = {"train": ("train.txt",), "test": ("test_vol.txt", "test.txt")}


def recognises(folder: Path) -> bool:
    """Whether `folder` has one of the two folders."""
    return (folder / "train_npz").is_dir() or (folder / "test_vol_h5").is_dir()


def open(folder: Path) -> DataSet:
    """Find the slices and volumes; slices of one patient are one group.

    Raises:
        DataError: when a list names a file outside of the folder.
    """
    cases = []
    for split, part, suffix in (("train", "train_npz", ".npz"), ("test", "test_vol_h5", ".npy.h5")):
        files = description.files_in(folder / part, suffix)
        for listed in _lists(folder, split)[:1]:
            names = sorted({line.strip() for line in text_of(listed).splitlines()} - {""})
            entries = [f"{part}/{name}{suffix}" for name in names]
            files = [description.path_inside(folder, entry, listed) for entry in entries]
        for path in files:
            name = path.name.removesuffix(suffix)
            group = (
                re.sub(r"_slice\d+$", "", name, flags=re.IGNORECASE) if split == "train" else None
            )
            cases.append(Case(name, (path,), path, group=group, split=split))
    return DataSet(cases=tuple(cases), labels=ORGANS, channels=("CT",), intensity_range=(0.0, 1.0))


def without(folder: Path, names: frozenset[str]) -> None:
    """Take cases out of the list files of `folder`, a copy."""
    for path in (path for split in _LISTS for path in _lists(folder, split)):
        lines = [line for line in text_of(path).splitlines() if line.strip() not in names]
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def _lists(folder: Path, split: str) -> list[Path]:
    return [
        path
        for name in _LISTS[split]
        for path in sorted(
            path for part in ("", "lists/", "lists/*/") for path in folder.glob(part + name)
        )
    ]

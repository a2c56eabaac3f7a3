"""The authors' prepared Synapse folder: slices in `train_npz`, volumes in `test_vol_h5`.

The slices are windowed to [0, 1] already, and carry the paper's eight organs. List files name the
cases; without them every file is one.
"""

import re
from collections.abc import Iterator
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
    for path in _files(folder, "train", "train_npz", ".npz"):
        name = path.name.removesuffix(".npz")
        of_patient = re.fullmatch(r"(.+)_slice\d+", name, re.IGNORECASE)
        patient = of_patient[1] if of_patient else path.name
        cases.append(Case(name, (path,), path, group=patient, split="train"))
    for path in _files(folder, "test", "test_vol_h5", ".npy.h5"):
        cases.append(Case(path.name.removesuffix(".npy.h5"), (path,), path, split="test"))
    return DataSet(
        cases=tuple(cases),
        labels=ORGANS,
        channels=("CT",),
        intensity_range=(0.0, 1.0),
    )


def without(folder: Path, names: frozenset[str]) -> None:
    """Take cases out of the list files of `folder`, a copy."""
    for path in (path for split in _LISTS for path in _lists(folder, split)):
        lines = [line for line in text_of(path).splitlines() if line.strip() not in names]
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def _files(folder: Path, split: str, part: str, suffix: str) -> Iterator[Path]:
    lists = _lists(folder, split)
    if not lists:
        yield from description.files_in(folder / part, suffix)
        return
    names = {line.strip() for line in text_of(lists[0]).splitlines() if line.strip()}
    for name in sorted(names):
        yield description.path_inside(folder, f"{part}/{name}{suffix}", lists[0])


def _lists(folder: Path, split: str) -> list[Path]:
    return [
        path
        for name in _LISTS[split]
        for path in sorted(
            [*folder.glob(name), *folder.glob(f"lists/{name}"), *folder.glob(f"lists/*/{name}")]
        )
    ]

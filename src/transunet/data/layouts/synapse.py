"""The authors' prepared Synapse folder: slices in `train_npz`, volumes in `test_vol_h5`.

The slices are windowed to [0, 1] already, and carry the paper's eight organs. List files name the
cases; without them every file is one.
"""

import re
from collections.abc import Iterator, Sequence
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

TRAIN, TEST = "train_npz", "test_vol_h5"
_SLICE = re.compile(r"(.+)_slice\d+", re.IGNORECASE)
_SUFFIXES = {TRAIN: ".npz", TEST: ".npy.h5"}


def recognises(folder: Path) -> bool:
    """Whether `folder` has one of the two folders."""
    return (folder / TRAIN).is_dir() or (folder / TEST).is_dir()


def open(folder: Path) -> DataSet:
    """Find the slices and volumes; slices of one patient are one group.

    Raises:
        DataError: when a list names a file outside of the folder.
    """
    train = [
        Case(path.name[: -len(".npz")], (path,), path, group=_patient(path), split="train")
        for path in _files(folder, TRAIN, ("train.txt",))
    ]
    test = [
        Case(path.name[: -len(".npy.h5")], (path,), path, split="test")
        for path in _files(folder, TEST, ("test_vol.txt", "test.txt"))
    ]
    return DataSet(
        name=folder.name,
        folder=folder,
        layout="synapse",
        cases=(*train, *test),
        labels=ORGANS,
        channels=("CT",),
        intensity_range=(0.0, 1.0),
    )


def without(folder: Path, names: frozenset[str]) -> None:
    """Take cases out of the list files of `folder`, a copy."""
    for path in [
        p for name in ("train.txt", "test_vol.txt", "test.txt") for p in _lists(folder, name)
    ]:
        lines = text_of(path).splitlines()
        path.write_text(
            "".join(f"{line}\n" for line in lines if line.strip() not in names), "utf-8"
        )


def _patient(path: Path) -> str:
    match = _SLICE.fullmatch(path.name[: -len(".npz")])
    return match[1] if match else path.name


def _files(folder: Path, sub: str, lists: Sequence[str]) -> Iterator[Path]:
    suffix = _SUFFIXES[sub]
    found = [path for name in lists for path in _lists(folder, name)]
    if not found:
        yield from description.listed(folder / sub, suffix)
        return
    names = {line.strip() for line in text_of(found[0]).splitlines() if line.strip()}
    for name in sorted(names):
        yield description.inside(folder, f"{sub}/{name}{suffix}", found[0])


def _lists(folder: Path, name: str) -> list[Path]:
    return sorted(
        [*folder.glob(name), *folder.glob(f"lists/{name}"), *folder.glob(f"lists/*/{name}")]
    )

"""nnU-Net's folds of a data set: `splits_final.json`, which it puts among its prepared data."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from transunet.data.cases import DataSet
from transunet.data.checks.problems import Problem

NAME = "splits_final.json"
PICKLE = "splits_final.pkl"
"""What the first nnU-Net wrote; never opened, since a pickle can run code."""


def with_folds(dataset: DataSet) -> DataSet:
    """Return `dataset` with the file of folds that lies with it, if one does."""
    folders = [dataset.folder, *_prepared_folders(dataset.folder.resolve())]
    for folder in folders:
        if (folder / NAME).is_file():
            return replace(dataset, folds_file=folder / NAME)
    pickles = [folder / PICKLE for folder in folders if (folder / PICKLE).is_file()]
    return replace(dataset, notes=(*dataset.notes, *map(_unread, pickles[:1])))


def _prepared_folders(folder: Path) -> Iterator[Path]:
    """`nnUNet_preprocessed/NAME` for `nnUNet_raw/NAME`, or as nnU-Net's variable says."""
    named = os.environ.get("nnUNet_preprocessed")  # noqa: SIM112 - so it is called
    roots = [Path(named)] if named else []
    for root in (*roots, folder.parent.parent / "nnUNet_preprocessed"):
        yield root / folder.name


def _unread(path: Path) -> Problem:
    found = "folds in a pickle, which is not read since it can run code; others are drawn"
    remedy = (
        'Where you trust it, write it as JSON: python -c "import json, pickle; json.dump([{k: '
        f"list(map(str, v)) for k, v in s.items()}} for s in pickle.load(open('{path}', 'rb'))], "
        "open('splits.json', 'w'))\"; and give --splits splits.json"
    )
    return Problem("splits-pickle", str(path), found, remedy, "warning")

"""Folders to data sets: one module per layout, recognised by itself or selected by name."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from transunet.data.cases import DataSet
from transunet.data.checks.problems import Problem
from transunet.data.formats import FORMATS, suffix_of
from transunet.data.layouts import (
    acdc,
    acdc_h5,
    btcv,
    decathlon,
    description,
    nnunet,
    paired_folders,
    patients,
    synapse,
)
from transunet.data.store import is_store
from transunet.data.walking import walk
from transunet.errors import ConfigError, TransUNetError

LAYOUTS: dict[str, ModuleType] = {
    "nnunet": nnunet,
    "decathlon": decathlon,
    "synapse": synapse,
    "btcv": btcv,
    "acdc": acdc,
    "acdc-h5": acdc_h5,
    "pairs": paired_folders,
    "patients": patients,
}
"""Name -> module with `recognises(folder)`, `open(folder)` and `SHAPE`, what it looks like.

Where a description lists the cases, `without(folder, names)` takes some of them out of it, for a
corrected copy.
"""


def open_dataset(folder: Path, layout: str | None = None, ignore: int | None = None) -> DataSet:
    """Find the cases in `folder`; no volume is read yet.

    Args:
        folder: the data set.
        layout: a key of `LAYOUTS`; None recognises it.
        ignore: the value in its label files of voxels that nobody labelled; such a value that the
            data set itself lists as a class "ignore", as nnU-Net's do, need not be given.

    Raises:
        ConfigError: when the folder does not exist or is a prepared store, the layout is not
            known, or `ignore` cannot be left out.
        DataError: when the folder is empty, of no known layout, or its description contradicts
            itself.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigError(f"The data set {folder} {what}. Give the folder that holds the data set.")
    if layout is not None and layout not in LAYOUTS:
        raise ConfigError(f"No layout is called {layout!r}. Known: {', '.join(LAYOUTS)}.")
    name = layout or _layout_of(folder)
    if name is None:
        if is_store(folder):
            raise ConfigError(
                f"{folder} is a prepared store, which train and distill take as it is. Give the "
                "data set that it was made from."
            )
        if (folder / description.NAME).is_file():
            description.description_of(folder)  # says what is wrong with it, if that is why
        raise _not_recognised(folder)
    dataset: DataSet = LAYOUTS[name].open(folder)
    dataset = replace(dataset, name=dataset.name or folder.name, folder=folder, layout=name)
    declared = [v for v, index in dataset.values.items() if dataset.labels[index] == "ignore"]
    for value in (*declared, ignore):
        dataset = dataset if value is None else dataset.ignoring(value)
    where = str(dataset.folder)
    if not dataset.cases:
        shape = LAYOUTS[dataset.layout].SHAPE
        holds = _contents(dataset.folder, below=True)
        found = f"this {dataset.layout} data set has no cases; expected {shape}; {holds}"
        remedy = "Check that the images were copied along, in a format that is read: "
        raise Problem("empty", where, found, remedy + ", ".join(FORMATS)).error()
    counts = Counter(case.name for case in dataset.cases)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        found = f"several cases have the same name: {', '.join(twice[:8])}"
        raise Problem("same-name", where, found, "Give every case a name of its own").error()
    for name in counts:  # which becomes a file's, in outputs
        if name != Path(name).name or "\\" in name or name.startswith("."):
            found = f"{name!r} cannot be the name of a case"
            raise Problem("name", where, found, "Use a name without slashes").error()
    return nnunet.with_folds(dataset)


def recognises(folder: Path) -> bool:
    """Whether `folder` is a data set of a known layout."""
    return _layout_of(folder) is not None


def _layout_of(folder: Path) -> str | None:
    return next((name for name, module in LAYOUTS.items() if module.recognises(folder)), None)


def _not_recognised(folder: Path) -> TransUNetError:
    """Say what the folder holds, which folder near it could be meant, and what is known."""
    found = f"no data set is recognised here: {_contents(folder)}"
    if (folder / description.NAME).is_file():
        keys = ", ".join(sorted(description.keys_of(folder)))
        found += f"; its {description.NAME} has the keys {keys}, and neither layout's below"
    elif {"imagesTr", "labelsTr"} <= {path.name for path in folder.iterdir()}:
        found += f", but no {description.NAME}, which says what they are"
    advice = "Arrange it like one of these, or name its layout"
    parent = folder.parent if folder.parent.name else folder.absolute().parent
    for near in (parent, *description.folders_in(folder)):
        if name := _layout_of(near):
            where = "its parent" if near == parent else "in it,"
            found += f"; {where} {near} is a data set of the layout {name}"
            advice = f"Give {near}"
            break
    known = "".join(f"\n  {name}: {module.SHAPE}" for name, module in LAYOUTS.items())
    return Problem("layout", str(folder), found, f"{advice}. Known layouts:{known}").error()


def _contents(folder: Path, below: bool = False) -> str:
    """`12 .png files and the folders a, b`; with the files `below` in place of the folders."""
    files = walk(folder).files if below else description.files_in(folder)
    holds = [", ".join(path.name for path in files)] if files else []
    if len(files) > 3:
        suffixes = Counter(suffix_of(path) or path.suffix or path.name for path in files)
        kinds = [f"{count} {suffix}" for suffix, count in suffixes.most_common(4)]
        kinds += [f"{len(suffixes) - 4} more kinds"] if len(suffixes) > 4 else []
        holds = [f"{', '.join(kinds)} files"]
    folders = [] if below else [path.name for path in description.folders_in(folder)]
    if folders:
        holds.append(f"the folders {', '.join(folders[:6])}{', ...' if len(folders) > 6 else ''}")
    return f"it holds {' and '.join(holds)}" if holds else "it is empty"

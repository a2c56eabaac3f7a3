"""The images in a folder: those of a data set's cases, or all that lie in it and below."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from transunet.data.cases import Case, DataSet
from transunet.data.formats import FORMATS, SLICES, raster, stem_of, suffix_of
from transunet.data.formats.dicom_files import is_slice
from transunet.data.layouts import open_dataset, recognises
from transunet.data.layouts.lists import MISSING_TEST
from transunet.errors import ConfigError, DataError
from transunet.inference.runs.claims import FOLDER as OUTPUTS

_LOGGER = logging.getLogger(__name__)


class Image(NamedTuple):
    """A file or a DICOM folder, and what its case is called."""

    path: Path
    name: str
    """Its stem, behind the folders that lead to it: `patient101/patient101_frame01`."""


def dataset_in(folder: Path, split: str | None, labelled: bool) -> DataSet | None:
    """Return the data set that `folder` is, or None if its images are to be taken as they lie.

    Images that lie in the folder itself are meant themselves, unless a part of a data set is asked
    for.
    """
    if not recognises(folder):
        return None
    loose = any(_is_image(file) for file in folder.iterdir())
    return None if loose and not (split or labelled) else open_dataset(folder)


def chosen_cases(dataset: DataSet, split: str | None, labelled: bool) -> list[Case]:
    """Return the cases to predict: of `split`; without one, the test cases, or all if none is.

    Args:
        dataset: where from.
        split: "train", "validation" or "test".
        labelled: only cases that have a label map.

    Raises:
        ConfigError: when there are no such cases.
        DataError: when the test cases are asked for, and none of those that are listed is there.
    """
    cases = [case for case in dataset.cases if not labelled or (case.label and case.label.exists())]
    chosen = [case for case in cases if case.split == (split or "test")]
    missing = [note for note in dataset.notes if note.kind == MISSING_TEST]
    if missing and not labelled and not chosen and split in (None, "test"):
        raise DataError(f"{missing[0].text} Or segment other cases of it: --split train.")
    for note in missing if split in (None, "test") else ():
        _LOGGER.warning(note.text)
    if not chosen and split is None:
        chosen = cases
    if chosen:
        return chosen
    kind = "labelled case" if labelled else "case"
    splits = sorted({case.split for case in cases if case.split})
    listed = f"it has {', '.join(splits)}" if splits else "its cases have no splits"
    of = f" of the split {split!r}; {listed}" if split else ""
    raise ConfigError(f"{dataset.folder}: this {dataset.layout} data set has no {kind}{of}.")


def images_below(folder: Path) -> list[Image]:
    """Return the images in `folder` and in the folders below it, by name.

    A folder with DICOM slices is one image. Passed over are hidden files and folders, folders that
    predictions were written to, and pictures beside volumes, which are previews or masks.

    Raises:
        ConfigError: when there are none.
    """
    found = [image for place, files in _walked(folder) for image in _images(folder, place, files)]
    if not found:
        raise ConfigError(f"The folder {folder} holds no images ({', '.join(FORMATS)}).")
    return [image for image in found if not _is_picture(image)] or found


def _is_picture(image: Image) -> bool:
    return FORMATS.get(suffix_of(image.path) or "") is raster and image.path.is_file()


def _walked(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    for place, folders, files in os.walk(root):
        if OUTPUTS in folders and Path(place) != root:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        yield Path(place), [Path(place, name) for name in sorted(files) if name[0] != "."]


def _images(root: Path, place: Path, files: list[Path]) -> Iterator[Image]:
    inner = place.relative_to(root)
    slices = (file for file in files if suffix_of(file) is None or suffix_of(file) in SLICES)
    if any(map(is_slice, slices)):
        yield Image(place, root.name if place == root else inner.as_posix())
    yield from (
        Image(file, (inner / stem_of(file)).as_posix()) for file in files if _is_image(file)
    )


def _is_image(path: Path) -> bool:
    hidden, suffix = path.name.startswith("."), suffix_of(path)
    # A folder's DICOM files are the slices of one image, not an image each.
    return path.is_file() and not hidden and suffix is not None and suffix not in SLICES

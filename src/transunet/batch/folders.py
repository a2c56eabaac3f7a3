"""The images in a folder: those of a data set's cases, or all that lie in it and below."""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from transunet.batch.locks import FOLDER as OUTPUTS
from transunet.data.cases import Case, DataSet
from transunet.data.formats import (
    FORMATS,
    SLICES,
    kind_in_folder,
    kind_of,
    raster,
    stem_of,
    suffix_of,
)
from transunet.data.formats.dicom.headers import EMPTY, OTHER, is_slice, why_no_slice
from transunet.data.formats.dicom.series import counted
from transunet.data.layouts import open_dataset, recognises
from transunet.data.layouts.lists import MISSING_TEST
from transunet.data.walking import walk
from transunet.errors import ConfigError, DataError

_LOGGER = logging.getLogger(__name__)


class Image(NamedTuple):
    """A file or a DICOM folder, and what its case is called."""

    path: Path
    name: str
    """Its stem, behind the folders that lead to it: `patient101/patient101_frame01`."""
    slices: tuple[Path, ...] = ()
    """Of a DICOM folder above others: its own, without those of the others."""

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read."""
        return self.slices or (self.path,)


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

    A folder with DICOM slices is one image, and so is each folder with slices below it. Links to
    folders are followed. Passed over are hidden files and folders, folders that predictions were
    written to, and pictures beside volumes, which are previews or masks; and, with a note, links
    that lead nowhere or in a circle, and DICOM files that are no slices.

    Raises:
        ConfigError: when there are none.
    """
    walked = walk(folder, lambda place, names: OUTPUTS in names and place != folder)
    if walked.not_followed:
        _LOGGER.warning("Not followed: %s", walked)
    passed_over: Counter[str] = Counter()
    found = [
        image
        for place, files in walked.folders
        for image in _images(folder, place, files, passed_over)
    ]
    told = f"passed over: {counted(passed_over)}"
    if not found:
        more = f"; {told}" if passed_over else ""
        raise ConfigError(f"The folder {folder} holds no images ({', '.join(FORMATS)}){more}.")
    if passed_over:
        _LOGGER.info("%s: %s", folder, told)
    series = [image.path for image in found if image.path.is_dir()]
    files = dict(walked.folders)
    found = [
        image._replace(slices=tuple(filter(is_slice, files[image.path])))
        if any(image.path in place.parents for place in series)
        else image
        for image in found
    ]
    return [image for image in found if not _is_picture(image)] or found


def _is_picture(image: Image) -> bool:
    return FORMATS.get(kind_of(image.path) or "") is raster and image.path.is_file()


def _images(
    root: Path, place: Path, files: list[Path], passed_over: Counter[str]
) -> Iterator[Image]:
    inner = place.relative_to(root)
    no_slices: Counter[str] = Counter()
    for file in files:
        suffix = suffix_of(file)
        if suffix is not None and suffix not in SLICES:
            continue
        why = why_no_slice(file)
        if why is None:
            yield Image(place, root.name if place == root else inner.as_posix())
            break  # reading the series tells what is passed over in its folder
        if suffix is not None or why not in (EMPTY, OTHER):
            no_slices[why] += 1
    else:
        passed_over.update(no_slices)
    yield from (
        Image(file, (inner / stem_of(file)).as_posix()) for file in files if _is_image(file)
    )


def _is_image(path: Path) -> bool:
    if path.name.startswith(".") or not path.is_file():
        return False
    # A folder's DICOM files are the slices of one image, not an image each.
    return kind_in_folder(path) not in (None, *SLICES)

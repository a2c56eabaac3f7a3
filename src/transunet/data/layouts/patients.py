"""A folder per patient, which holds the images, one per channel, and one mask.

The mask is called `mask`, `label`, `seg` or the like, or ends so; everything else is an image. The
patient's name may lead the files' names. Where there is one image it may be called anything, of
several the names are the channels: those that most patients have. Folders that hold several images
and masks each are read as `pairs` reads them.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transunet.data.cases import Case, DataSet
from transunet.data.checks.problems import Problem
from transunet.data.formats import case_of_mask, kind_in_folder, suffix_of
from transunet.data.formats.dicom.headers import is_dicom
from transunet.data.layouts import description, masks, paired_folders

SHAPE = "PATIENT/image.nii.gz (or t1.nii.gz, t2.nii.gz, ...) and PATIENT/label.nii.gz (or seg)"


@dataclass(frozen=True)
class _Patient:
    """A folder's files by what their names are without the patient's."""

    folder: Path
    split: str | None
    images: Mapping[str, Path]
    masks: Mapping[str, Path]


def recognises(folder: Path) -> bool:
    """Whether most folders in it hold images and one mask, or all of them several pairs."""
    return _has_one_mask_each(folder) or paired_folders.recognises_parts(folder)


def _has_one_mask_each(folder: Path) -> bool:
    patients = list(_patients(folder))
    whole = [patient for patient in patients if len(patient.masks) == 1]
    return bool(whole) and 2 * len(whole) > len(patients)


def open(folder: Path) -> DataSet:
    """Find the patients, and what the masks' values mean.

    Raises:
        DataError: when no mask could be read, or they hold no classes that could be told apart.
    """
    if not _has_one_mask_each(folder) and paired_folders.recognises_parts(folder):
        return replace(paired_folders.open(folder), layout="patients")
    patients = list(_patients(folder))
    counts = Counter(name for patient in patients for name in patient.images)
    usual = sorted(name for name, count in counts.items() if 2 * count > len(patients))
    single = all(len(patient.images) == 1 for patient in patients)
    cases = [_case(patient, None if single else usual) for patient in patients]
    if len({case.name for case in cases}) < len(cases):
        cases = [paired_folders.named_by_split(case) for case in cases]
    if not cases:
        return DataSet(folder.name, folder, "patients", (), {}, ())
    orphans = _orphans(patients, cases)
    labels = [case.label for case in cases if case.label]
    meaning = masks.meaning(folder, labels, [Path(orphan.where) for orphan in orphans])
    if single or len(usual) == 1:
        channels, intensity_range, notes = paired_folders.channels_of(folder, cases)
    else:
        channels, intensity_range, notes = tuple(usual), None, []
    return DataSet(
        name=folder.name,
        folder=folder,
        layout="patients",
        cases=tuple(cases),
        labels=meaning.labels,
        channels=channels,
        label_values=meaning.values,
        intensity_range=intensity_range,
        notes=(*meaning.notes, *notes, *orphans),
    )


def _patients(folder: Path) -> Iterator[_Patient]:
    for inner in paired_folders.folders_in(folder):
        split = paired_folders.SPLITS.get(inner.name.lower())
        for place in paired_folders.folders_in(inner) if split else [inner]:
            named = {_without(place.name, name): path for name, path in _files(place)}
            labels = {name: path for name, path in named.items() if _is_mask(name)}
            images = {name: path for name, path in named.items() if name not in labels}
            if images:
                yield _Patient(place, split, images, labels)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """The images and masks in a folder, and the DICOM series beside them."""
    for name, path in paired_folders.files_in(folder, flat=True):
        if kind_in_folder(path):
            yield name, path
    for inner in paired_folders.folders_in(folder):
        if any(map(is_dicom, description.listed(inner)[:1])):  # no more: there may be thousands
            yield inner.name, inner


def _without(patient: str, name: str) -> str:
    """`p1_t1` -> `t1`."""
    return re.sub(rf"^{re.escape(patient)}[-_. ]+", "", name, flags=re.IGNORECASE).lower()


def _is_mask(name: str) -> bool:
    return name in paired_folders.MASKS or case_of_mask(name) is not None


def _case(patient: _Patient, channels: Sequence[str] | None) -> Case:
    """A case; where a channel or the mask is missing, the path it could have."""
    images = patient.images
    suffix = suffix_of(next(iter(images.values()))) or ".nii.gz"
    files = (
        tuple(images.get(name, patient.folder / f"{name}{suffix}") for name in channels)
        if channels
        else tuple(images.values())
    )
    named = [path for name, path in patient.masks.items() if name in paired_folders.MASKS]
    label = next(iter((*named, *patient.masks.values())), None)
    if label is None and patient.split != "test":
        label = patient.folder / f"label{suffix}"
    return Case(patient.folder.name, files, label, split=patient.split)


def _orphans(patients: Sequence[_Patient], cases: Sequence[Case]) -> list[Problem]:
    used = {path for case in cases for path in (*case.images, case.label) if path}
    images = [path for patient in patients for path in patient.images.values()]
    labels = [path for patient in patients for path in patient.masks.values()]
    return [
        *description.orphans(images, used, "orphan", "most patients have no such image"),
        *description.orphans(labels, used, "orphan", "another file is taken as this case's mask"),
    ]

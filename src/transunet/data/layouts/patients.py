"""A folder per patient, which holds the images, one per channel, and one mask.

The mask is called `mask`, `label`, `seg` or the like, or ends so; everything else is an image. The
patient's name may lead the files' names. Where there is one image it may be called anything, of
several the names are the channels: those that most patients have. Folders that hold several images
and masks each are read as `pairs` reads them.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transunet.data.cases import Case, DataSet
from transunet.data.formats import case_of_mask, kind_in_folder, suffix_of
from transunet.data.formats.dicom.headers import is_dicom
from transunet.data.layouts import description, paired_folders
from transunet.data.layouts.description import files_in, folders_in

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
    return _mostly_one_mask(_patients(folder)) or paired_folders.recognises_parts(folder)


def open(folder: Path) -> DataSet:
    """Find the patients, and what the masks' values mean; errors as `paired_folders.open`."""
    patients = _patients(folder)
    if not _mostly_one_mask(patients) and paired_folders.recognises_parts(folder):
        return paired_folders.open(folder)
    counts = Counter(name for patient in patients for name in patient.images)
    channels = sorted(name for name, count in counts.items() if 2 * count > len(patients))
    single = all(len(patient.images) == 1 for patient in patients)
    cases = []
    for patient in patients:
        # Where a channel or the mask is missing, the path that it could have.
        suffix = suffix_of(next(iter(patient.images.values()))) or ".nii.gz"
        images = tuple(patient.images.values())
        if not single and channels:
            images = tuple(
                patient.images.get(name, patient.folder / f"{name}{suffix}") for name in channels
            )
        named = [path for name, path in patient.masks.items() if name in paired_folders.MASKS]
        label = next(iter((*named, *patient.masks.values())), None)
        if label is None and patient.split != "test":
            label = patient.folder / f"label{suffix}"
        cases.append(Case(patient.folder.name, images, label, split=patient.split))
    files = [path for patient in patients for path in patient.images.values()]
    masks = [path for patient in patients for path in patient.masks.values()]
    notes = [
        *description.unused_files(files, cases, "most patients have no such image"),
        *description.unused_files(masks, cases, "another file is taken as this case's mask"),
    ]
    named_channels = () if single or len(channels) == 1 else channels
    return paired_folders.dataset_of(folder, cases, notes, named_channels)


def _patients(folder: Path) -> list[_Patient]:
    patients = []
    for inner in folders_in(folder):
        split = description.SPLITS.get(inner.name.lower())
        for patient in folders_in(inner) if split else [inner]:
            files = [
                (name, path)
                for name, path in paired_folders.named_files(patient, flat=True)
                if kind_in_folder(path)
            ]
            files += [
                (series.name, series)
                for series in folders_in(patient)
                if any(map(is_dicom, files_in(series)[:1]))  # no more: there may be thousands
            ]
            lead = re.compile(rf"^{re.escape(patient.name)}[-_. ]+", re.IGNORECASE)  # p1_t1 -> t1
            named = {lead.sub("", name).lower(): path for name, path in files}
            masks = {
                name: path
                for name, path in named.items()
                if name in paired_folders.MASKS or case_of_mask(name)
            }
            images = {name: path for name, path in named.items() if name not in masks}
            if images:
                patients.append(_Patient(patient, split, images, masks))
    return patients


def _mostly_one_mask(patients: list[_Patient]) -> bool:
    whole = [patient for patient in patients if len(patient.masks) == 1]
    return bool(whole) and 2 * len(whole) > len(patients)

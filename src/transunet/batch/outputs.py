"""Where the files of a case go, and in which format its label map is written."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from transunet.data.cases import Case
from transunet.data.formats import FORMATS, kind_of, suffix_of, write_volume
from transunet.data.formats.dicom.segmentation import write_seg
from transunet.data.formats.npy import sidecar_of
from transunet.data.volume import Volume
from transunet.errors import ConfigError
from transunet.files import atomic_path, writing

Format = Literal["same", "nifti", "npz", "dicom-seg"]
MapFormat = Literal["npy", "nii"]

_CHOSEN: Mapping[str, str] = MappingProxyType(
    {"nifti": ".nii.gz", "npz": ".npz", "dicom-seg": ".dcm"}
)


def label_name(case: Case, format_: Format = "same") -> str:
    """Return the file name of a case's label map."""
    suffix = kind_of(case.images[0]) or ".nii.gz"
    return case.name + (_CHOSEN.get(format_) or FORMATS[suffix].label_suffixes.get(suffix, suffix))


def write_labels(labels: Volume, path: Path, names: Mapping[int, str] | None = None) -> None:
    """Write a label map; it appears when it is complete.

    `.npz` holds `label` (slices last in the volume come first, as in the authors' files) and
    `affine`; `.dcm` is a DICOM segmentation, whose segments are called by `names` (class index ->
    name); every other suffix is one of `transunet.data.formats`. Beside `.npy` stands
    `NAME.npy.json` with the affine, where that is not the identity.

    Raises:
        ConfigError: for a format that is not known or cannot hold it, or where there is no room.
    """
    suffix = suffix_of(path)
    if suffix and suffix in FORMATS[suffix].two_files:
        raise ConfigError(
            f"{path}: label maps are not written as two files, of which one could be left without "
            "the other. Choose .nii.gz, .mha or .nrrd."
        )
    with writing(path), atomic_path(path) as scratch:
        _write(labels, scratch, names)
        if sidecar_of(scratch).exists():  # first, so that a label map never lacks its place
            sidecar_of(scratch).replace(sidecar_of(path))
        elif path.suffix.lower() == ".npy":
            sidecar_of(path).unlink(missing_ok=True)  # of a label map that is replaced


def write_values(path: Path, values: Any) -> None:
    """Write values as JSON; the file appears when it is complete.

    Raises:
        ConfigError: where there is no room.
    """
    with writing(path), atomic_path(path) as scratch:
        scratch.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _write(labels: Volume, path: Path, names: Mapping[int, str] | None) -> None:
    if path.suffix.lower() == ".npz":
        slices = np.moveaxis(labels.array[0], -1, 0)
        with path.open("wb") as file:  # by its name, numpy would add a suffix in small letters
            np.savez_compressed(file, label=slices, affine=labels.affine)
    elif path.suffix.lower() == ".dcm" and names is not None:
        write_seg(labels, labels, names, path)
    else:
        write_volume(labels, path)

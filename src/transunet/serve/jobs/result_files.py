"""A job's label map in the format that is wanted; runs in the desk's process."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from transunet.batch.outputs import write_labels
from transunet.data.formats import read_labels
from transunet.errors import TransUNetError
from transunet.serve.api.error_responses import ApiError, told
from transunet.serve.jobs.messages import LABELS
from transunet.serve.uploads.inspection import read_kept
from transunet.serve.uploads.quota import is_full, no_room

ResultFormat = Literal["nifti", "dicom-seg", "png", "npz"]
SUFFIXES: Mapping[str, str] = MappingProxyType(
    {"nifti": ".nii.gz", "dicom-seg": ".dcm", "png": ".png", "npz": ".npz"}
)
MEDIA: Mapping[str, str] = MappingProxyType(
    {
        "nifti": "application/gzip",
        "dicom-seg": "application/dicom",
        "png": "image/png",
        "npz": "application/zip",
    }
)


def fitting(facts: Mapping[str, Any]) -> list[ResultFormat]:
    """Return the formats that can hold the labels of an image with these facts."""
    found: list[ResultFormat] = ["nifti", "npz"]
    if facts["dicom"]:
        found.append("dicom-seg")
    if facts["shape"][2] == 1 and not facts["dicom"]:
        found.append("png")
    return found


def check_fits(format_: ResultFormat, facts: Mapping[str, Any]) -> None:
    """Make sure that `format_` can hold the labels of an image with these facts.

    Raises:
        ApiError: when it cannot.
    """
    possible = fitting(facts)
    if format_ in possible:
        return
    reason = {
        "dicom-seg": "A DICOM segmentation refers to a DICOM series, and the image is none.",
        "png": f"A PNG holds one slice, and the image has {facts['shape'][2]} (or is DICOM).",
    }[format_]
    raise ApiError("format_not_fitting", reason, f"Possible: {', '.join(possible)}.")


def convert(
    image_folder: Path,
    facts: dict[str, Any],
    folder: Path,
    format_: ResultFormat,
    names: Mapping[int, str],
) -> str:
    """Write the labels of the job in `folder` as `format_` beside them; return the file's name.

    Raises:
        ApiError: when the image's headers do not allow it, or the disk is full.
    """
    name = f"result{SUFFIXES[format_]}"
    try:
        labels = read_labels(folder / LABELS)
        if format_ == "dicom-seg":  # it refers to the image's instances
            labels = replace(labels, header=read_kept(image_folder, facts).header)
        write_labels(labels, folder / name, dict(names))
    except (TransUNetError, OSError) as error:
        if is_full(error):
            raise no_room() from None
        if isinstance(error, OSError):
            raise
        raise told(error, image_folder, "format_not_fitting") from None
    return name

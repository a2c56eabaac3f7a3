"""A job's label map in the format that is wanted; runs in a parser's process."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from transunet.batch.outputs import write_labels, write_measurements
from transunet.data.formats import read_labels
from transunet.data.formats.dicom.segmentation import AlgorithmType
from transunet.data.regions import Region
from transunet.data.volume import Volume
from transunet.errors import TransUNetError
from transunet.serve.api_errors import ApiError, api_error
from transunet.serve.jobs.messages import LABELS
from transunet.serve.uploads.inspection import read_kept

ResultFormat = Literal["nifti", "dicom-seg", "png", "npz"]
RESULT_FORMATS: Mapping[str, tuple[str, str]] = {
    "nifti": (".nii.gz", "application/gzip"),
    "dicom-seg": (".dcm", "application/dicom"),
    "png": (".png", "image/png"),
    "npz": (".npz", "application/zip"),
}
"""Format -> suffix and media type."""
SEGMENTATION, REPORT = "result.dcm", "report.dcm"
"""What a PACS gets of a job or label map, in its folder."""


def possible_formats(metadata: Mapping[str, Any]) -> list[ResultFormat]:
    """Return the formats that can hold the labels of an image with this metadata."""
    formats: list[ResultFormat] = ["nifti", "npz"]
    if metadata["dicom"]:
        formats.append("dicom-seg")
    elif metadata["shape"][2] == 1:
        formats.append("png")
    return formats


def check_possible(format_: ResultFormat, metadata: Mapping[str, Any]) -> None:
    """Make sure that `format_` can hold the labels of an image with this metadata.

    Raises:
        ApiError: when it cannot.
    """
    possible = possible_formats(metadata)
    if format_ == "dicom-seg" and format_ not in possible:
        reason = "A DICOM segmentation refers to a DICOM series, and the image is none."
    elif format_ not in possible:
        reason = f"A PNG holds one slice, and the image has {metadata['shape'][2]} (or is DICOM)."
    else:
        return
    raise ApiError("format_not_fitting", reason, f"Possible: {', '.join(possible)}.")


def write_for_pacs(
    image_folder: Path,
    metadata: dict[str, Any],
    folder: Path,
    structures: Sequence[Mapping[str, Any]],
    *told: Any,
) -> None:
    """Write `SEGMENTATION` and `REPORT` of the label map in `folder`, where they are not yet there.

    Args:
        image_folder: of its image.
        metadata: of the image.
        folder: of the job or label map.
        structures: what was measured of each, with its name.
        told: what else `convert` takes.

    Raises:
        ApiError, OSError: as `convert`.
    """
    measured = {str(each["name"]): each for each in structures}
    if len(measured) < len(structures):  # the report tells them apart by their names
        message = "Several of its structures have the same name, and a report tells of each by it."
        raise ApiError("format_not_fitting", message, "Give each structure a name of its own.")
    if not (folder / SEGMENTATION).exists():
        convert(image_folder, metadata, folder, "dicom-seg", *told)
    if (folder / REPORT).exists():
        return
    try:
        image = read_kept(image_folder, metadata)
        write_measurements(folder / SEGMENTATION, image, measured, folder / REPORT)
    except TransUNetError as error:
        raise api_error(error, image_folder, "format_not_fitting") from None


def _numbered(labels: Volume, names: Mapping[int, str]) -> tuple[Volume, dict[int, str]]:
    """Number named labels from 1 without gaps, as a DICOM SEG's segments are; 0 stays."""
    values = sorted({0, *names})
    nameless = not np.isin(labels.array, values).all()  # which `write_labels` refuses
    if nameless or values == list(range(len(values))):
        return labels, dict(names)
    numbers = np.zeros(values[-1] + 1, labels.array.dtype)
    numbers[values] = range(len(values))
    named = {number: names[value] for number, value in enumerate(values) if value in names}
    return labels.with_array(numbers[labels.array]), named


def convert(
    image_folder: Path,
    metadata: dict[str, Any],
    folder: Path,
    format_: ResultFormat,
    names: Mapping[int, str],
    regions: Sequence[Region] = (),
    algorithm_type: AlgorithmType = "AUTOMATIC",
    author: str = "",
    description: str = "",
) -> str:
    """Write the label map in `folder` as `format_` beside it; return the file's name.

    Args:
        image_folder: of the job's image.
        metadata: of the image.
        folder: of the job or label map.
        format_: one that is possible.
        names: class index -> name.
        regions: what the bundle tells apart, where these are regions.
        algorithm_type: as of `dicom.segmentation.write_seg`, with the two that follow.
        author: who corrected or drew it.
        description: of the series.

    Raises:
        ApiError: when the image's headers do not allow it, or the disk is full.
        OSError: when a file cannot be read or written for another reason.
    """
    name = f"result{RESULT_FORMATS[format_][0]}"
    try:
        labels = read_labels(folder / LABELS)
        if format_ == "dicom-seg":  # it refers to the image's instances
            labels = replace(labels, header=read_kept(image_folder, metadata).header)
            if not regions:
                labels, names = _numbered(labels, names)
        made_by = {"algorithm_type": algorithm_type, "author": author, "description": description}
        write_labels(labels, folder / name, dict(names), regions, **made_by)
    except TransUNetError as error:
        raise api_error(error, image_folder, "format_not_fitting") from None
    return name

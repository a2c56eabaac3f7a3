"""A job's label map against a reference that somebody drew; runs in the desk's process."""

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from transunet.data.classes import match_classes
from transunet.data.formats import suffix_of
from transunet.data.formats.dicom_files import is_dicom
from transunet.data.formats.dicom_seg_read import read_seg
from transunet.errors import DataError, GeometryError, TransUNetError
from transunet.evaluation.measure import Settings, measure
from transunet.evaluation.metrics import ClassMetrics
from transunet.evaluation.names import names_of
from transunet.evaluation.pairs import Pair
from transunet.evaluation.records import Structure
from transunet.inference.runs.outputs import write_labels
from transunet.serve.faults import told
from transunet.serve.images import read_kept
from transunet.serve.intake import check_format
from transunet.serve.questions import LABELS
from transunet.serve.sizes import check_voxels, declared
from transunet.serve.space import telling_of_full_disks


def score(
    reference: Path,
    image_folder: Path,
    facts: dict[str, Any],
    folder: Path,
    names: Mapping[int, str],
    most: int,
) -> dict[str, Any]:
    """Compare the labels of the job in `folder` with `reference`.

    Args:
        reference: a label map on the image's grid, of any format that images may have, or a DICOM
            segmentation of the image's series.
        image_folder: the image's.
        facts: the image's.
        folder: the job's.
        names: class index -> name.
        most: voxels that the reference may have.

    Returns:
        `structures` and `mean`, as the API answers them; None where a figure is not defined.

    Raises:
        ApiError: when the reference is unreadable, on another grid, or has other labels.
    """
    try:
        with telling_of_full_disks():
            path = _label_file(reference, image_folder, facts, most)
            numbers = _numbers(reference, names)
            pair = Pair("the image", folder / LABELS, path, reference_numbers=numbers)
            structures = tuple(Structure((index,), names[index]) for index in names if index)
            record = measure(pair, Settings(structures))
    except TransUNetError as error:
        code = "wrong_grid" if isinstance(error, GeometryError) else "unreadable"
        fault = told(error, reference.parent, code)
        fault.message = fault.message.replace(str(folder / LABELS), "the prediction")
        raise fault from None
    rows = [_row(one, record.metrics[one.key]) for one in structures]
    return {"structures": rows, "mean": {key: _mean(rows, key) for key in ("dice", "hd95_mm")}}


def _numbers(reference: Path, names: Mapping[int, str]) -> Mapping[int, int]:
    """Label value of the reference -> class index, where its segments have names of their own."""
    told = names_of(reference)
    if told is None or not told.real:
        return {}
    matched = match_classes(told.labels, names)
    if matched.first_only:
        raise DataError(
            f"{reference}: it holds {', '.join(matched.first_only.values())}; expected structures "
            f"of the bundle: {', '.join(names[index] for index in names if index)}. Name the "
            "reference's segments like these, or send a label map without names, numbered alike."
        )
    return matched.numbers


def _label_file(reference: Path, image_folder: Path, facts: dict[str, Any], most: int) -> Path:
    if suffix_of(reference) != ".zip" and is_dicom(reference):
        labels = read_seg(reference, read_kept(image_folder, facts))
        path = reference.with_name("reference.nii.gz")
        write_labels(labels, path)
        return path
    check_format(reference)
    check_voxels(reference, declared(reference), most)
    return reference


def _row(structure: Structure, found: ClassMetrics) -> dict[str, Any]:
    return {
        "index": structure.values[0],
        "name": structure.name,
        "dice": _number(found.dice),
        "hd95_mm": _number(found.hd95),
    }


def _number(value: float) -> float | None:
    return value if isfinite(value) else None


def _mean(rows: list[dict[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows if row[key] is not None]
    return sum(values) / len(values) if values else None

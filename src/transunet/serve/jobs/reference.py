"""A job's label map against a reference that somebody drew; runs in a parser's process."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from transunet.data.classes import is_named, match_classes
from transunet.data.formats.dicom.segmentation import is_seg, segment_names
from transunet.data.regions import Region, structures_in
from transunet.errors import DataError, GeometryError, TransUNetError
from transunet.evaluation.measure import Settings, measure
from transunet.evaluation.pairs import Pair
from transunet.evaluation.records import Structure
from transunet.evaluation.structure_names import names_of
from transunet.serve.api_errors import ApiError, api_error
from transunet.serve.jobs.messages import LABELS
from transunet.serve.uploads.accept import check_format, without_companions
from transunet.serve.uploads.inspection import check_voxels, declared_voxels, unpacked


def score(
    files: Sequence[Path],
    folder: Path,
    names: Mapping[int, str],
    most_voxels: int,
    room: int,
    ignore: int | None = None,
    regions: Sequence[Region] = (),
) -> dict[str, Any]:
    """Compare the labels of the job in `folder` with a reference.

    Its classes are the bundle's by name where it names them (3D Slicer's `.seg.nrrd`, a DICOM
    SEG), else by number; 255 in a black-and-white mask is the class of a bundle that has one.

    Args:
        files: of the reference, which lies on the image's grid, in any format that images may have,
            or a DICOM segmentation of the image's series.
        folder: the job's.
        names: class index -> name.
        most_voxels: that the reference may have.
        room: bytes that an archive may unpack to.
        ignore: the value in the reference of voxels that nobody labelled.
        regions: what is measured, where the bundle tells regions apart.

    Returns:
        `structures`, `mean` and `warnings`, as the API answers them; None where a figure is not
        defined.

    Raises:
        ApiError: when the reference is unreadable, on another grid, or has other labels.
    """
    members = {region.label: region.members for region in regions}
    structures = {
        index: Structure(members.get(index, (index,)), name)
        for index, name in structures_in(names, regions).items()
    }
    try:
        images = without_companions(unpacked(list(files), room))
        if len(images) != 1:
            message = f"Expected one file, the reference; found {len(images)}."
            raise ApiError("malformed", message, "Send it as the form field 'file'.")
        (path,) = images
        if not is_seg(path):
            check_format(path)
            check_voxels(path, declared_voxels(path), most_voxels)
        numbers, warnings = _match_by_name(path, names)
        pair = Pair("the image", folder / LABELS, path, reference_numbers=numbers)
        record = measure(pair, Settings(tuple(structures.values()), ignore=ignore))
    except TransUNetError as error:
        code = "wrong_grid" if isinstance(error, GeometryError) else "unreadable"
        fault = api_error(error, files[0].parent, code)
        fault.message = fault.message.replace(str(folder / LABELS), "the prediction")
        raise fault from None
    if record.white:
        soft = ", with its soft edges cut at half of it" if record.white == "soft" else ""
        warnings.append(f"255 in the reference was read as {names[1]}{soft}.")
    rows: list[dict[str, Any]] = []
    for index, structure in structures.items():
        metrics = record.metrics[structure.key]
        scores = {"dice": metrics.dice, "hd95_mm": metrics.hd95}
        finite = {key: value if isfinite(value) else None for key, value in scores.items()}
        rows.append({"index": index, "name": structure.name, **finite})
    means: dict[str, float | None] = {}
    for key in ("dice", "hd95_mm"):
        values = [row[key] for row in rows if row[key] is not None]
        means[key] = sum(values) / len(values) if values else None
    return {"structures": rows, "mean": means, "warnings": warnings}


def _match_by_name(path: Path, names: Mapping[int, str]) -> tuple[Mapping[int, int], list[str]]:
    """The class index of each of a reference's labels, where it names them, and what to say of it.

    Raises:
        DataError: when it names a class that the bundle does not have.
    """
    named = None if is_seg(path) else names_of(path)
    own = segment_names(path) if is_seg(path) else named.labels if named else {}
    if not any(is_named(name) for value, name in own.items() if value):
        return {}, []
    matched = match_classes({0: "background", **own}, names)
    if matched.first_only:
        raise DataError(
            f"{path}: it holds {', '.join(matched.first_only.values())}; expected structures "
            f"of the model: {', '.join(names[index] for index in names if index)}. Name the "
            "reference's segments like these, or send a label map without names, numbered alike."
        )
    if matched.in_order:
        return {}, []
    return matched.numbers, ["The reference numbers its classes otherwise: compared by name."]

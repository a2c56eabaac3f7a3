"""Label maps of an image against each other; runs in a parser's process."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from transunet.data.classes import is_named, match_classes
from transunet.data.formats.dicom.segmentation import is_seg, segment_names
from transunet.data.regions import Region, members_of_structures, structures_in
from transunet.errors import DataError, GeometryError, TransUNetError
from transunet.evaluation.measure import Settings, measure
from transunet.evaluation.pairs import Pair
from transunet.evaluation.records import CaseRecord, Structure
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
    structures = _structures(names, regions)
    try:
        path = only_label_map(files, most_voxels, room)
        numbers, warnings = _match_by_name(path, names)
        pair = Pair("the image", folder / LABELS, path, reference_numbers=numbers)
        record = measure(pair, Settings(tuple(structures.values()), ignore=ignore))
    except TransUNetError as error:
        code = "wrong_grid" if isinstance(error, GeometryError) else "unreadable"
        called = {folder / LABELS: "the prediction"}
        raise api_error(error, files[0].parent, code, called) from None
    if record.white:
        soft = ", with its soft edges cut at half of it" if record.white == "soft" else ""
        warnings.append(f"255 in the reference was read as {names[1]}{soft}.")
    return _comparison(record, structures, warnings)


def compare(
    of: Path,
    names: Mapping[int, str],
    regions: Sequence[Region],
    other: Path,
    other_names: Mapping[int, str],
) -> dict[str, Any]:
    """Compare two label maps of one image that the server keeps; classes are matched by name.

    Args:
        of: the folder of the one that is measured.
        names: its label values -> names.
        regions: what is measured of it, where these are regions.
        other: the folder of what counts as the reference.
        other_names: its label values -> names.

    Returns:
        As `score`.

    Raises:
        ApiError: when they have no class in common, or cannot be read.
    """
    matched = match_classes({0: "background", **other_names}, {0: "background", **names})
    numbers = {**matched.numbers, **dict.fromkeys(matched.first_only, 0)}
    own = {number: 0 if number in matched.second_only else number for number in (0, *names)}
    structures = {
        index: structure
        for index, structure in _structures(names, regions).items()
        if not matched.second_only.keys() & set(structure.values)
    }
    if not structures:
        first, second = (", ".join(each.values()) or "none" for each in (names, other_names))
        message = f"They have no structure in common: {first}; and {second}."
        raise ApiError("invalid_request", message, "Compare label maps of the same structures.")
    pair = Pair("the image", of / LABELS, other / LABELS, (), own, numbers)
    try:
        record = measure(pair, Settings(tuple(structures.values())))
    except TransUNetError as error:
        called = {of / LABELS: "the label map", other / LABELS: "the reference"}
        raise api_error(error, of, called=called) from None
    alone = [*matched.second_only.values(), *matched.first_only.values()]
    return _comparison(
        record, structures, [f"Only one of them has {', '.join(alone)}."] if alone else []
    )


def only_label_map(files: Sequence[Path], most_voxels: int, room: int) -> Path:
    """Return the one label map that was sent, unpacked; arguments as of `score`.

    Raises:
        ApiError: for several files, a format that is not taken, or too many voxels.
        DataError, GeometryError: for a damaged header or archive.
    """
    paths = without_companions(unpacked(list(files), room))
    if len(paths) != 1:
        message = f"Expected one file, a label map; found {len(paths)}."
        raise ApiError("malformed", message, "Send it as the form field 'file'.")
    (path,) = paths
    if not is_seg(path):
        check_format(path)
        check_voxels(path, declared_voxels(path), most_voxels)
    return path


def own_names(path: Path) -> Mapping[int, str]:
    """Return what a label map itself calls its values; empty where it has no names for them."""
    named = None if is_seg(path) else names_of(path)
    own = segment_names(path) if is_seg(path) else named.labels if named else {}
    own = {value: name for value, name in own.items() if value}
    return own if any(map(is_named, own.values())) else {}


def _structures(names: Mapping[int, str], regions: Sequence[Region]) -> dict[int, Structure]:
    members = members_of_structures(names, regions)
    return {
        index: Structure(members[index], name)
        for index, name in structures_in(names, regions).items()
    }


def _comparison(
    record: CaseRecord, structures: Mapping[int, Structure], warnings: list[str]
) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for index, structure in structures.items():
        metrics = record.metrics[structure.key]
        scores = {"dice": metrics.dice, "hd95_mm": metrics.hd95}
        finite = {key: value if isfinite(value) else None for key, value in scores.items()}
        volumes = {"volume_ml": metrics.prediction_ml, "reference_volume_ml": metrics.reference_ml}
        rows.append({"index": index, "name": structure.name, **finite, **volumes})
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
    if not (own := own_names(path)):
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

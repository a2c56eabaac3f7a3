"""DICOM segmentations (SEG): anybody's read onto an image's grid, our label maps written as one.

A file holds the slices that have labels only. Without an image, the label map reaches from its
first slice to its last. Files are written through highdicom: binary, a bit per voxel and segment,
or as a label map, a number per voxel, compressed.
"""

import copy
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from transunet.colours import colour_of
from transunet.data.checks.problems import Problem
from transunet.data.formats.dicom.codes import structure
from transunet.data.formats.dicom.frames import Frame, frames_of
from transunet.data.formats.dicom.headers import (
    is_called_dicom,
    is_dicom,
    read_dataset,
    undamaged,
    unreadable,
    value,
    why_no_slice,
)
from transunet.data.formats.dicom.series import Series
from transunet.data.formats.dicom.slice_grid import (
    GRID_TOLERANCE,
    SAME_MM,
    plane_affine,
)
from transunet.data.regions import Region
from transunet.data.volume import LPS_TO_RAS, Grid, Volume, same_grid
from transunet.errors import ConfigError, TransUNetError, first_line
from transunet.files import writing
from transunet.optional import DISTRIBUTION, own_version, require

AlgorithmType = Literal["AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"]
_DESCRIPTIONS: Mapping[AlgorithmType, str] = {
    "AUTOMATIC": "TransUNet segmentation",
    "SEMIAUTOMATIC": "TransUNet segmentation, corrected by a person",
    "MANUAL": "Segmentation by a person",
}
_SERIES_NUMBER = 900  # of the segmentation's series; viewers sort by it
ALGORITHM = "TransUNet"
"""What every object says that it was made by."""
_SYNTAXES = {"BINARY": "1.2.840.10008.1.2.1", "LABELMAP": "1.2.840.10008.1.2.5"}
"""Explicit little endian, RLE lossless: what is written. Single bits cannot be compressed so that
readers know it."""
_OVERLAPPING = "Regions that overlap, the later ones over the earlier"
"""The content's description in a file whose segments are read back one over the other."""
_GIVE_IMAGE = "Give the image that it belongs to"
_PER_FRAME = "PerFrameFunctionalGroupsSequence"
_NAME_LENGTH = 64  # of a segment's label and a code's meaning

# By these a segmentation refers to an image; the last two are the same for all of a series.
_REFERRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
_SHARED = ("StudyInstanceUID", "FrameOfReferenceUID")

# highdicom copies them from the source; anonymised files often lack them. Empty is allowed.
_COPIED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
)


def read_seg(path: Path, like: Volume | Grid | None = None) -> Volume:
    """Read a DICOM SEG onto the grid of the image it belongs to.

    Args:
        path: the file, binary, fractional (half or more counts) or a label map.
        like: the image or its grid; slices without frames in the file have no labels. None: the
            smallest grid that holds the file's frames, `seg_grid`.

    Returns:
        (1, X, Y, Z) uint8 or uint16, segment numbers as labels, on the grid of `like`.

    Raises:
        ConfigError: without pydicom, or when there is no such file.
        DataError: when it is damaged, is no SEG, or segments overlap; those of regions that
            `write_seg` has written become labels again.
        GeometryError: when it lies on another grid.
    """
    dataset = _open(path)
    frames = frames_of(path, dataset)
    with undamaged(path):
        kind = str(dataset.SegmentationType)
        overlapping = dataset.get("ContentDescription") == _OVERLAPPING
        if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
            raise unreadable(path, f"its SegmentationType is {kind}")
        largest = max(int(segment.SegmentNumber) for segment in dataset.SegmentSequence)
        if not 0 <= largest <= 65535:
            raise unreadable(path, f"it has a segment number {largest}")
    grid = like or _grid_of(frames, path)
    if isinstance(grid, Grid):
        nothing = np.broadcast_to(np.uint8(0), (1, *grid.spatial_shape))
        grid = Volume(nothing, grid.affine, grid.name)
    axes = Grid((1, 1, 1), plane_affine(frames[0], frames[0].normal)).orientation
    turned = grid.reoriented(axes)
    # Slices first: each frame in one piece.
    out = np.zeros(turned.spatial_shape[::-1], np.uint8 if largest <= 255 else np.uint16)
    with undamaged(path):
        stored = _stored_frames(dataset)
        for frame in frames:
            labels = next(stored)
            if kind != "LABELMAP":
                half = int(dataset.MaximumFractionalValue) / 2 if kind == "FRACTIONAL" else 1
                where = ("SegmentIdentificationSequence", "ReferencedSegmentNumber")
                labels = np.where(labels >= half, int(value(dataset, frame.index, *where)), 0)
            plane, inside = out[_slice_of(frame, turned, path)], labels > 0
            if overlapping:
                np.maximum(plane, labels, out=plane, casting="unsafe")
                continue
            if (plane[inside] > 0).any():
                found = "its segments overlap, and a label map has one label per voxel"
                raise unreadable(path, found, "Export them without overlap")
            plane[inside] = labels[inside]
    return turned.with_array(out.transpose(2, 1, 0)[None]).reoriented(grid.orientation)


def seg_grid(paths: Sequence[Path]) -> Grid:
    """Return the smallest grid that holds the frames of DICOM SEGs of one image.

    Errors as `read_seg`; a `GeometryError` when the frames do not lie on one grid.
    """
    frames = [frame for path in paths for frame in frames_of(path, _open(path, pixels=False))]
    return _grid_of(frames, paths[0])


def is_seg(path: Path) -> bool:
    """Whether a file is a DICOM SEG."""
    return path.is_file() and is_called_dicom(path) and why_no_slice(path) == "SEG"


def segment_names(path: Path) -> dict[int, str]:
    """Return segment number -> label of a DICOM SEG; a `DataError` for another or damaged file."""
    items = _open(path, pixels=False).SegmentSequence
    with undamaged(path):
        names = {int(item.SegmentNumber): str(item.SegmentLabel) for item in items}
    return {number: name for number, name in names.items() if number}  # 0: a label map's background


def write_seg(
    labels: Volume,
    source: Series | Volume,
    label_names: Mapping[int, str],
    path: Path,
    regions: Sequence[Region] = (),
    *,
    labelmap: bool = False,
    fingerprint: str = "",
    algorithm_type: AlgorithmType = "AUTOMATIC",
    author: str = "",
    description: str = "",
) -> None:
    """Write a label map as a DICOM SEG that refers to the instances it was made from.

    Not atomic: that is the caller's (`transunet.files.atomic_path`). Slices without labels are
    left out, as usual; of an empty label map the first slice is written. Every segment has the
    colour in which the structure is drawn elsewhere, and a tracking UID by which reports mean it.

    Args:
        labels: (1, X, Y, Z) unsigned, on the grid of `source` (its axes may be permuted or
            flipped).
        source: the series, or the volume that was read from it.
        label_names: label value -> structure, numbered from 1 without gaps; 0 is skipped.
        path: the file.
        regions: instead of the labels each is a segment, numbered from 1; segments then overlap.
        labelmap: a Label Map Segmentation, compressed without loss (RLE), instead of a binary one,
            which every reader of segmentations knows.
        fingerprint: the bundle's, told with the algorithm.
        algorithm_type: whether the network found it, a person corrected what it found, or drew it
            (Segment Algorithm Type, PS3.3 C.8.20.4; what is manual names no algorithm).
        author: who corrected or drew it.
        description: the series', of 64 characters at most, where the algorithm type does not tell
            all.

    Raises:
        ConfigError: without highdicom, for names that do not fit the labels, a source that is no
            series, regions as a label map, or a path that cannot be written.
        DataError: when the source's headers do not allow it.
        GeometryError: when the labels are not on the source's grid.
    """
    series = series_of(source, labels.name)
    grid = series.grid
    labels = labels.reoriented(grid.orientation)
    if difference := same_grid(labels, grid):
        found = f"the labels do not lie on the series' grid: {difference}"
        raise Problem("seg-grid", labels.name, found, "Resample them to it", geometry=True).error()
    if labels.channels != 1 or labels.array.dtype.kind not in "bu":
        raise ConfigError(
            f"{labels.name}: a label map is one channel of unsigned integers; found "
            f"{labels.channels} channels of {labels.array.dtype}."
        )
    slices = labels.array[0].transpose(2, 1, 0)  # in the order of the series' frames
    seg = _segmentation(
        *(series, slices, label_names, labels.name, regions),
        labelmap=labelmap,
        fingerprint=fingerprint,
        algorithm_type=algorithm_type,
        author=author,
        description=description,
    )
    with writing(path, "Make room."):
        seg.save_as(path)


def check_source(
    source: Series | Volume,
    label_names: Mapping[int, str],
    regions: Sequence[Region] = (),
    *,
    labelmap: bool = False,
) -> None:
    """Make sure, before a label map is computed, that `write_seg` can refer to its source.

    Arguments and errors as `write_seg`.
    """
    series = series_of(source, source.name if isinstance(source, Volume) else source.source)
    slices = np.zeros((series.slices, *series.frames[0].shape), np.uint8)
    slices[0, 0, 0] = regions[0].label if regions else 1
    _segmentation(series, slices, label_names, series.source, regions, labelmap=labelmap)


def _open(path: Path, *, pixels: bool = True) -> Any:
    """The dataset, with segments."""
    require("pydicom", extra="dicom")
    if not path.is_file():
        raise ConfigError(f"There is no file {path}. Check the path.")
    if not is_dicom(path):
        raise unreadable(path, "it is no DICOM file", "Give a DICOM segmentation")
    dataset = read_dataset(path, pixels=pixels)
    with undamaged(path):
        modality, segments = dataset.get("Modality"), dataset.get("SegmentSequence")
    if modality != "SEG" or not segments:
        found = f"it is no DICOM segmentation (modality {modality})"
        raise unreadable(path, found, "Give a DICOM segmentation")
    return dataset


def _stored_frames(dataset: Any) -> Iterator[NDArray[Any]]:
    """Yield the stored numbers (rows, columns) of each frame.

    Single bits are unpacked here: pydicom 3.0 cuts the end off frames that begin within a byte, as
    those of 181 x 217 pixels do.
    """
    if dataset.BitsAllocated != 1 or dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        yield from require("pydicom.pixels", extra="dicom").iter_pixels(dataset, raw=True)
        return
    packed, shape = np.frombuffer(dataset.PixelData, np.uint8), (dataset.Rows, dataset.Columns)
    size = shape[0] * shape[1]
    for start in range(0, int(dataset.get("NumberOfFrames") or 1) * size, size):
        whole, within = divmod(start, 8)
        bits = np.unpackbits(packed[whole : -(-(start + size) // 8)], bitorder="little")
        yield bits[within : within + size].reshape(shape)


def _grid_of(frames: Sequence[Frame], path: Path) -> Grid:
    """The grid from the first frame to the last, of the step that the file tells if that fits."""
    ordered = sorted(frames, key=attrgetter("offset_mm"))
    first, last = ordered[0], ordered[-1]
    rows, columns = first.shape
    stated = first.thickness_mm
    offsets = np.array([frame.offset_mm for frame in ordered]) - first.offset_mm
    gaps = np.diff(offsets)
    gaps = gaps[gaps > SAME_MM]
    if not gaps.size:
        affine = plane_affine(first, first.normal * (stated or 1.0))
        return Grid((columns, rows, 1), affine, str(path))
    for step in filter(None, (stated, float(gaps.min()))):
        steps = offsets / step
        if np.abs(steps - np.rint(steps)).max() <= GRID_TOLERANCE:
            count = round(steps[-1]) + 1
            affine = plane_affine(first, (last.position - first.position) / (count - 1))
            return Grid((columns, rows, count), affine, str(path))
    found = "its frames are not evenly spaced, so that they make no grid of their own"
    raise Problem("seg-grid", str(path), found, _GIVE_IMAGE, geometry=True).error()


def _slice_of(frame: Frame, image: Volume, path: Path) -> int:
    """Which slice of `image`, whose axes run as the frame's, the frame lies on."""
    affine, turn = image.affine, LPS_TO_RAS[:3, :3]
    index = float(np.linalg.solve(affine[:3, :3], turn @ frame.position - affine[:3, 3])[2])
    near = min(max(round(index) if np.isfinite(index) else 0, 0), image.spatial_shape[2] - 1)
    expected = affine.copy()
    expected[:3, 3] = affine[:3, 3] + near * affine[:3, 2]
    rows, columns = frame.shape
    found = Grid((columns, rows, 1), plane_affine(frame, turn @ affine[:3, 2]), str(path))
    here = Grid((*image.spatial_shape[:2], 1), expected, image.name)
    if difference := same_grid(found, here):
        what = f"a frame of it does not lie on a slice of {image.name}: {difference}"
        raise Problem("seg-grid", str(path), what, _GIVE_IMAGE, geometry=True).error()
    return near


def series_of(source: Any, name: str) -> Series:
    """Return the series that `source` is or was read from; a `ConfigError` where it is none."""
    series = source.header if isinstance(source, Volume) else source
    if isinstance(series, Series):
        return series
    raise ConfigError(
        f"{name}: was not read from a DICOM series, to whose images a segmentation must refer. "
        "Write NIfTI (.nii.gz) instead."
    )


def _segmentation(
    series: Series,
    slices: NDArray[Any],
    label_names: Mapping[int, str],
    where: str,
    regions: Sequence[Region],
    *,
    labelmap: bool,
    fingerprint: str = "",
    algorithm_type: AlgorithmType = "AUTOMATIC",
    author: str = "",
    description: str = "",
) -> Any:
    """Return the dataset; what a header lacks for it is an error."""
    if labelmap and regions:
        raise ConfigError(
            f"{where}: regions overlap, and a label map segmentation has one segment per voxel. "
            "Write a binary one (dicom-seg)."
        )
    most, names = int(slices.max()), {n: label_names[n] for n in sorted(label_names) if n != 0}
    if regions:  # a fourth axis, as segments overlap
        names = {number: region.name for number, region in enumerate(regions, 1)}
        slices = np.stack([region.mask(slices) for region in regions], axis=-1)
        most = int(slices.any())
    if list(names) != list(range(1, len(names) + 1)) or not names or most > len(names):
        raise ConfigError(
            f"{where}: segments are numbered from 1 without gaps and all labels have names; found "
            f"names for {sorted(names)} and labels up to {most}. Name every label."
        )
    highdicom = require("highdicom", extra="dicom")
    _check_references(series)
    frames = series.frames if most else series.frames[:1]
    step_mm = series.frames[0].thickness_mm or 1.0
    if series.slices > 1:
        first, last = series.frames[0].position, series.frames[-1].position
        step_mm = float(np.linalg.norm(last - first)) / (series.slices - 1)
    several = _PER_FRAME in series.datasets[0]
    images = _source_images(series, frames, several, f"{step_mm:.10g}")
    parameters = {"bundle_sha256": fingerprint} if fingerprint else {}
    if algorithm_type == "SEMIAUTOMATIC":
        parameters["corrected_by"] = "a person"
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=ALGORITHM,
        version=own_version(),
        family=require("pydicom.sr", extra="dicom").codes.cid7162.ArtificialIntelligence,
        source=DISTRIBUTION,
        parameters=parameters or None,
    )
    made_by = algorithm_type, None if algorithm_type == "MANUAL" else algorithm
    drawn_as = [region.label for region in regions] or list(names)
    kind = "LABELMAP" if labelmap else "BINARY"
    try:
        with warnings.catch_warnings(action="ignore"):
            seg = highdicom.seg.Segmentation(
                source_images=images,
                pixel_array=slices[: len(frames)].astype(np.uint8 if most <= 255 else np.uint16),
                segmentation_type=kind,
                segment_descriptions=[
                    _segment(number, name, colour_of(label - 1), *made_by)
                    for (number, name), label in zip(names.items(), drawn_as, strict=True)
                ],
                series_instance_uid=highdicom.UID(),
                series_number=_SERIES_NUMBER,
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                **equipment(),
                series_description=description or _DESCRIPTIONS[algorithm_type],
                content_label="SEGMENTATION",
                content_description=_OVERLAPPING if regions else None,
                # In a person's name, these two part its components.
                content_creator_name=dicom_text(re.sub("[=^]", " ", author)) if author else "",
                specific_character_set="ISO_IR 192",  # UTF-8: a structure may have any name
                transfer_syntax_uid=_SYNTAXES[kind],
                omit_empty_frames=bool(most),
            )
            if several:  # references to the frames of `images` are to name those of the file
                references = {
                    id(reference): reference  # segments share them
                    for item in seg[_PER_FRAME].value
                    for derivation in item.DerivationImageSequence
                    for reference in derivation.SourceImageSequence
                }
                for reference in references.values():
                    frame = series.frames[int(reference.ReferencedFrameNumber) - 1]
                    reference.ReferencedFrameNumber = frame.index + 1
            # Without the distance of slices, the file alone does not tell its grid.
            measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
            measures.SpacingBetweenSlices = f"{step_mm:.10g}"
    except Exception as error:  # what a header lacks for a SEG shows in any way
        reason = first_line(error)[:200]
        raise _refused(series, f"a segmentation cannot refer to it ({reason})") from None
    return seg


def _check_references(series: Series) -> None:
    """Refuse images without the attributes by which a segmentation refers to them."""
    datasets = series.datasets
    with undamaged(series.source):
        for keyword in _REFERRED:
            lacking = sum(not dataset.get(keyword) for dataset in datasets)
            if lacking:
                found = f"a segmentation refers to images by {keyword}, which {lacking} of its "
                raise _refused(series, f"{found}{len(datasets)} files lack")
        for keyword in _SHARED:
            values = {str(dataset.get(keyword)) for dataset in datasets}
            if len(values) > 1:
                raise _refused(series, f"its files have {len(values)} values of {keyword}, not one")


def _refused(series: Series, found: str) -> TransUNetError:
    remedy = "Write NIfTI instead, or export the series with whole headers"
    return Problem("seg", series.source, found, remedy).error()


def _segment(
    number: int, name: str, colour: str, algorithm_type: AlgorithmType, algorithm: Any
) -> Any:
    highdicom = require("highdicom", extra="dicom")

    def coded(code: Any) -> Any:
        meaning = dicom_text(code.meaning)
        return highdicom.sr.CodedConcept(code.value, code.scheme_designator, meaning)

    described = structure(name)
    segment = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=dicom_text(name),
        segmented_property_category=coded(described.category),
        segmented_property_type=coded(described.kind),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues(algorithm_type),
        algorithm_identification=algorithm,
        tracking_uid=highdicom.UID(),
        tracking_id=dicom_text(name),
        display_color=highdicom.color.CIELabColor.from_string(colour),
    )
    if described.side:
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [coded(described.side)]
    return segment


def equipment() -> dict[str, str]:
    """Return what every object that is written says of what made it."""
    return {
        "manufacturer": "transunet",
        "manufacturer_model_name": ALGORITHM,
        "software_versions": own_version(),
        "device_serial_number": "0",
    }


def dicom_text(text: str) -> str:
    """Return what a DICOM text of 64 characters can hold: no backslash, which parts values."""
    plain = "".join(c if c.isprintable() and c != "\\" else " " for c in text)
    return plain.strip()[:_NAME_LENGTH] or "?"


def _source_images(
    series: Series, frames: Sequence[Frame], several: bool, thickness: str
) -> list[Any]:
    """Copies of the headers that a segmentation refers to, with what highdicom wants to copy.

    Of a multi-frame file with the frames of the series only, in the order of the slices: it may
    hold other echoes at the same places, which highdicom refuses.
    """
    images = [copy.copy(frame.dataset) for frame in (frames[:1] if several else frames)]
    if several:
        if len(series.datasets) > 1:
            raise ConfigError(
                f"{series.source}: a segmentation can refer to one multi-frame file, this series "
                f"has {len(series.datasets)}. Write NIfTI (.nii.gz) instead."
            )
        groups = images[0][_PER_FRAME].value
        images[0].PerFrameFunctionalGroupsSequence = [groups[frame.index] for frame in frames]
        images[0].NumberOfFrames = len(frames)
    for image in images:
        for keyword in _COPIED:
            if keyword not in image:
                setattr(image, keyword, "")
        if not image.get("SliceThickness"):
            image.SliceThickness = thickness
    return images

"""Label maps as DICOM segmentations (SEG): written through highdicom, read back onto a grid."""

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.data.checks.problems import Problem
from transunet.data.formats.dicom.codes import Code, structure
from transunet.data.formats.dicom.frames import Frame
from transunet.data.formats.dicom.headers import undamaged
from transunet.data.formats.dicom.series import Series
from transunet.data.formats.dicom.slice_grid import affine_of
from transunet.data.volume import Grid, Volume, same_grid
from transunet.errors import ConfigError, TransUNetError
from transunet.optional import own_version, require

SERIES_NUMBER = 900
"""Of the segmentation's series; viewers sort by it."""

_MULTI_FRAME = "PerFrameFunctionalGroupsSequence"
_NAME_LENGTH = 64  # of a segment's label and a code's meaning

# By these a segmentation refers to an image; the last two are the same for all of a series.
_REFERRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
_SHARED = ("StudyInstanceUID", "FrameOfReferenceUID")

# highdicom copies them from the source; anonymised files often lack them. Empty is allowed.
_COPIED = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)


def write_seg(
    labels: Volume,
    source: Series | Volume,
    label_names: Mapping[int, str],
    path: Path,
    *,
    description: str = "TransUNet segmentation",
    algorithm: str = "TransUNet",
    algorithm_version: str | None = None,
) -> None:
    """Write a label map as a binary DICOM SEG that refers to the instances it was made from.

    Not atomic: that is the caller's (`transunet.files.atomic_path`). Slices without labels are
    left out, as usual; of an empty label map the first slice is written.

    Args:
        labels: (1, X, Y, Z) unsigned, on the grid of `source` (its axes may be permuted or
            flipped).
        source: the series, or the volume that was read from it.
        label_names: label value -> structure, numbered from 1 without gaps; 0 is skipped.
        path: the file.
        description: of the new series.
        algorithm: its name, told in every segment.
        algorithm_version: this package's where None.

    Raises:
        ConfigError: without highdicom, for names that do not fit the labels, a source that is no
            series, or a path that cannot be written.
        DataError: when the source's headers do not allow it.
        GeometryError: when the labels are not on the source's grid.
    """
    series = _series_of(source, labels.name)
    frames = _stack(labels, series)
    names = _checked_names(label_names, frames, labels.name)
    method = (algorithm, algorithm_version or own_version())
    seg = _segmentation(series, frames, names, description, method)
    try:
        seg.save_as(path)
    except OSError as error:
        raise ConfigError(f"Cannot write {path}: {error.strerror or error}. Make room.") from None


def check_source(source: Series | Volume, label_names: Mapping[int, str]) -> None:
    """Make sure, before a label map is computed, that `write_seg` can refer to its source.

    Args:
        source: the series, or the volume that was read from it.
        label_names: as `write_seg`.

    Raises:
        ConfigError: without highdicom, for names that have gaps, or a source that is no series.
        DataError: when the source's headers do not allow it.
    """
    series = _series_of(source, source.name if isinstance(source, Volume) else source.source)
    frames = np.zeros((series.slices, *series.frames[0].shape), np.uint8)
    frames[0, 0, 0] = 1
    names = _checked_names(label_names, frames, series.source)
    _segmentation(series, frames, names, "check", ("check", "check"))


def _segmentation(
    series: Series,
    frames: NDArray[Any],
    names: Mapping[int, str],
    description: str,
    method: tuple[str, str],
) -> Any:
    """Return the dataset; what a header lacks for it is an error."""
    highdicom = require("highdicom", extra="dicom")
    undamaged(series.source, _check_references, series)
    segments = [_segment(highdicom, *item, method) for item in names.items()]
    images, stored = _sources(series, frames)
    try:
        with warnings.catch_warnings(action="ignore"):
            seg = highdicom.seg.Segmentation(
                source_images=images,
                pixel_array=stored,
                segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=segments,
                series_instance_uid=highdicom.UID(),
                series_number=SERIES_NUMBER,
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer="transunet",
                manufacturer_model_name=method[0],
                software_versions=method[1],
                device_serial_number="0",
                series_description=_text(description),
                content_label="SEGMENTATION",
                specific_character_set="ISO_IR 192",  # UTF-8: a structure may have any name
                omit_empty_frames=bool(frames.any()),
            )
            _renumber(seg, series)
            _tell_step(seg, series)
    except Exception as error:  # what a header lacks for a SEG shows in any way
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise _refused(series, f"a segmentation cannot refer to it ({reason})") from None
    return seg


def _check_references(series: Series) -> None:
    """Refuse images without the attributes by which a segmentation refers to them."""
    datasets = series.datasets
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


def _tell_step(seg: Any, series: Series) -> None:
    """Say how far apart the slices are: without it the file alone does not tell its grid."""
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.SpacingBetweenSlices = f"{_step_mm(series):.10g}"


def _segment(highdicom: Any, number: int, name: str, method: tuple[str, str]) -> Any:
    described = structure(name)
    families = require("pydicom.sr.codedict", extra="dicom").codes.cid7162
    segment = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=_text(name),
        segmented_property_category=_coded(highdicom, described.category),
        segmented_property_type=_coded(highdicom, described.kind),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=method[0], version=method[1], family=families.ArtificialIntelligence
        ),
    )
    if described.side:
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        side = _coded(highdicom, described.side)
        kind.SegmentedPropertyTypeModifierCodeSequence = [side]
    return segment


def _coded(highdicom: Any, code: Code) -> Any:
    return highdicom.sr.CodedConcept(code.value, code.scheme, _text(code.meaning))


def _text(text: str) -> str:
    """What a DICOM text of 64 characters can hold: a backslash would make two values of it."""
    plain = "".join(c if c.isprintable() and c != "\\" else " " for c in text)
    return plain.strip()[:_NAME_LENGTH] or "?"


def _series_of(source: Any, name: str) -> Series:
    series = source.header if isinstance(source, Volume) else source
    if isinstance(series, Series):
        return series
    raise ConfigError(
        f"{name}: was not read from a DICOM series, to whose images a segmentation must refer. "
        "Write NIfTI (.nii.gz) instead."
    )


def _stack(labels: Volume, series: Series) -> NDArray[Any]:
    """Labels -> (slices, rows, columns), in the order of the series' frames."""
    rows, columns = series.frames[0].shape
    affine = affine_of(series.frames, series.source)
    grid = Grid((columns, rows, series.slices), affine, series.source)
    labels = labels.reoriented(grid.orientation)
    if difference := same_grid(labels, grid):
        found = f"the labels do not lie on the series' grid: {difference}"
        raise Problem("seg-grid", labels.name, found, "Resample them to it", geometry=True).error()
    if labels.channels != 1 or labels.array.dtype.kind not in "bu":
        found = f"found {labels.channels} channels of {labels.array.dtype}"
        raise ConfigError(
            f"{labels.name}: a label map is one channel of unsigned integers; {found}."
        )
    return np.asarray(labels.array[0].transpose(2, 1, 0))


def _checked_names(names: Mapping[int, str], frames: NDArray[Any], where: str) -> dict[int, str]:
    found, named = int(frames.max()), {n: names[n] for n in sorted(names) if n != 0}
    if list(named) != list(range(1, len(named) + 1)) or not named or found > len(named):
        raise ConfigError(
            f"{where}: segments are numbered from 1 without gaps and all labels have names; found "
            f"names for {sorted(named)} and labels up to {found}. Name every label."
        )
    return named


def _sources(series: Series, frames: NDArray[Any]) -> tuple[list[Any], NDArray[Any]]:
    """The datasets that the segmentation refers to, and one label frame per frame of theirs."""
    smallest = np.uint8 if int(frames.max()) <= 255 else np.uint16
    slices = series.frames if frames.any() else series.frames[:1]
    if _MULTI_FRAME in series.datasets[0]:
        datasets = [_with_frames(series, slices)]
    else:
        datasets = [frame.dataset for frame in slices]
    complete = [_complete(one) for one in datasets]
    for one in complete:
        if not one.get("SliceThickness"):  # highdicom wants to copy it
            one.SliceThickness = f"{_step_mm(series):.10g}"
    return complete, frames[: len(slices)].astype(smallest)


def _step_mm(series: Series) -> float:
    """From slice to slice; of a single one, how thick it is."""
    if series.slices == 1:
        return series.frames[0].thickness_mm or 1.0
    first, last = series.frames[0].position, series.frames[-1].position
    return float(np.linalg.norm(last - first)) / (series.slices - 1)


def _with_frames(series: Series, slices: Sequence[Frame]) -> Any:
    """A multi-frame header with the frames of the series only, in the order of the slices.

    The file may hold other echoes at the same places, which highdicom refuses.
    """
    if len(series.datasets) > 1:
        raise ConfigError(
            f"{series.source}: a segmentation can refer to one multi-frame file, this series has "
            f"{len(series.datasets)}. Write NIfTI (.nii.gz) instead."
        )
    part = copy.copy(series.datasets[0])
    groups = part[_MULTI_FRAME].value
    part.PerFrameFunctionalGroupsSequence = [groups[frame.index] for frame in slices]
    part.NumberOfFrames = len(slices)
    return part


def _renumber(seg: Any, series: Series) -> None:
    """Let references to the frames of `_with_frames` name those of the file."""
    if _MULTI_FRAME not in series.datasets[0]:
        return
    derivations = [d for item in seg[_MULTI_FRAME].value for d in item.DerivationImageSequence]
    sources = [source for derivation in derivations for source in derivation.SourceImageSequence]
    for source in {id(source): source for source in sources}.values():  # segments share them
        frame = series.frames[int(source.ReferencedFrameNumber) - 1]
        source.ReferencedFrameNumber = frame.index + 1


def _complete(dataset: Any) -> Any:
    complete = copy.copy(dataset)
    for keyword in _COPIED:
        if keyword not in complete:
            setattr(complete, keyword, "")
    return complete

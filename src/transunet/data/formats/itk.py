"""NRRD (`.nrrd`, `.nhdr`) and MetaImage (`.mha`, `.mhd`) through SimpleITK.

ITK counts left, posterior and superior as positive; here it is right, anterior and superior, so the
first two rows of an affine change their signs on the way.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transunet.colours import levels_of
from transunet.data.checks.problems import Problem
from transunet.data.formats.volume_format import (
    DAMAGED,
    VolumeFormat,
    channels_first,
    reading,
    unreadable,
)
from transunet.data.volume import LPS_TO_RAS, Grid, Volume
from transunet.errors import ConfigError, last_sentence
from transunet.optional import require

_HEADER = 1 << 16  # bytes in which a header ends
_NRRD = re.compile(rb"(NRRD.*?)\r?\n\r?\n", re.DOTALL)
_NRRD_FILE = re.compile(rb"^data ?file *:\s*(.*?)\s*$", re.IGNORECASE | re.MULTILINE)
_META_FILE = re.compile(rb"^[ \t]*ElementDataFile[ \t]*[=:][ \t]*(.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class ItkHeader:
    """A file's geometry in its own numbers, so that a label map gets exactly these back."""

    origin: tuple[float, ...]
    spacing: tuple[float, ...]
    direction: tuple[float, ...]
    """Row by row."""
    size: tuple[int, ...]
    affine: NDArray[np.float64]
    """The affine (RAS) that was made of them."""


class SlicerSegment(NamedTuple):
    """A segment that 3D Slicer lists in a header."""

    name: str
    value: int
    layer: int


def read(path: Path) -> Volume:
    """Read one file in its own dtype; a fourth axis or a vector's components become channels.

    Raises:
        ConfigError: without SimpleITK.
        DataError: when the file is damaged, or not of two to four axes (more where they are one).
        GeometryError: when its affine is singular.
    """
    itk = require("SimpleITK", extra="images")
    reader = _reader(path)
    with reading(path, "an image", _remedy(path), reason_of=_reason):
        image = reader.Execute()
    header = _header(image, path)
    array = itk.GetArrayFromImage(image)  # axes in reverse: (z, y, x), components last
    if image.GetNumberOfComponentsPerPixel() == 1:
        array = array[..., None]
    array = array.transpose(*range(image.GetDimension() - 1, -1, -1), -1)
    if array.ndim == 3:  # (X, Y, components)
        array = array[:, :, None]
    return Volume(channels_first(array, path), header.affine, str(path), header)


def read_labels(path: Path) -> Volume:
    """Read a label map: as `read`, and 3D Slicer's segmentation in several layers as one.

    Slicer writes layers where segments have overlapped at some time, and each may hold the same
    values; in the label map, segments are numbered as they are listed, from 1. A `DataError` when
    they do overlap.
    """
    volume, segments = read(path), _segments(path)
    if not any(segment.layer for segment in segments):
        return volume
    if volume.channels <= max(segment.layer for segment in segments):
        found = f"its header lists more layers than the {volume.channels} it has"
        raise unreadable(path, found, _remedy(path))
    labels = np.zeros_like(volume.array[:1], np.uint16)
    for number, segment in enumerate(segments, 1):
        inside = volume.array[[segment.layer]] == segment.value
        if labels[inside].any():
            other = segments[labels[inside].max() - 1]
            found = f"its segments {other.name!r} and {segment.name!r} overlap; expected one label"
            remedy = (
                "Let segments not overlap (in 3D Slicer: Segment Editor, Masking), or export one"
            )
            raise Problem("overlap", str(path), f"{found} per voxel", remedy).error()
        labels[inside] = number
    return volume.with_array(labels)


def read_grid(path: Path) -> Grid:
    """Read where the voxels lie, without reading them."""
    header = _header(_information(path), path)
    x, y, z = (*header.size[:3], 1)[:3]
    return Grid((x, y, z), header.affine, str(path))


def channels_in(path: Path) -> int:
    """Return how many channels a file's header promises: components times further axes."""
    header = _information(path)
    return int(header.GetNumberOfComponents()) * prod(map(int, header.GetSize()[3:]))


def segment_names(path: Path) -> dict[int, str]:
    """Return label value -> name of the segments that 3D Slicer lists in a header; {} without."""
    segments = _segments(path)
    if any(segment.layer for segment in segments):
        return {number: segment.name for number, segment in enumerate(segments, 1)}
    return {segment.value: segment.name for segment in segments}


def voxel_files(path: Path) -> list[str] | None:
    """Return the names of other files that a header says hold the voxels; None for no header."""
    with path.open("rb") as file:
        start = file.read(_HEADER)
    if start.startswith(b"NRRD"):
        header = _NRRD.match(start if b"\n\n" in start else start + b"\n\n")
        names = _NRRD_FILE.findall(header[1]) if header else None
    else:
        named = _META_FILE.search(start)  # the first ends it
        names = [named[1]] if named else None
        names = [] if names == [b"LOCAL"] else names
    return names and [name.decode("utf-8", "replace") for name in names]


def write(volume: Volume, path: Path) -> None:
    """Write `volume`, compressed; several channels become the components of a vector.

    A NRRD file tells what label values are called as 3D Slicer's segmentations do.
    """
    itk = require("SimpleITK", extra="images")
    header = volume.header if isinstance(volume.header, ItkHeader) else None
    if header is None or not np.array_equal(header.affine, volume.affine):
        affine = LPS_TO_RAS @ volume.affine
        origin, spacing = tuple(affine[:3, 3].tolist()), volume.spacing_mm
        directions = affine[:3, :3] / spacing
        size = volume.spatial_shape
        header = ItkHeader(origin, spacing, tuple(directions.flat), size, volume.affine)
    flat = len(header.size) == 2
    array = np.moveaxis(volume.array[..., 0] if flat else volume.array, 0, -1)
    array = array.transpose(*range(array.ndim - 2, -1, -1), array.ndim - 1)
    vector = volume.channels > 1
    image = itk.GetImageFromArray(np.ascontiguousarray(array if vector else array[..., 0]), vector)
    axes, dimension = len(header.spacing), 2 if flat else 3
    directions = np.reshape(header.direction, (axes, axes))[:dimension, :dimension]
    image.SetOrigin(header.origin[:dimension])
    image.SetSpacing(header.spacing[:dimension])
    image.SetDirection(directions.ravel().tolist())
    if volume.label_names and path.suffix.lower() == ".nrrd":
        for key, text in _slicer_header(volume.label_names, volume.spatial_shape).items():
            image.SetMetaData(key, text)
    try:
        itk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        reason = _reason(error).replace(str(path), "the file")
        raise ConfigError(f"Cannot write {path}: {reason}. Choose another place.") from None


def _slicer_header(names: Mapping[int, str], shape: tuple[int, ...]) -> dict[str, str]:
    """The fields of a `.seg.nrrd` (Slicer's developer guide, "Segmentations"), of one layer."""
    extent = " ".join(f"0 {size - 1}" for size in shape)
    fields = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_SourceRepresentation": "Binary labelmap",
    }
    for number, value in enumerate(sorted(value for value in names if value)):
        segment = {
            "ID": f"Segment_{value}",
            "Name": " ".join(names[value].split()),
            "Color": " ".join(f"{level / 255:.6f}" for level in levels_of(value - 1)),
            "LabelValue": str(value),
            "Layer": "0",
            "Extent": extent,
        }
        fields |= {f"Segment{number}_{field}": text for field, text in segment.items()}
    return fields


def _reader(path: Path) -> Any:
    """ITK's, told the format: by itself it goes by the name, and by small letters in it."""
    reader = require("SimpleITK", extra="images").ImageFileReader()
    reader.SetFileName(str(path))
    with path.open("rb") as file:
        reader.SetImageIO("NrrdImageIO" if file.read(4) == b"NRRD" else "MetaImageIO")
    return reader


def _information(path: Path) -> Any:
    """A reader that has read the header."""
    reader = _reader(path)
    with reading(path, "an image", _remedy(path), reason_of=_reason):
        reader.ReadImageInformation()
    return reader


def _segments(path: Path) -> list[SlicerSegment]:
    information = _information(path)
    header = {key: information.GetMetaData(key) for key in information.GetMetaDataKeys()}
    segments: list[SlicerSegment] = []
    while (start := f"Segment{len(segments)}_") + "Name" in header:
        value, layer = header.get(start + "LabelValue", ""), header.get(start + "Layer", "0")
        if not (value.isdecimal() and layer.isdecimal()):
            return []  # written before Slicer told label values
        segments.append(SlicerSegment(header[start + "Name"], int(value), int(layer)))
    return segments


def _header(image: Any, path: Path) -> ItkHeader:
    """Of an image, or of a reader that has read the information."""
    dimension = image.GetDimension()
    if dimension < 2:
        raise unreadable(path, "it has one axis; expected 2 to 4", _remedy(path))
    origin, spacing = tuple(image.GetOrigin()), tuple(image.GetSpacing())
    direction, size = tuple(image.GetDirection()), tuple(int(n) for n in image.GetSize())
    matrix = np.reshape(direction, (dimension, dimension)) * spacing
    space = min(dimension, 3)
    affine = np.eye(4)
    affine[:space, :space] = matrix[:space, :space]
    affine[:space, 3] = origin[:space]
    return ItkHeader(origin, spacing, direction, size, LPS_TO_RAS @ affine)


def _reason(error: Exception) -> str:
    """The last line of ITK's long messages, without its source files."""
    return last_sentence(error).split("): ")[-1].removesuffix(".")


def _remedy(path: Path) -> str:
    line = {".mhd": "ElementDataFile", ".nhdr": "data file"}.get(path.suffix.lower())
    if line is None:
        return DAMAGED
    return (
        f"Its voxels lie in another file, which its line {line!r} names: copy that along, "
        "under this very name, capital letters included; or the pair is damaged"
    )


FORMAT = VolumeFormat(
    read=read,
    read_labels=read_labels,
    read_grid=read_grid,
    channels_in=channels_in,
    write=write,
    label_suffixes={".nhdr": ".nrrd", ".mhd": ".mha"},  # one file, so that it appears at once
    two_files=frozenset({".nhdr", ".mhd"}),
    voxel_files=voxel_files,
    label_names=segment_names,
    magic={".nrrd": rb"NRRD\d{4}\r?\n", ".mha": rb"(ObjectType|NDims|Comment) *="},
)

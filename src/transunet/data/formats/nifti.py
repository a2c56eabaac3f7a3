"""NIfTI (`.nii`, `.nii.gz`; `.hdr` and `.img`, also Analyze): scaling and units applied.

Compressed or not is told by a file's first bytes, whatever it is called. A label map gets the
header of its image back.
"""

import gzip
import re
import weakref
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from transunet.data.checks.problems import Problem
from transunet.data.formats.file_format import FileFormat
from transunet.data.formats.nifti_affine import grid_of, mm_per_unit
from transunet.data.volume import Grid, Volume
from transunet.errors import TransUNetError

Result = TypeVar("Result")

nib: Any = nibabel  # its functions carry no types

GZIP = b"\x1f\x8b"
PAIR = {".hdr": ".img", ".img": ".hdr", ".hdr.gz": ".img.gz", ".img.gz": ".hdr.gz"}
"""Suffix of the one file of a pair -> of the other: the header, the voxels."""

_START = 540  # bytes of the longest header, NIfTI-2's
_FINE = 0.1  # a slope up to this only stores whole numbers in other steps: 12 in 255, 3 in 65535

_HALF = (
    "it is one file of a pair, and the other (.hdr with the header, .img with the voxels) is "
    "not beside it",
    "Copy both, or convert them to .nii.gz",
)
# Everything that nibabel, gzip and numpy raise on damaged files. MemoryError: a header that claims
# absurd sizes.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    MemoryError,
    OverflowError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
    WrapStructError,
)
# By pattern, since it may come from anywhere: a parser of XML can be led astray.
_LABEL = re.compile(r'<Label\b[^<>]*\bKey="(\d{1,5})"[^<>]*>(?:<!\[CDATA\[)?([^<>\[\]]+)')


@dataclass(frozen=True)
class NiftiHeader:
    """A file's header, so that a label map gets all of it back, contradictions as well."""

    header: Any
    """As nibabel reads it."""
    affine: NDArray[np.float64]
    """The one that was taken of it, in millimetres."""


def read(path: Path) -> Volume:
    """Read one file in its own dtype (floating point where the header scales).

    Args:
        path: 2-D, 3-D, or 4-D with the channels last; further axes of one are dropped.

    Returns:
        A volume whose header is the file's, for `write`.

    Raises:
        DataError: when the file is damaged or holds something else than numbers.
        GeometryError: when its affine is singular, or a spacing that counts zero.
    """
    return _volume(path, _undamaged(path, _load))


def read_labels(path: Path) -> Volume:
    """Read a label map as `read` does; of a scaled one, the step next to a whole number is it.

    Raises:
        As `read`.
    """
    image = _undamaged(path, _load)
    volume, step = _volume(path, image), abs(float(image.dataobj.slope))
    if step > _FINE or volume.array.dtype.kind != "f":
        return volume
    whole = np.rint(volume.array)
    near = np.abs(volume.array - whole) <= 0.5001 * step
    return volume.with_array(np.where(near, whole, volume.array))


def _load(path: Path) -> Any:
    """By content: nibabel itself trusts the name."""
    with path.open("rb") as file:
        packed = file.read(len(GZIP)) == GZIP
    if path.name.lower().endswith(tuple(PAIR)):
        if other_of_pair(path) is None:
            raise Problem("unreadable", str(path), *_HALF).error()
        return nib.load(path)
    if path.name.endswith(".nii.gz" if packed else ".nii"):
        return nib.load(path)
    stream = gzip.open(path) if packed else path.open("rb")  # noqa: SIM115 - closed with the image
    try:
        two = nib.Nifti2Header.may_contain_header(stream.read(_START))
        stream.seek(0)
        image = (nib.Nifti2Image if two else nib.Nifti1Image).from_stream(stream)
    except BaseException:
        stream.close()
        raise
    weakref.finalize(image, stream.close)
    return image


def _volume(path: Path, image: Any) -> Volume:
    grid = _grid(path, image)
    voxels = _undamaged(path, lambda _: np.asanyarray(image.dataobj))
    array = _channels_first(voxels, path)
    return Volume(array, grid.affine, str(path), NiftiHeader(image.header, grid.affine), grid.doubt)


def read_grid(path: Path) -> Grid:
    """Read where the voxels lie, without reading them.

    Raises:
        DataError: when the header is damaged.
        GeometryError: when its affine is singular, or a spacing that counts zero.
    """
    return _grid(path, _undamaged(path, _load))


def channels_in(path: Path) -> int:
    """Return how many channels a file's header promises: what lies beyond three axes.

    Raises:
        DataError: when it is damaged.
    """
    return prod(int(size) for size in _undamaged(path, _load).shape[3:])


def label_names(path: Path) -> dict[int, str]:
    """Return label value -> name from the table that a header's extension holds; {} without one.

    TotalSegmentator and Connectome Workbench write such a table, as XML.

    Raises:
        DataError: when the header is damaged.
    """
    extensions = _undamaged(path, _load).header.extensions
    texts = (bytes(one.get_content()).decode("utf-8", "replace") for one in extensions)
    return {int(value): name.strip() for text in texts for value, name in _LABEL.findall(text)}


def other_of_pair(path: Path) -> Path | None:
    """Return the header beside voxels, or the voxels beside a header (`.hdr`, `.img`), if any."""
    name = path.name.lower()
    suffix = next((suffix for suffix in PAIR if name.endswith(suffix)), None)
    if suffix is None:
        return None
    stem = path.name[: -len(suffix)]
    others = [path.with_name(stem + end) for end in (PAIR[suffix], PAIR[suffix].upper())]
    return next((other for other in others if other.is_file()), None)


def write(volume: Volume, path: Path) -> None:
    """Write `volume`, with the shape, affines, spacings, codes and units of the header it carries.

    Args:
        volume: any number of channels; they become the fourth axis.
        path: ends in `.nii` or `.nii.gz`; beside an `.img` its `.hdr` is written.
    """
    read_from = volume.header if isinstance(volume.header, NiftiHeader) else None
    header = read_from.header if read_from else None
    header = header if isinstance(header, nib.Nifti1Header) else None  # an Analyze file's is poorer
    voxels = _voxels_like(volume.array, header)
    kept = read_from is not None and np.array_equal(read_from.affine, volume.affine)
    nib.save(_image(voxels, volume.affine, header, kept), path)


def _image(voxels: NDArray[Any], affine: NDArray[Any], header: Any, kept: bool) -> Any:
    if header is None:
        image = nib.Nifti1Image(voxels, affine)
        image.header.set_xyzt_units("mm")
        return image
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    header = kind.header_class(header.binaryblock, header.endianness, check=False)  # also a pair's
    header.set_data_dtype(voxels.dtype)
    header.set_slope_inter(1, 0)
    header["cal_max"] = header["cal_min"] = (
        0  # the display window of the intensities, not of what is written
    )
    if kept:  # without an affine, both of the header's and their codes stay as they are
        return kind(voxels, None, header)
    unit = mm_per_unit(header)
    image = kind(voxels, np.diag([1 / unit, 1 / unit, 1 / unit, 1]) @ affine, header)
    image.set_qform(image.affine, code=int(header["qform_code"]) or 1)
    image.set_sform(image.affine, code=int(header["sform_code"]) or 1)
    return image


def _voxels_like(array: NDArray[Any], header: Any) -> NDArray[Any]:
    """(C, X, Y, Z) -> (X, Y, Z, C), without the axes that the header's file did not have."""
    voxels = np.moveaxis(array, 0, -1)
    if array.shape[0] > 1:
        return voxels
    shape = tuple(header.get_data_shape()) if header is not None else ()
    one_channel = (*shape, 1, 1)[:3] == array.shape[1:] and not set(shape[3:]) - {1}
    return voxels.reshape(shape if one_channel and len(shape) >= 2 else voxels.shape[:3])


def _channels_first(voxels: NDArray[Any], path: Path) -> NDArray[Any]:
    if voxels.dtype.names:  # RGB voxels, a record of three bytes
        voxels = np.stack([voxels[field] for field in voxels.dtype.names], axis=-1)
    if voxels.dtype.kind not in "buif":
        raise _problem(path, f"its voxels are of type {voxels.dtype}; expected real numbers")
    channels = [size for size in voxels.shape[3:] if size > 1]
    if voxels.ndim < 2 or len(channels) > 1:
        found = f"it has the shape {voxels.shape}; expected (X, Y, Z) or (X, Y, Z, channels)"
        remedy = "Store one image per file; of a series over time each point in time in its own"
        raise Problem("unreadable", str(path), found, remedy).error()
    spatial = (*voxels.shape[:3], 1)[:3]
    return np.moveaxis(voxels.reshape(*spatial, *(channels or [1])), -1, 0)


def _grid(path: Path, image: Any) -> Grid:
    pixdim = _undamaged(path, lambda _: _stored_pixdim(image))
    return grid_of(image.header, pixdim, str(path))


def _stored_pixdim(image: Any) -> list[float]:
    """The file's own spacings: nibabel has put 1 in the place of those that are zero."""
    header = image.header
    if 1 in header["pixdim"][1:4]:
        file = image.file_map.get("header", image.file_map["image"])
        with file.get_prepare_fileobj("rb") as stream:
            header = type(header).from_fileobj(stream, check=False)
    return [abs(float(edge)) for edge in header["pixdim"][1:4]]


def _undamaged(path: Path, read: Callable[[Path], Result]) -> Result:
    try:
        return read(path)
    except TransUNetError:
        raise
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _problem(path, f"it cannot be read as NIfTI ({reason[:200]})") from None


def _problem(path: Path, found: str) -> TransUNetError:
    remedy = "The file is damaged, cut short or of another format: copy or export it again"
    return Problem("unreadable", str(path), found, remedy).error()


FORMAT = FileFormat(
    read=read,
    read_labels=read_labels,
    read_grid=read_grid,
    channels_in=channels_in,
    write=write,
    label_suffixes=dict.fromkeys(PAIR, ".nii.gz"),
    two_files=frozenset(PAIR),
    companion=other_of_pair,
    label_names=label_names,
    magic={".nii": rb".{344}n\+1\0|.{4}n\+2\0\r\n\x1a\n"},
)

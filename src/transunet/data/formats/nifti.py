"""NIfTI (`.nii`, `.nii.gz`; `.hdr` and `.img`, also Analyze): scaling and units applied.

Compressed or not is told by a file's first bytes, whatever it is called. A label map gets the
header of its image back.

Which affine counts, where sform, qform and pixdim contradict each other: an sform whose voxels have
the edges that pixdim says is taken as it stands, to the last bit. The files of the ACDC challenge
have an sform of unit steps beside the true edges in qform and pixdim; there the rule is ITK's, so
that its users (3D Slicer, ITK-SNAP, nnU-Net) find the same voxels here: pixdim tells the edges;
directions and origin are the sform's where it is orthogonal and leads to the scanner's coordinates,
or where it is alone, else the qform's. One exception: a pixdim of 1 x 1 x 1, or not above zero, is
what stays in a header of which a program set the sform only. Then the sform counts, as the standard
has it.
"""

import gzip
import re
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import escape, unescape
from math import inf, prod
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from transunet.colours import levels_of
from transunet.data.checks.problems import Problem
from transunet.data.formats.volume_format import VolumeFormat, channels_first, reading, unreadable
from transunet.data.text import extents
from transunet.data.volume import Doubt, Grid, Volume, corner_distance, is_regular, same_grid

Affine = NDArray[np.float64]

nib: Any = nibabel  # its functions carry no types

GZIP = b"\x1f\x8b"
PAIR = {".hdr": ".img", ".img": ".hdr", ".hdr.gz": ".img.gz", ".img.gz": ".hdr.gz"}
"""Suffix of the one file of a pair -> of the other: the header, the voxels."""
MM_PER_UNIT = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
"""What NIfTI may measure space in; a file that does not say means millimetres."""

_START = 540  # bytes of the longest header, NIfTI-2's
_FINE = 0.1  # a slope up to this only stores whole numbers in other steps: 12 in 255, 3 in 65535
_SCANNER = 1  # NIfTI's code for coordinates of the scanner
_ORTHOGONAL = 1e-4  # ITK's tolerance for the cosine of the angle between two axes
# By pattern, since it may come from anywhere: a parser of XML can be led astray.
_LABEL = re.compile(
    r'<Label\b[^<>]*\bKey="(\d{1,5})"[^<>]*>(?:<!\[CDATA\[(.{1,999}?)\]\]>|([^<]{1,999}))',
    re.DOTALL,
)
_CARET = 30  # NIfTI's code for the extension of Connectome Workbench


@dataclass(frozen=True)
class NiftiHeader:
    """A file's header, so that a label map gets all of it back, contradictions as well."""

    header: Any
    """As nibabel reads it."""
    affine: Affine
    """The one that was taken of it, in millimetres."""


def read(path: Path) -> Volume:
    """Read one file in its own dtype (floating point where the header scales).

    It is 2-D, 3-D, or 4-D with the channels last; further axes of one are dropped.

    Raises:
        DataError: when the file is damaged or holds something else than numbers.
        GeometryError: when its affine is singular, or a spacing that counts zero.
    """
    return _volume(path, _load(path))


def read_labels(path: Path) -> Volume:
    """Read a label map as `read` does; of a scaled one, the step next to a whole number is it."""
    image = _load(path)
    volume, step = _volume(path, image), abs(float(image.dataobj.slope))
    if step > _FINE or volume.array.dtype.kind != "f":
        return volume
    whole = np.rint(volume.array)
    near = np.abs(volume.array - whole) <= 0.5001 * step
    return volume.with_array(np.where(near, whole, volume.array))


def read_grid(path: Path) -> Grid:
    """Read where the voxels lie, without reading them; errors as `read`."""
    return _grid(path, _load(path))


def channels_in(path: Path) -> int:
    """Return how many channels the header promises: what lies beyond three axes."""
    return prod(int(size) for size in _load(path).shape[3:])


def label_names(path: Path) -> dict[int, str]:
    """Return label value -> name from the table that a header's extension holds; {} without one.

    TotalSegmentator and Connectome Workbench write such a table, as XML.
    """
    extensions = _load(path).header.extensions
    texts = (extension.content.decode("utf-8", "replace") for extension in extensions)
    labels = (match for text in texts for match in _LABEL.findall(text))
    return {int(value): (as_is or unescape(escaped)).strip() for value, as_is, escaped in labels}


def _label_table(names: Mapping[int, str]) -> Any:
    """The extension that tells names and colours of label values; 0 is the background."""
    rows = []
    for value, name in sorted(names.items()):
        if value:
            red, green, blue = (f"{level / 255:.4f}" for level in levels_of(value - 1))
            colour = f'Red="{red}" Green="{green}" Blue="{blue}" Alpha="1"'
            rows.append(f'<Label Key="{value}" {colour}>{escape(name)}</Label>')
    table = (
        '<?xml version="1.0" encoding="UTF-8"?><CaretExtension><VolumeInformation Index="0">'
        f"<LabelTable>{''.join(rows)}</LabelTable><VolumeType>Label</VolumeType>"
        "</VolumeInformation></CaretExtension>"
    )
    return nib.nifti1.Nifti1Extension(_CARET, table.encode())


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

    Channels become the fourth axis; beside an `.img` its `.hdr` is written. What label values are
    called goes into an extension of the header, as `label_names` reads it.
    """
    source = volume.header if isinstance(volume.header, NiftiHeader) else None
    header = source.header if source else None
    voxels = np.moveaxis(volume.array, 0, -1)
    if not isinstance(header, nib.Nifti1Header):  # there is none, or an Analyze file's, poorer
        voxels = voxels[..., 0] if volume.channels == 1 else voxels
        image = nib.Nifti1Image(voxels, volume.affine)
        image.header.set_xyzt_units("mm")
        _save(image, volume, path)
        return
    if volume.channels == 1:  # with the axes of one voxel that the file had, and no others
        shape = tuple(header.get_data_shape())
        alike = (*shape, 1, 1)[:3] == volume.spatial_shape and not set(shape[3:]) - {1}
        voxels = voxels.reshape(shape if alike and len(shape) >= 2 else volume.spatial_shape)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    header = kind.header_class(header.binaryblock, header.endianness, check=False)  # also a pair's
    header.set_data_dtype(voxels.dtype)
    header.set_slope_inter(1, 0)
    header["cal_max"] = header["cal_min"] = 0  # the image's display window
    if source and np.array_equal(source.affine, volume.affine):
        # Without an affine, both of the header's and their codes stay as they are.
        _save(kind(voxels, None, header), volume, path)
        return
    image = kind(voxels, _scaled(volume.affine, 1 / _mm_per_unit(header)), header)
    image.set_qform(image.affine, code=int(header["qform_code"]) or 1)
    image.set_sform(image.affine, code=int(header["sform_code"]) or 1)
    _save(image, volume, path)


def _save(image: Any, volume: Volume, path: Path) -> None:
    if volume.label_names:
        image.header.extensions.append(_label_table(volume.label_names))
    nib.save(image, path)


def _load(path: Path) -> Any:
    """By content: nibabel itself trusts the name."""
    with reading(path, "NIfTI"):
        with path.open("rb") as file:
            packed = file.read(len(GZIP)) == GZIP
        if path.name.lower().endswith(tuple(PAIR)):
            if other_of_pair(path) is None:
                found = "it is one file of a pair, and the other (.hdr with the header, .img with"
                remedy = "Copy both, or convert them to .nii.gz"
                raise unreadable(path, f"{found} the voxels) is not beside it", remedy)
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
    with reading(path, "NIfTI"):
        voxels = np.asanyarray(image.dataobj)
    if voxels.dtype.names:  # RGB voxels, a record of three bytes
        voxels = np.stack([voxels[field] for field in voxels.dtype.names], axis=-1)
    array, header = channels_first(voxels, path), NiftiHeader(image.header, grid.affine)
    return Volume(array, grid.affine, str(path), header, grid.doubt)


def _grid(path: Path, image: Any) -> Grid:
    """Where the voxels lie, with its doubt where the header contradicts itself."""
    header, name = image.header, str(path)
    stored = header
    if 1 in header["pixdim"][1:4]:  # nibabel has put 1 in the place of spacings that are zero
        with reading(path, "NIfTI"):
            file = image.file_map.get("header", image.file_map["image"])
            with file.get_prepare_fileobj("rb") as stream:
                stored = type(header).from_fileobj(stream, check=False)
    pixdim = [abs(float(edge)) for edge in stored["pixdim"][1:4]]
    x, y, z = (*map(int, header.get_data_shape()[:3]), 1, 1)[:3]
    shape, unit = (x, y, z), _mm_per_unit(header)
    measured = all(0 < edge < inf for n, edge in zip(shape, pixdim, strict=True) if n > 1)
    sform = _scaled(header.get_sform(), unit) if header.get("sform_code", 0) > 0 else None
    if not measured and not is_regular(sform):
        found = f"its spacing (pixdim) is {list(pixdim)}; expected more than 0"
        raise Problem("affine", name, found, "Repair the file's header", geometry=True).error()
    qform = None
    if measured and header.get("qform_code", 0) > 0:  # it is made of the spacings
        try:
            qform = _scaled(header.get_qform(), unit)
        except (ValueError, HeaderDataError):  # its quaternion is none
            qform = None
    if sform is None and qform is None:  # directions are not known: nibabel guesses, ITK otherwise
        guess = Grid(shape, _scaled(header.get_best_affine(), unit), name)
        by_itk = np.diag([-1.0, -1, 1, 1]) * (*guess.spacing_mm, 1)
        return replace(guess, doubt=Doubt((by_itk,), placeless=True))
    forms = [form for form in (sform, qform) if form is not None]
    regular = [form for form in forms if is_regular(form)]
    stated = [Grid(shape, form, name) for form in regular or forms]  # singular ones are refused
    if not measured:
        return stated[0]
    edges = np.array([edge if 0 < edge < inf else 1.0 for edge in pixdim]) * unit
    measuring = [replace(grid, affine=_with_edges(grid.affine, edges)) for grid in stated]
    unset = set(pixdim) == {1.0} and is_regular(sform)
    if unset or same_grid(stated[0], measuring[0]) is None:
        used = stated[0]
    else:
        directions = _with_edges(stated[0].affine, np.ones(3))[:3, :3]
        orthogonal = np.allclose(directions.T @ directions, np.eye(3), atol=_ORTHOGONAL)
        used = measuring[0 if orthogonal and int(header["sform_code"]) == _SCANNER else -1]
    others = [grid for grid in (*stated, *measuring) if same_grid(used, grid)]
    problem = None
    if sform is not None and (same_grid(stated[0], measuring[0]) or not is_regular(sform)):
        rule = ", as ITK does" if np.allclose(used.spacing_mm, edges) else ""
        found = (
            f"its sform has voxels of {extents(np.linalg.norm(sform[:3, :3], axis=0), '.5g')} mm"
            f"{'' if is_regular(sform) else ' (singular)'}, its pixdim says "
            f"{extents(edges, '.5g')} mm; {extents(used.spacing_mm, '.5g')} mm are taken{rule}"
        )
        problem = _doubtful("voxel-size", used, found)
    elif others and header["sform_code"] == header["qform_code"]:
        apart = max(corner_distance(used, other) for other in others)
        found = (
            "its sform and qform lead to the same coordinates, but place voxels up to "
            f"{apart:.4g} mm apart; the sform is taken"
        )
        problem = _doubtful("voxel-place", used, found)
    if not others and not problem:
        return used
    return replace(used, doubt=Doubt(tuple(grid.affine for grid in others), problem))


def _mm_per_unit(header: Any) -> float:
    try:
        return MM_PER_UNIT[header.get_xyzt_units()[0]]
    except (AttributeError, KeyError):  # an Analyze file, or a unit code that NIfTI does not define
        return 1.0


def _scaled(affine: Affine, factor: float) -> Affine:
    return np.diag([factor, factor, factor, 1.0]) @ affine


def _with_edges(affine: Affine, edges: Affine) -> Affine:
    return affine * (*edges / np.linalg.norm(affine[:3, :3], axis=0), 1)


def _doubtful(kind: str, grid: Grid, found: str) -> Problem:
    remedy = "Check that this is right; if it is not, correct the file's header"
    return Problem(kind, grid.name, found, remedy, "warning")


FORMAT = VolumeFormat(
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

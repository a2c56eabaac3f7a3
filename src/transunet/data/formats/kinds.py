"""What a file is, by its name and, where that does not tell, by how it begins."""

import re
import zlib
from collections.abc import Mapping
from gzip import GzipFile
from pathlib import Path

from transunet.data.formats import dicom, itk, nifti, npy, npz_hdf5, raster
from transunet.data.formats.dicom.headers import SUFFIXES, is_dicom
from transunet.data.formats.file_format import FileFormat

FORMATS: Mapping[str, FileFormat] = {
    ".nii": nifti.FORMAT,
    ".nii.gz": nifti.FORMAT,
    ".hdr": nifti.FORMAT,
    ".img": nifti.FORMAT,
    ".hdr.gz": nifti.FORMAT,
    ".img.gz": nifti.FORMAT,
    ".nrrd": itk.FORMAT,
    ".nhdr": itk.FORMAT,
    ".mha": itk.FORMAT,
    ".mhd": itk.FORMAT,
    ".png": raster.FORMAT,
    ".jpg": raster.FORMAT,
    ".jpeg": raster.FORMAT,
    ".tif": raster.FORMAT,
    ".tiff": raster.FORMAT,
    ".bmp": raster.FORMAT,
    ".npy": npy.FORMAT,
    ".npz": npz_hdf5.FORMAT,
    ".h5": npz_hdf5.FORMAT,
    ".npy.h5": npz_hdf5.FORMAT,
    ".dcm": dicom.FORMAT,
    ".dicom": dicom.FORMAT,
    ".ima": dicom.FORMAT,
    ".zip": dicom.FORMAT,
}
"""Suffix -> format. The one place that lists them."""
SLICES = frozenset(SUFFIXES)
"""Suffixes of files of which a folder holds one image."""
_START = 352  # bytes in which they do
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_MASK = re.compile(
    r"(.+?)(?:[-_. ](?:masks?|labels?|labelmap|seg|segmentation|gt|groundtruth))+", re.IGNORECASE
)


def suffix_of(path: Path) -> str | None:
    """Return the known suffix that `path` ends in, lower case (the longest one), or None."""
    name = path.name.lower()
    known = [suffix for suffix in FORMATS if name.endswith(suffix) and name != suffix]
    return max(known, key=len, default=None)


def kind_of(path: Path) -> str | None:
    """Return the suffix of the format that `path` is of: its own, else what its first bytes tell.

    None for a file of no known format, or one that cannot be opened.
    """
    suffix = suffix_of(path)
    if suffix or not path.is_file():
        return suffix
    magic = {suffix: start for known in FORMATS.values() for suffix, start in known.magic.items()}
    try:
        with path.open("rb") as file:
            start = file.read(_START)
            packed = start.startswith(nifti.GZIP)
            if packed:
                file.seek(0)
                start = GzipFile(fileobj=file).read(_START)
    except (OSError, EOFError, zlib.error):
        return None
    kind = next((suffix for suffix in magic if re.match(magic[suffix], start, re.DOTALL)), None)
    if packed:
        return ".nii.gz" if kind == ".nii" else None
    return kind or (".dcm" if is_dicom(path) else None)


def known_format(path: Path) -> FileFormat | None:
    """Return the format that `path` is of, as `kind_of` finds it."""
    return FORMATS.get(kind_of(path) or "")


def files_of(path: Path) -> list[Path]:
    """Return `path` and the file beside it without which it cannot be read in full, if any."""
    known = known_format(path)
    other = known.companion(path) if known else None
    return [path, other] if other and other.is_file() else [path]


def kind_in_folder(path: Path) -> str | None:
    """Return `kind_of` for a file that lies among others, which only an ending tells from images.

    Without an ending its content does. The header of a pair is none: the `.img` beside it counts.
    """
    if is_header_of_pair(path):
        return None
    return suffix_of(path) if "." in path.name else kind_of(path)


def is_header_of_pair(path: Path) -> bool:
    """Whether `path` is a `.hdr` with its `.img` beside it."""
    return path.name.lower().endswith((".hdr", ".hdr.gz")) and bool(nifti.other_of_pair(path))


def stem_of(path: Path) -> str:
    """Return the name without its known suffix: `a` of `a.nii.gz` and of `a.ome.tif`."""
    if path.is_dir():
        return path.name
    suffix = suffix_of(path)
    stem = path.name[: -len(suffix)] if suffix else path.stem
    return stem[:-4] if suffix in {".tif", ".tiff"} and stem.lower().endswith(".ome") else stem


def channel_of(name: str) -> tuple[str, int] | None:
    """Return case and channel of a name like nnU-Net's (CASE_0000, CASE_0001), else None."""
    match = _CHANNEL.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def case_of_mask(name: str) -> str | None:
    """Return the case of a mask's name (CASE_mask, 3D Slicer's CASE.seg and CASE-label), else None.

    Several such endings are one: 3D Slicer also writes CASE-segmentation.seg.

    Args:
        name: a file's name without its suffix, as `stem_of` returns it.
    """
    match = _MASK.fullmatch(name)
    return match[1] if match else None

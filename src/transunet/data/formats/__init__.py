"""Files to volumes and back: one module per format, chosen by suffix, without one by content."""

import logging
import re
import zlib
from collections import UserDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from gzip import GzipFile
from importlib import import_module
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.data.checks.problems import Problem
from transunet.data.formats import nifti
from transunet.data.formats.volume_format import VolumeFormat
from transunet.data.volume import Grid, Volume, same_grid
from transunet.errors import ConfigError, DataError, TransUNetError
from transunet.files import writing


class _Registry(UserDict[str, Any]):
    """Suffix -> format; its module is imported when the first such file is met."""

    def __getitem__(self, suffix: str) -> VolumeFormat:
        known = self.data[suffix]
        if isinstance(known, str):
            known = import_module(f"{__name__}.{known}").FORMAT
        assert isinstance(known, VolumeFormat)
        return known


FORMATS: Mapping[str, VolumeFormat] = _Registry(
    {
        ".nii": "nifti",
        ".nii.gz": "nifti",
        ".hdr": "nifti",
        ".img": "nifti",
        ".hdr.gz": "nifti",
        ".img.gz": "nifti",
        ".nrrd": "itk",
        ".nhdr": "itk",
        ".mha": "itk",
        ".mhd": "itk",
        ".png": "raster",
        ".jpg": "raster",
        ".jpeg": "raster",
        ".tif": "raster",
        ".tiff": "raster",
        ".bmp": "raster",
        ".npy": "npy",
        ".npz": "npz_hdf5",
        ".h5": "npz_hdf5",
        ".npy.h5": "npz_hdf5",
        ".dcm": "dicom",
        ".dicom": "dicom",
        ".ima": "dicom",
        ".zip": "dicom",
    }
)
"""Suffix -> format, the module here whose `FORMAT` it is. The one place that lists them."""
SLICES = frozenset({".dcm", ".dicom", ".ima"})
"""Suffixes of files of which a folder holds one image."""
_START = 352  # bytes at the beginning of a file that tell its format
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_MASK = re.compile(
    r"(.+?)(?:[-_. ](?:masks?|labels?|labelmap|seg|segmentation|gt|groundtruth))+", re.IGNORECASE
)
_log = logging.getLogger("transunet")
_ROUNDING = 8 * float(np.finfo(np.float32).eps)  # of a slope, a product and a sum in float32
_MOST_ROUNDING = 1e-3


def read_volume(path: Path | str | Sequence[Path], series: str | int | None = None) -> Volume:
    """Read an image, float32 (C, X, Y, Z).

    Args:
        path: one file, or one file per channel; a DICOM series may be a folder, a `.zip` or the
            files of its slices.
        series: which of several DICOM series: its UID, or its number in the list, from 1.

    Raises:
        ConfigError: for a path that does not exist, a format that is not known, or a series that is
            not there.
        DataError: when a file is damaged.
        GeometryError: when the channels lie on different grids, or an affine is singular.
    """
    if not isinstance(path, Path | str):
        paths = [Path(file) for file in path]
        if are_slices(paths):
            return _as_float(FORMATS[".dcm"].read(paths, series))
        parts = [read_volume(file, series) for file in paths]
        return parts[0] if len(parts) == 1 else join_channels(parts)
    path = Path(path)
    with unzipped(path) as files:
        if files:
            return replace(read_volume(files), name=str(path))
    return _as_float(format_of(path).read(path, **_choice(path, series)))


def read_image(paths: Sequence[Path], series: str | int | None = None) -> Volume:
    """Read a case's files, and refuse what holds nothing to segment.

    Args:
        paths: one file, one per channel, or the slices of a DICOM series.
        series: as `read_volume`, whose errors it raises too.

    Raises:
        DataError: for voxels that are all the same.
    """
    return _not_constant(read_volume(paths, series))


def open_image(
    paths: Sequence[Path], series: str | int | None = None
) -> tuple[int, Callable[[], Volume]]:
    """Return how many voxels a case's image has, and what reads it as `read_image` does.

    The headers of a DICOM series, or the files of an archive, are gone through once. Arguments and
    errors as of `read_image`.
    """
    slices = are_slices(paths)
    if slices or (len(paths) == 1 and is_dicom_path(paths[0])):
        from transunet.data.formats.dicom import read_series
        from transunet.data.formats.dicom.series import open_series

        opened = open_series(paths if slices else paths[0], series)
        voxels = prod(opened.grid.spatial_shape)
        return voxels, lambda: _not_constant(_as_float(read_series(opened)))
    voxels = prod(read_grid(paths[0]).spatial_shape) * len(paths)
    return voxels, lambda: read_image(paths, series)


def read_labels(path: Path, like: Grid | None = None) -> Volume:
    """Read a label map: one channel, uint8 where the values fit, else uint16 or uint32.

    Args:
        path: the file.
        like: where the image's voxels lie, for a DICOM segmentation: it holds only the slices that
            have labels, and without this the label map reaches from the first of them to the last.

    Raises:
        ConfigError: for a path that does not exist or a format that is not known.
        DataError: when the file is damaged, has several channels, or a value is negative or not
            whole.
        GeometryError: when its affine is singular, or a segmentation lies on another grid.
    """
    with unzipped(path) as files:
        if files:
            return replace(read_labels(files[0]), name=str(path))
    known = format_of(path)
    volume = known.read_labels(path, like) if is_dicom_path(path) else known.read_labels(path)
    if volume.channels != 1:
        found = f"a label map has one channel, this file has {volume.channels}"
        remedy = "Store one integer per voxel, the number of its class"
        raise Problem("label-channels", str(path), found, remedy).error()
    return volume.with_array(whole_numbers(volume.array, path))


def read_label_pair(first: Path, second: Path, image: Path | None = None) -> tuple[Volume, Volume]:
    """Read two label maps of one image; DICOM segmentations on a grid that both have.

    That is the other file's, or, of two segmentations, the image's, or the smallest that holds
    both. Errors as `read_labels`.

    Args:
        first: a label map.
        second: another one.
        image: what they were made of, if at hand.
    """
    from transunet.data.formats.dicom.segmentation import is_seg, seg_grid

    segmentations = [path for path in (first, second) if is_seg(path)]
    if not segmentations:
        return read_labels(first), read_labels(second)
    if len(segmentations) == 1:
        like = read_grid(second if first in segmentations else first)
    else:
        like = read_grid(image) if image else seg_grid(segmentations)
    return read_labels(first, like), read_labels(second, like)


def read_grid(path: Path, series: str | int | None = None) -> Grid:
    """Read where a file's voxels lie, for most formats without reading the voxels.

    Args:
        path: one file, or a DICOM series.
        series: as `read_volume`, whose errors it raises.
    """
    with unzipped(path) as files:
        if files:
            return replace(read_grid(files[0]), name=str(path))
    return format_of(path).read_grid(path, **_choice(path, series))


def channels_in(path: Path) -> int:
    """Return how many channels a file holds, for most formats without reading the voxels."""
    return format_of(path).channels_in(path)


def write_volume(volume: Volume, path: Path | str) -> None:
    """Write `volume` in the format of `path`'s suffix (not atomically: that is the caller's).

    Raises:
        ConfigError: for a format that is not known, or a path that cannot be written.
    """
    path = Path(path)
    known = known_format(path)
    if known is None:
        raise _unknown(path)
    if known.write is None:
        raise ConfigError(
            f"Cannot write {path}: volumes are not written in this format. Use NIfTI (.nii.gz)."
        )
    suffix = suffix_of(path) or ""
    small = path.with_name(path.name[: -len(suffix)] + suffix)  # what libraries know
    with writing(path):
        if small == path:
            known.write(volume, path)
            return
        with TemporaryDirectory(prefix=".partial-", dir=path.parent) as folder:
            scratch = Path(folder, small.name)
            known.write(volume, scratch)
            for file in Path(folder).iterdir():
                file.replace(path.with_name(file.name.replace(small.name, path.name)))


def header_contradictions(paths: Iterable[Path]) -> Problem | None:
    """Return one warning about the files whose headers contradict themselves on where voxels lie.

    Only headers are read, and only of the format that can contradict itself, NIfTI.
    """
    problems = []
    for path in paths:
        if FORMATS.get(suffix_of(path) or "") is nifti.FORMAT and path.is_file():
            with suppress(TransUNetError):  # reading the file will tell what is wrong with it
                doubt = nifti.read_grid(path).doubt
                problems += [doubt.problem] if doubt and doubt.problem else []
    if len(problems) < 2:
        return problems[0] if problems else None
    others = len(problems) - 1
    more = "file contradicts itself" if others == 1 else "files contradict themselves"
    return replace(problems[0], found=f"{problems[0].found}; {others} more {more}")


def warn_of_contradictions(paths: Iterable[Path]) -> None:
    """Log what `header_contradictions` returns."""
    problem = header_contradictions(paths)
    if problem:
        _log.warning(problem.text)


def smallest_unsigned(labels: NDArray[Any]) -> NDArray[Any]:
    """Return non-negative whole numbers as uint8, or uint16 or uint32 where they need it."""
    most = int(labels.max(initial=0))
    dtype = np.uint8 if most <= 255 else np.uint16 if most <= 65535 else np.uint32
    return labels.astype(dtype)


def join_channels(parts: Sequence[Volume]) -> Volume:
    """Return one volume of the channels of several, on the first one's grid, with its header.

    Raises:
        GeometryError: when they lie on different grids.
    """
    first = parts[0]
    parts = [part.on_grid(first) or part for part in parts]
    for part in parts[1:]:
        difference = same_grid(first, part)
        if difference:
            found = f"a case's channels must lie on one grid, but against {part.name} {difference}"
            remedy = "Resample the channels to one grid before"
            raise Problem("channel-grid", first.name, found, remedy, geometry=True).error()
    return replace(first, array=np.concatenate([part.array for part in parts]))


def format_of(path: Path) -> VolumeFormat:
    """Return the format that reads `path`.

    Raises:
        ConfigError: for a path that does not exist or a format that is not known.
    """
    if not path.exists():
        raise ConfigError(f"There is no file {path}. Check the path.")
    known = FORMATS[".dcm"] if path.is_dir() else known_format(path)  # no other image is a folder
    if known is None:
        raise _unknown(path)
    return known


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
    from transunet.data.formats.dicom.headers import is_dicom

    return kind or (".dcm" if is_dicom(path) else None)


def known_format(path: Path) -> VolumeFormat | None:
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


def is_dicom_path(path: Path) -> bool:
    """Whether `path` would be read as DICOM: a folder, a zip of one, or a DICOM file."""
    kind = kind_of(path)
    if kind == ".zip" and path.is_file():
        return not _volumes_in(path)
    return path.is_dir() or kind in (*SLICES, ".zip")


def are_slices(paths: Sequence[Path]) -> bool:
    """Whether files are slices of a DICOM series, given one by one; not an image or channel each.

    Raises:
        ConfigError: for DICOM without pydicom.
    """
    if len(paths) < 2:
        return False
    from transunet.data.formats.dicom import series

    return series.are_slices(paths)


def volumes_in_zip(path: Path) -> list[str]:
    """Return which files in an archive are its volume, one or one per channel; none for DICOM.

    Raises:
        DataError: for several that are not the channels of one case.
    """
    names = _volumes_in(path)
    channels = [channel_of(stem_of(Path(name))) for name in names]
    cases = {channel[0] if channel else None for channel in channels}
    if len(names) > 1 and (None in cases or len(cases) > 1):
        found = f"it holds {len(names)} images ({', '.join(names[:3])}, ...); expected one"
        remedy = "Unpack it and give its folder, or send one of the files"
        raise Problem("archive", str(path), found, remedy).error()
    return names


@contextmanager
def unzipped(path: Path) -> Iterator[list[Path]]:
    """The volume's files in the archive that `path` is, for a while; none for any other file."""
    names = volumes_in_zip(path) if suffix_of(path) == ".zip" and path.is_file() else []
    if not names:
        yield []
        return
    from transunet.data.formats.archive import Unpacked

    unpacked = Unpacked(path)
    try:
        yield [unpacked.folder / name for name in names]
    finally:
        unpacked.close()


def _volumes_in(archive: Path) -> list[str]:
    """NIfTI, NRRD and MetaImage files, where there is no DICOM, which comes first."""
    from transunet.data.formats.archive import starts

    first_bytes, names = starts(archive, 132), []
    for name, start in first_bytes.items():
        suffix = suffix_of(Path(name))
        if suffix in SLICES or start[128:] == b"DICM":
            return []
        known = FORMATS.get(suffix or "")
        if known and known.space == "known" and known.stands_alone:
            names.append(name)
    return sorted(name for name in names if not name.lower().endswith((".hdr", ".hdr.gz")))


def _unknown(path: Path) -> ConfigError:
    return ConfigError(
        f"{path}: neither its suffix nor its first bytes are of a format that is known. Known: "
        f"{', '.join(FORMATS)}."
    )


def _choice(path: Path, series: str | int | None) -> dict[str, str | int]:
    if series is None:
        return {}
    if not is_dicom_path(path):
        raise ConfigError(f"{path} is no DICOM, so it has no series to choose from.")
    return {"series": series}


def _not_constant(volume: Volume) -> Volume:
    if all(channel.min() == channel.max() for channel in volume.array):
        raise DataError(
            f"{volume.name}: every voxel is {volume.array.flat[0]:g}, so there is nothing to "
            "segment; expected an image. Check how the file was exported."
        )
    return volume


def _as_float(volume: Volume) -> Volume:
    # A float64 that float32 cannot hold becomes infinite, and is refused as such.
    with np.errstate(over="ignore"):
        return volume.with_array(volume.array.astype(np.float32))


def whole_numbers(values: NDArray[Any], path: Path | str) -> NDArray[Any]:
    """Return labels as unsigned integers; fractions that float32's rounding leaves become whole.

    Raises:
        DataError: for values that are negative, too large or not whole, naming `path`.
    """
    wrong = None
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = np.rint(values)
            rounding = np.clip(_ROUNDING * np.abs(whole), _ROUNDING, _MOST_ROUNDING)
            fractions = values[~(np.abs(values - whole) <= rounding)]
        if fractions.size:
            wrong = f"the value {fractions.flat[0]:.9g}, which is not whole"
        values = whole
    if wrong is None and values.dtype.kind != "b" and (least := values.min()) < 0:
        wrong = f"the negative value {least:g}"
    elif wrong is None and values.max() > np.iinfo(np.uint32).max:
        wrong = f"the value {values.max():g}"
    if wrong is not None:
        found = f"a label map holds the numbers of classes (0, 1, 2, ...); found {wrong}"
        remedy = "Check that it is not the image, and that it was resampled with nearest neighbour"
        raise Problem("not-labels", str(path), found, remedy).error()
    return smallest_unsigned(values)

"""What the package asks of a file format: one record, which stands at the end of its module."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from transunet.data.checks.problems import Problem
from transunet.data.volume import Grid, Volume
from transunet.errors import TransUNetError, first_line

DAMAGED = "The file is damaged, cut short or of another format: copy or export it again"
"""What to do about most files that cannot be read."""

Space = Literal["known", "pixels", "unknown"]


@dataclass(frozen=True, eq=False, kw_only=True)
class VolumeFormat:
    """How files of a format are read and written, and what they can tell.

    A new format is a module that ends in one of these, and its suffixes in `formats.FORMATS`. What
    is not said below is as NIfTI has it.
    """

    read: Callable[..., Volume]
    """(path) -> image in the file's own dtype; a `DataError` for a damaged file."""
    read_labels: Callable[..., Volume]
    """(path) -> label map in the file's own dtype."""
    read_grid: Callable[..., Grid]
    """(path) -> where the voxels lie, for most formats without reading them."""
    channels_in: Callable[[Path], int]
    """(path) -> how many channels the header promises."""
    write: Callable[[Volume, Path], None] | None = None
    """(volume, path), not atomically; a `ConfigError` for what the format cannot hold. None where
    volumes are not written in it."""
    space: Space = "known"
    """Whether files give voxels a size in millimetres; "pixels" are pictures, not scans."""
    oriented: bool = True
    """Whether the axes are the patient's, so that left and right can be named."""
    tells_space: Callable[[Path], bool] = lambda _: True
    """(path) -> whether this very file knows voxel sizes and how the patient lies."""
    stands_alone: bool = True
    """Whether a file is one image, or one channel of it, or one label map, and only that."""
    rank: int = 0
    """Of the files in a folder of predictions or references, those of the lowest rank count."""
    label_suffixes: Mapping[str, str] = field(default_factory=dict)
    """Suffix of an image -> suffix of the label map made from it, where that is another one."""
    two_files: frozenset[str] = frozenset()
    """Suffixes of which an image is two files."""
    zipped: frozenset[str] = frozenset()
    """Suffixes of files that are archives: their headers are packed too."""
    refers_anywhere: frozenset[str] = frozenset()
    """Suffixes of files that may refer to any other file on the disk, and not by a plain name."""
    companion: Callable[[Path], Path | None] = lambda _: None
    """(path) -> the file beside it without which it cannot be read in full, if there is one."""
    voxel_files: Callable[[Path], list[str] | None] = lambda _: []
    """(path) -> names of the other files that its header says hold the voxels; None if unclear."""
    label_names: Callable[[Path], dict[int, str]] = lambda _: {}
    """(path) -> label value -> name, where a label map's header lists them."""
    magic: Mapping[str, bytes] = field(default_factory=dict)
    """Suffix -> pattern of the first bytes of files that may have no suffix."""


def unreadable(path: Path | str, found: str, remedy: str = DAMAGED) -> TransUNetError:
    """Return the error for a file that cannot be read."""
    return Problem("unreadable", str(path), found, remedy).error()


def channels_first(voxels: NDArray[Any], path: Path) -> NDArray[Any]:
    """(X, Y), (X, Y, Z) or (X, Y, Z, ...) -> (C, X, Y, Z): one further axis may be longer than one.

    Raises:
        DataError: for anything else than real numbers, and for more such axes.
    """
    if voxels.dtype.kind not in "buif":
        raise unreadable(path, f"its voxels are of type {voxels.dtype}; expected real numbers")
    channels = [size for size in voxels.shape[3:] if size > 1] or [1]
    if voxels.ndim < 2 or len(channels) > 1:
        found = f"it has the shape {voxels.shape}; expected (X, Y, Z) or (X, Y, Z, channels)"
        remedy = "Store one image per file; of a series over time each point in time in its own"
        raise unreadable(path, found, remedy)
    return np.moveaxis(voxels.reshape(*(*voxels.shape, 1)[:3], *channels), -1, 0)


@contextmanager
def reading(
    path: Path | str,
    kind: str,
    remedy: str = DAMAGED,
    *,
    reason_of: Callable[[Exception], str] = first_line,
    but: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Turn whatever a library raises over a damaged file into one error that names the file.

    Args:
        path: the file.
        kind: what it is read as, such as "NIfTI".
        remedy: what to do.
        reason_of: what to tell of the library's message.
        but: what is no sign of damage, and passes.

    Raises:
        DataError: for any other exception that is not this package's own.
    """
    try:
        yield
    except Exception as error:  # no parser says in how many ways it stumbles over a flipped bit
        if isinstance(error, (TransUNetError, *but)):
            raise
        if Path(path).is_file() and not Path(path).stat().st_size:
            raise unreadable(path, "it is empty", remedy) from None
        reason = reason_of(error).replace(str(path), "the file")[:200]
        raise unreadable(path, f"it cannot be read as {kind} ({reason})", remedy) from None

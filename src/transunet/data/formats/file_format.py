"""What the package asks of a file format: one record, which stands at the end of its module."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from transunet.data.volume import Grid, Volume

Space = Literal["known", "pixels", "unknown"]


@dataclass(frozen=True, eq=False, kw_only=True)
class FileFormat:
    """How files of a format are read and written, and what they can tell.

    A new format is a module that ends in one of these, and its suffixes in `kinds.FORMATS`. What
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
    write: Callable[[Volume, Path], None]
    """(volume, path), not atomically; a `ConfigError` for what the format cannot hold."""
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

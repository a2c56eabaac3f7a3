"""How many voxels a file promises, before any are read: a small file may claim anything."""

import zipfile
from math import prod
from pathlib import Path

from transunet.data.formats import FORMATS, channels_in, kind_of, read_grid
from transunet.serve.api.error_responses import ApiError
from transunet.serve.uploads.quota import no_room


def check_voxels(path: Path, voxels: int, most: int) -> None:
    """Refuse an image of more than `most` voxels, channels included.

    Raises:
        ApiError: when it has more.
    """
    if voxels > most:
        message = f"{path.name}: it has {voxels} voxels; at most {most} are taken."
        raise ApiError("too_large", message, "Cut or shrink the image.")


def declared(path: Path) -> int:
    """Return how many voxels `path` promises, channels included.

    Raises:
        DataError, GeometryError: for a damaged header.
    """
    suffix = kind_of(path)
    if suffix and suffix in FORMATS[suffix].zipped:
        return _unpacked_bytes(path)
    return prod(read_grid(path).spatial_shape) * channels_in(path)


def check_archive(path: Path, room: int) -> None:
    """Refuse an archive whose contents do not fit into `room` bytes.

    Raises:
        ApiError: when they do not.
    """
    if _unpacked_bytes(path) > room:
        raise no_room(f"{path.name}: what is in the archive does not fit into the server's quota.")


def _unpacked_bytes(path: Path) -> int:
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(member.file_size for member in archive.infolist())
    except Exception:  # damaged in any way: the reader says how
        return 0

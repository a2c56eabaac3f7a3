"""Room on the disk: a quota over the data folder, and a full disk told as what it is."""

import errno
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from transunet.serve.api.error_responses import ApiError

_FULL = {errno.ENOSPC, errno.EDQUOT}
FREE_BYTES = 16 * 2**20
"""What uploads leave free on the disk, so that jobs can end and be deleted."""

_REMEDY = "Delete images and results that are no longer needed, or try again when some expired."


def is_full(error: BaseException | None) -> bool:
    """Whether `error`, or what it was raised for, is a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def no_room(found: str = "The server's disk is full.") -> ApiError:
    """Return the error for a full disk."""
    return ApiError("storage_full", found, _REMEDY)


@contextmanager
def telling_of_full_disks() -> Iterator[None]:
    """Turn a full disk into an answer.

    Raises:
        ApiError: in place of the operating system's or the database's error.
    """
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if is_full(error):
            raise no_room() from None
        raise


class Space:
    """How much of the quota is taken, by what is kept and by what is just arriving.

    Args:
        folder: the data folder.
        quota: bytes.
        kept: returns the bytes that images and results take.
    """

    def __init__(self, folder: Path, quota: int, kept: Callable[[], int]) -> None:
        self._folder, self._quota, self._kept = folder, quota, kept
        self._arriving: dict[str, int] = {}
        self._lock = threading.Lock()

    def check(self, more: int = 0) -> None:
        """Make sure that `more` bytes fit into the quota, and that the disk is not all but full.

        Raises:
            ApiError: when they do not, or it is.
        """
        if self._kept() + more > self._quota:
            size = self._quota / 2**20
            raise no_room(f"The server keeps at most {size:.0f} MB, which are in use.")
        if shutil.disk_usage(self._folder).free < FREE_BYTES:
            raise no_room()

    def arrived(self, id_: str, size: int) -> None:
        """Note that `size` bytes more of an upload have arrived.

        Raises:
            ApiError: as `check`.
        """
        with self._lock:
            self._arriving[id_] = self._arriving.get(id_, 0) + size
            total = sum(self._arriving.values())
        self.check(total)

    def settled(self, id_: str) -> None:
        """Forget an upload: it is kept by now, or was given up."""
        with self._lock:
            self._arriving.pop(id_, None)


def size_of(folder: Path) -> int:
    """Return the bytes of the files in `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def remove(folder: Path) -> None:
    """Remove a folder if it is there."""
    shutil.rmtree(folder, ignore_errors=True)

"""Room on the disk: a quota over the data folder, and a disk that is all but full."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from transunet.serve.api_errors import storage_full

FREE_BYTES = 16 * 2**20
"""What uploads leave free on the disk, so that jobs can end and be deleted."""


class Quota:
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

    @property
    def left(self) -> int:
        """Bytes of the quota that nothing takes which is kept."""
        return self._quota - self._kept()

    def check(self, more: int = 0) -> None:
        """Make sure that `more` bytes fit into the quota, and that the disk is not all but full.

        Raises:
            ApiError: when they do not, or it is.
        """
        if more > self.left:
            size = self._quota / 2**20
            raise storage_full(f"The server keeps at most {size:.0f} MB, which are in use.")
        if shutil.disk_usage(self._folder).free < FREE_BYTES:
            raise storage_full()

    def add_arriving(self, id_: str, size: int) -> None:
        """Note that `size` bytes more of an upload have arrived.

        Raises:
            ApiError: as `check`.
        """
        with self._lock:
            self._arriving[id_] = self._arriving.get(id_, 0) + size
            total = sum(self._arriving.values())
        self.check(total)

    def forget_arriving(self, id_: str) -> None:
        """Forget an upload: it is kept by now, or was given up."""
        with self._lock:
            self._arriving.pop(id_, None)


def size_of(folder: Path) -> int:
    """Return the bytes of the files in `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def remove(folder: Path) -> None:
    """Remove a folder if it is there."""
    shutil.rmtree(folder, ignore_errors=True)

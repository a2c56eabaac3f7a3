"""The folder of what is downloaded or converted, and whether there is a network to fill it from."""

import atexit
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from transunet.errors import ConfigError
from transunet.files import writable_folder

VARIABLE = "TRANSUNET_CACHE"
ANSWER_SECONDS = 5.0
"""For a server's first answer: without a network this is all that is waited."""

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return $TRANSUNET_CACHE, else `transunet` in the platform's cache folder.

    Where that is neither there nor can be made (a container's user without a home), it is a
    temporary folder, which is said once and removed with this process. Nothing else is created.

    Raises:
        ConfigError: when there is no place for a temporary folder, or no home for a `~`.
    """
    if chosen := os.environ.get(VARIABLE):
        try:
            return Path(chosen).expanduser()
        except RuntimeError:
            raise ConfigError(
                f"{VARIABLE}={chosen}: this user has no home folder. Give a whole path."
            ) from None
    try:
        usual = _platform_cache(sys.platform) / "transunet"
    except RuntimeError:  # no HOME, and a user whom the system does not know
        return _temporary_cache("This user has no home folder")
    if os.access(usual, os.R_OK | os.X_OK) or can_be_written(usual):
        return usual
    return _temporary_cache(f"{usual} cannot be made")


def is_offline() -> bool:
    """Whether TRANSUNET_OFFLINE or HF_HUB_OFFLINE asks for no network."""
    values = (os.environ.get(name, "") for name in ("TRANSUNET_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.strip().lower() in {"1", "true", "yes", "on"} for value in values)


def can_be_written(folder: Path) -> bool:
    """Return whether this user may write into `folder`, or may create it where it is missing."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)


def writable_cache_folder(folder: Path) -> Path:
    """Create `folder`, a part of the cache, and make sure that it can be written to.

    Raises:
        ConfigError: saying how to choose another cache.
    """
    return writable_folder(
        folder, f"Set the environment variable {VARIABLE} to a folder for the cache."
    )


@contextmanager
def cache_lock(path: Path) -> Iterator[None]:
    """Keep other processes from making the same `path` of the cache meanwhile.

    On a file system without locks (some NFS) they may make it twice, which does no harm: whatever
    is made is renamed to its place when it is whole.
    """
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        _log.info("%s: without a lock (%s).", path, error)
    try:
        yield
    finally:
        lock.release()


def _temporary_cache(reason: str) -> Path:
    try:
        folder = tempfile.mkdtemp(prefix="transunet-cache-")
    except OSError:
        raise ConfigError(
            f"{reason}, nor is there a temporary folder. Set the environment variable {VARIABLE} "
            "to a folder that can be written to."
        ) from None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[VARIABLE] = folder  # from now on, and for the processes that this one starts
    _log.warning(
        "%s, so what is downloaded or converted is kept in a temporary folder until this command "
        "ends. Set the environment variable %s to a folder that stays.",
        reason,
        VARIABLE,
    )
    return Path(folder)


def _platform_cache(platform: str) -> Path:
    if platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")

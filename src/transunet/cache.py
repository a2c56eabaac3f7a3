"""The cache of downloaded weights: where a file lies, and whether it is still what it was."""

import atexit
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from transunet.errors import ConfigError, WeightsError
from transunet.files import atomic_path, writable_folder
from transunet.weights.catalog import WeightFile

VARIABLE = "TRANSUNET_CACHE"
_CHUNK = 1 << 20  # bytes hashed at a time

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """What is remembered beside a cached file, as `FILE.json`."""

    sha256: str
    size: int
    checksum_from: str
    """Who said what the checksum has to be: see `docs/reference/weights.md`."""


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


def place(file: WeightFile) -> Path:
    """Return where `file` lies in the cache, or would."""
    return cache_folder() / "weights" / file.key / file.filename


def is_cached(file: WeightFile) -> bool:
    """Whether `file` lies in the cache, complete; its checksum is looked at when it is used."""
    try:
        return place(file).is_file()
    except OSError:  # in a folder that this user may not look into
        return False


def record_of(file: WeightFile) -> Record | None:
    """Return what is remembered about the cached `file`, or None."""
    try:
        return Record(**json.loads(_note(place(file)).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # absent, or not what we wrote: checked as if new
        return None


def remember(file: WeightFile, record: Record) -> None:
    """Write `record` beside the cached `file`."""
    with atomic_path(_note(place(file))) as note:
        note.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")


def checked(file: WeightFile) -> Path:
    """Return the path of the cached `file` after checking its size and checksum.

    A file that was put there by hand is checked against the catalogue if that knows its checksum,
    and remembered as it is where the folder can be written to.

    Raises:
        WeightsError: when it changed since it was downloaded, and is moved aside; or when it cannot
            be read.
    """
    path = place(file)
    record = record_of(file)
    expected = file.sha256 or (record.sha256 if record else None)
    try:
        found = digests(path, ["sha256"])["sha256"]
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be read ({error.strerror or error}). Make it readable for this user, "
            f"or set the environment variable {VARIABLE} to another folder."
        ) from None
    if expected is not None and found != expected:
        _move_aside(path, found, expected)
    if record is None:
        source = "the catalogue" if file.sha256 else "its first use (put there by hand)"
        # An administrator's folder is used as it is: without a note it is as if new every time.
        with suppress(ConfigError, OSError):
            remember(file, Record(found, path.stat().st_size, source))
    return path


def digests(path: Path, algorithms: Sequence[str]) -> dict[str, str]:
    """Return the hexadecimal digest of the file `path` for each of `algorithms`, in one reading."""
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            for one in hashes.values():
                one.update(chunk)
    return {name: one.hexdigest() for name, one in hashes.items()}


def _move_aside(path: Path, found: str, expected: str) -> None:
    damaged = path.with_name(f"{path.name}.damaged")
    try:
        path.replace(damaged)
        _note(path).unlink(missing_ok=True)
        done = f"It was moved to {damaged}; do the same again to download it anew."
    except OSError:
        done = f"Remove it, or set the environment variable {VARIABLE} to another folder."
    raise WeightsError(
        f"{path}: the file changed since it was downloaded: its SHA-256 is {found}, expected "
        f"{expected}. {done}"
    )


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")

"""The cache of downloaded weights: where a file lies, and whether it is still what it was."""

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from transunet.atomic import atomic_path
from transunet.errors import WeightsError
from transunet.weights.catalog import WeightFile

_CHUNK = 1 << 20  # bytes hashed at a time


@dataclass(frozen=True)
class Record:
    """What is remembered beside a cached file, as `FILE.json`."""

    sha256: str
    size: int
    checksum_from: str
    """Who said what the checksum has to be: see `docs/reference/weights.md`."""


def cache_folder() -> Path:
    """Return $TRANSUNET_CACHE, else `transunet` in the platform's cache folder. Creates nothing."""
    if chosen := os.environ.get("TRANSUNET_CACHE"):
        return Path(chosen).expanduser()
    return _platform_cache(sys.platform) / "transunet"


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
    return place(file).is_file()


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
    and remembered as it is.

    Raises:
        WeightsError: when it changed since it was downloaded; it is moved aside.
    """
    path = place(file)
    record = record_of(file)
    expected = file.sha256 or (record.sha256 if record else None)
    found = digests(path, ["sha256"])["sha256"]
    if expected is not None and found != expected:
        _move_aside(path, found, expected)
    if record is None:
        source = "the catalogue" if file.sha256 else "its first use (put there by hand)"
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
    path.replace(damaged)
    _note(path).unlink(missing_ok=True)
    raise WeightsError(
        f"{path}: the file changed since it was downloaded: its SHA-256 is {found}, expected "
        f"{expected}. It was moved to {damaged}; do the same again to download it anew."
    )


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")

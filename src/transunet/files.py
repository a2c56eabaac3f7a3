"""Outputs are written beside their place and renamed: a reader never sees half of one."""

import csv
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transunet.errors import ConfigError, DataError, is_full_disk


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; rename it onto `path` on success.

    A file or a folder may be written. The temporary name ends like `path`, since writers choose a
    format by suffix. On failure it is removed and what stood at `path` stays.

    Raises:
        ConfigError: when `path`'s folder cannot be made or written to.
    """
    writable_folder(path.parent)
    scratch = Path(tempfile.mkdtemp(prefix=".partial-", dir=path.parent))
    try:
        yield scratch / path.name
        _replace(scratch / path.name, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def writable_folder(path: Path, remedy: str = "Choose another output folder.") -> Path:
    """Create the folder `path` where it is missing and make sure that it can be written to.

    Args:
        path: the folder.
        remedy: what to do where it cannot be; on a full disk, to make room comes first.

    Raises:
        ConfigError: when it is a file, or cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        room = "Make room. " if is_full_disk(error) else ""
        raise ConfigError(
            f"Cannot write to the folder {path}: {error.strerror or error}. {room}{remedy}"
        ) from None


@contextmanager
def writing(path: Path, remedy: str = "Choose another place or make room.") -> Iterator[None]:
    """Turn the `OSError` of writing to `path` into the one message about it.

    Args:
        path: what is written, for the message.
        remedy: what to do where it cannot be.

    Raises:
        ConfigError: when the system refuses.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(f"Cannot write {path}: {error.strerror or error}. {remedy}") from None


def write_text(text: str, path: Path) -> None:
    """Write a file in UTF-8, all of it or nothing.

    Raises:
        ConfigError: when it cannot be written, or there is no room.
    """
    with writing(path), atomic_path(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(values: Any, path: Path) -> None:
    """Write plain values as JSON, all of it or nothing; errors as of `write_text`."""
    write_text(json.dumps(values, indent=2) + "\n", path)


def write_rows(rows: Iterable[Iterable[Any]], path: Path) -> None:
    """Write a table as CSV in UTF-8, all of it or nothing; errors as of `write_text`."""
    with (
        writing(path),
        atomic_path(path) as scratch,
        scratch.open("w", encoding="utf-8", newline="") as file,
    ):
        csv.writer(file).writerows(rows)


def read_json(path: Path, remedy: str) -> Any:
    """Return what a JSON file holds, of whatever kind.

    Args:
        path: the file.
        remedy: what to do where it cannot be read, as a sentence.

    Raises:
        ConfigError: when it is missing.
        DataError: when it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"There is no file {path}. {remedy}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}). {remedy}") from None


def _replace(new: Path, path: Path) -> None:
    # A folder cannot be renamed onto one that is not empty: move the old one aside first.
    if path.is_dir() and new.is_dir():
        path.replace(new.parent / "previous")
    new.replace(path)


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of the file `path`, which is read in pieces.

    Raises:
        OSError: when it cannot be read.
    """
    import hashlib  # OpenSSL takes 4 ms and 5 MiB, which `--help` need not pay

    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""What is known of each case in an output folder: done, failed or begun, by what, from what.

A record is `cases/NAME.json` in the output folder. A case whose record says that it was done with
the same bundle, settings and image is not done again.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from transunet.batch.outputs import write_values
from transunet.data.formats import files_of
from transunet.data.walking import walk

FOLDER = "cases"
_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Record:
    """One case in an output folder."""

    case: str
    status: Literal["begun", "done", "failed"]
    key: str
    """SHA-256 of bundle and settings."""
    run: str
    """The run that wrote it."""
    images: tuple[str, ...]
    images_sha256: str
    """Of the images' contents; empty where they could not be read."""
    series: str = ""
    """Which of several DICOM series at that path, where it was chosen."""
    outputs: tuple[str, ...] = ()
    """The files written, relative to the output folder."""
    by: str = ""
    """Host, process and device."""
    seconds: float = 0.0
    problem: str = ""
    warnings: tuple[str, ...] = ()
    """What makes the image doubtful for the bundle."""
    structures: dict[str, Any] = field(default_factory=dict)
    """Name -> `statistics.measure`."""


def read_record(folder: Path, case: str) -> Record | None:
    """Return what is known of `case` in `folder`; None for nothing, or nothing readable."""
    try:
        values = json.loads((folder / FOLDER / f"{case}.json").read_text(encoding="utf-8"))
        record = Record(**values)
    except (OSError, ValueError, TypeError):
        return None
    return record


def write_record(folder: Path, record: Record) -> None:
    """Write a record; it appears when it is complete.

    Raises:
        ConfigError: when the folder cannot be written to, or the disk is full.
    """
    write_values(folder / FOLDER / f"{record.case}.json", asdict(record))


def all_records(folder: Path) -> list[Record]:
    """Return every record in `folder`, by name."""
    names = sorted(_names(folder / FOLDER))
    return [record for name in names if (record := read_record(folder, name))]


def _names(place: Path) -> Iterator[str]:
    for inner, folders, files in os.walk(place):
        folders[:] = [name for name in folders if not name.startswith(".partial-")]
        paths = (Path(inner, file).relative_to(place) for file in files if file.endswith(".json"))
        yield from (path.as_posix()[: -len(".json")] for path in paths)


def content_hash(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of the files' contents, one after the other.

    Of a folder, of all files in it; of an array or a pair, also of the file that belongs to it.

    Raises:
        OSError: when one cannot be read.
    """
    digest = hashlib.sha256()
    for path in chain.from_iterable(map(_files_in, paths)):
        with path.open("rb") as file:
            while block := file.read(_AT_ONCE):
                digest.update(block)
        digest.update(b"|")
    return digest.hexdigest()


def _files_in(path: Path) -> list[Path]:
    if path.is_dir():
        return walk(path).files
    return files_of(path)


def sweep(folder: Path, case: str) -> None:
    """Remove what a killed worker left half-written of `case`, whose claim the caller has."""
    inner, name = Path(case).parent, Path(case).name
    inside = [path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]
    for place in (folder, *inside):
        for scratch in list((place / inner).glob(".partial-*")):
            with suppress(FileNotFoundError):  # another case's, which is complete by now
                if any(part.name.startswith(f"{name}.") for part in scratch.iterdir()):
                    shutil.rmtree(scratch, ignore_errors=True)

"""Images, jobs and label maps, kept in SQLite so that they survive a restart."""

import json
import secrets
import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from transunet.errors import ConfigError

Status = Literal["queued", "running", "done", "failed", "cancelled"]
OVER = ("done", "failed", "cancelled")
"""States that a job does not leave."""

_VERSION = 4
_IMAGES_AND_JOBS = """
CREATE TABLE images (id TEXT PRIMARY KEY, name TEXT NOT NULL, facts TEXT NOT NULL,
  size INTEGER NOT NULL, created REAL NOT NULL, expires REAL NOT NULL);
CREATE TABLE jobs (place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
  image TEXT NOT NULL REFERENCES images (id), bundle TEXT NOT NULL, settings TEXT NOT NULL,
  created REAL NOT NULL, status TEXT NOT NULL, attempts INTEGER NOT NULL, error TEXT,
  statistics TEXT, slices INTEGER, size INTEGER NOT NULL, started REAL, finished REAL,
  expires REAL, warnings TEXT NOT NULL DEFAULT '[]');
CREATE INDEX jobs_by_status ON jobs (status, place);
"""
_WARNINGS = "ALTER TABLE jobs ADD COLUMN warnings TEXT NOT NULL DEFAULT '[]';"
_LABEL_MAPS = """
CREATE TABLE label_maps (place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
  image TEXT NOT NULL REFERENCES images (id), kind TEXT NOT NULL, name TEXT NOT NULL,
  parent TEXT, author TEXT, created REAL NOT NULL, changed_voxels INTEGER, names TEXT NOT NULL,
  regions TEXT NOT NULL, structures TEXT NOT NULL, automatic INTEGER NOT NULL,
  size INTEGER NOT NULL);
"""
_BATCHES = "ALTER TABLE jobs ADD COLUMN batch TEXT;"
_CHANGES = {
    0: _IMAGES_AND_JOBS + _LABEL_MAPS + _BATCHES,
    1: _WARNINGS + _LABEL_MAPS + _BATCHES,
    2: _LABEL_MAPS + _BATCHES,
    3: _BATCHES,
}
"""From each earlier version to this one; 0 is a new file."""
_RESERVE = 1 << 19
"""Bytes that the records' files have to spare: on a full disk jobs still end and are deleted."""
_JSON = frozenset(
    {"metadata", "settings", "error", "statistics", "warnings", "names", "regions", "structures"}
)
_IMAGES = "SELECT id, name, facts AS metadata, size, created, expires FROM images"


@dataclass(frozen=True)
class ImageRecord:
    """An image that was uploaded."""

    id: str
    name: str
    metadata: dict[str, Any]
    """What `uploads.inspection.inspect` returned; JSON, in the column `facts`."""
    size: int
    """Bytes on the disk."""
    created: float
    """Seconds since 1970, as every time here."""
    expires: float


@dataclass(frozen=True)
class JobRecord:
    """A segmentation that was asked for."""

    id: str
    image: str
    bundle: str
    settings: dict[str, Any]
    created: float
    status: Status = "queued"
    attempts: int = 0
    """How often it was begun; a graceful stop does not count."""
    error: dict[str, Any] | None = None
    statistics: list[dict[str, Any]] | None = None
    warnings: list[str] = field(default_factory=list)
    """What makes the image doubtful for the bundle."""
    slices: int | None = None
    size: int = 0
    started: float | None = None
    finished: float | None = None
    expires: float | None = None
    batch: str | None = None
    """What it was sent with."""


@dataclass(frozen=True)
class LabelMapRecord:
    """A label map of an image that no job made: a file that was sent, or a correction by hand."""

    id: str
    image: str
    kind: Literal["given", "correction"]
    name: str
    created: float
    names: dict[str, str]
    """Label value, as text, -> name; the background is left out."""
    regions: list[dict[str, Any]]
    """`Region`s of a bundle that tells regions apart, as JSON."""
    structures: list[dict[str, Any]]
    """Index, name, colour, voxels and millilitres of each."""
    parent: str | None = None
    """The job or label map that was corrected; None for what was sent, or drawn from nothing."""
    author: str | None = None
    changed_voxels: int | None = None
    """Against the parent, of a correction."""
    automatic: bool = False
    """Whether it is the correction of what a network found."""
    size: int = 0


Record = ImageRecord | JobRecord | LabelMapRecord
_TABLES: Mapping[type, str] = {
    JobRecord: "jobs",
    LabelMapRecord: "label_maps",
    ImageRecord: "images",
}


def new_id() -> str:
    """Return an id that cannot be guessed: 128 random bits."""
    return secrets.token_hex(16)


class JobDatabase:
    """Records and files of one data folder: records in memory, in SQLite before a change counts.

    A change makes `images`, `jobs` and `label_maps` anew, so that who reads them needs no lock. Who
    changes a record because of what it finds there holds `lock` meanwhile.

    Raises:
        ConfigError: when the file is no such database, or was written by a later version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.lock = folder, threading.RLock()
        path = folder / "jobs.sqlite3"
        try:
            self._sqlite = sqlite3.connect(path, check_same_thread=False)
            self._sqlite.row_factory = sqlite3.Row
            self._sqlite.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
            (version,) = self._sqlite.execute("PRAGMA user_version").fetchone()
            if version > _VERSION:
                raise ConfigError(
                    f"{path} was written by another version of transunet (format {version}, "
                    f"expected {_VERSION}). Choose another --data folder."
                )
            if version < _VERSION:
                self._sqlite.executescript(
                    f"BEGIN; {_CHANGES[version]} PRAGMA user_version = {_VERSION}; COMMIT;"
                )
            # Make the files larger than they need to be; SQLite keeps the pages and uses them.
            self._sqlite.executescript(
                f"PRAGMA wal_autocheckpoint = {_RESERVE // 8192};"
                f"CREATE TABLE reserve AS SELECT zeroblob({_RESERVE}) AS room;"
                "DROP TABLE reserve; PRAGMA wal_checkpoint(FULL);"
            )
            images = self._sqlite.execute(_IMAGES).fetchall()
            jobs = self._sqlite.execute("SELECT * FROM jobs ORDER BY place").fetchall()
            maps = self._sqlite.execute("SELECT * FROM label_maps ORDER BY place").fetchall()
        except sqlite3.Error as error:
            raise ConfigError(
                f"{path} cannot be opened as the server's records ({error}). Choose another --data "
                "folder, or move this one away."
            ) from None
        self.images: Mapping[str, ImageRecord] = {
            row["id"]: ImageRecord(**_values(row)) for row in images
        }
        self.jobs: Mapping[str, JobRecord] = {row["id"]: JobRecord(**_values(row)) for row in jobs}
        """Oldest first, as `label_maps`."""
        self.label_maps: Mapping[str, LabelMapRecord] = {
            row["id"]: LabelMapRecord(**_values(row)) for row in maps
        }

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            self._sqlite.close()

    def image_folder(self, id_: str) -> Path:
        """Return the folder of an image's files."""
        return self.folder / "images" / id_

    def job_folder(self, id_: str) -> Path:
        """Return the folder of a job's files."""
        return self.folder / "jobs" / id_

    def label_map_folder(self, id_: str) -> Path:
        """Return the folder of the files of a label map that no job made."""
        return self.folder / "label_maps" / id_

    def queued(self) -> list[str]:
        """Return the ids of the jobs that wait, the next one first."""
        return [job.id for job in self.jobs.values() if job.status == "queued"]

    def used_bytes(self) -> int:
        """Return the bytes that images and results take."""
        kept = (self.images, self.jobs, self.label_maps)
        return sum(record.size for records in kept for record in records.values())

    def save(self, *records: Record) -> None:
        """Keep records, new or changed: all of them, or none.

        Raises:
            sqlite3.Error: when they cannot be written.
        """
        with self.lock, self._sqlite:
            for record in records:
                columns = {
                    "facts" if name == "metadata" else name: (
                        json.dumps(value) if name in _JSON and value is not None else value
                    )
                    for name, value in vars(record).items()
                }
                names, marks = ", ".join(columns), ", ".join("?" * len(columns))
                changes = ", ".join(f"{name} = excluded.{name}" for name in columns)
                self._sqlite.execute(
                    f"INSERT INTO {_TABLES[type(record)]} ({names}) VALUES ({marks}) "
                    f"ON CONFLICT (id) DO UPDATE SET {changes}",
                    [*columns.values()],
                )
            self._sqlite.commit()
            for record in records:
                if isinstance(record, JobRecord):
                    self.jobs = {**self.jobs, record.id: record}
                elif isinstance(record, LabelMapRecord):
                    self.label_maps = {**self.label_maps, record.id: record}
                else:
                    self.images = {**self.images, record.id: record}

    def remove(self, *ids: str) -> None:
        """Forget images, jobs and label maps: all of them, or none.

        Raises:
            sqlite3.Error: when it cannot be written.
        """
        with self.lock, self._sqlite:
            for table in _TABLES.values():
                self._sqlite.executemany(
                    f"DELETE FROM {table} WHERE id = ?", [(id_,) for id_ in ids]
                )
            self._sqlite.commit()
            self.jobs = {id_: job for id_, job in self.jobs.items() if id_ not in ids}
            self.images = {id_: image for id_, image in self.images.items() if id_ not in ids}
            self.label_maps = {
                id_: record for id_, record in self.label_maps.items() if id_ not in ids
            }


def _values(row: sqlite3.Row) -> dict[str, Any]:
    values = {name: row[name] for name in row.keys() if name != "place"}  # noqa: SIM118
    for name in _JSON & values.keys():
        values[name] = json.loads(values[name]) if values[name] is not None else None
    return values

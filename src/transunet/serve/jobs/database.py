"""Images and jobs in SQLite, so that they survive a restart; one connection, one lock."""

import json
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from transunet.errors import ConfigError

Status = Literal["queued", "running", "done", "failed", "cancelled"]
OVER = ("done", "failed", "cancelled")
"""States that a job does not leave."""

FILE = "jobs.sqlite3"
_VERSION = 2
_SCHEMA = """
CREATE TABLE images (id TEXT PRIMARY KEY, name TEXT NOT NULL, facts TEXT NOT NULL,
  size INTEGER NOT NULL, created REAL NOT NULL, expires REAL NOT NULL);
CREATE TABLE jobs (place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
  image TEXT NOT NULL REFERENCES images (id), bundle TEXT NOT NULL, settings TEXT NOT NULL,
  created REAL NOT NULL, status TEXT NOT NULL, attempts INTEGER NOT NULL, error TEXT,
  statistics TEXT, slices INTEGER, size INTEGER NOT NULL, started REAL, finished REAL,
  expires REAL, warnings TEXT NOT NULL DEFAULT '[]');
CREATE INDEX jobs_by_status ON jobs (status, place);
"""
_FROM_VERSION_1 = "ALTER TABLE jobs ADD COLUMN warnings TEXT NOT NULL DEFAULT '[]';"
_RESERVE = 1 << 19
"""Bytes that the records' files have to spare: on a full disk jobs still end and are deleted."""
_JSON = frozenset({"metadata", "settings", "error", "statistics", "warnings"})
_QUEUED = "SELECT id FROM jobs WHERE status = 'queued' ORDER BY place"


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


Record = TypeVar("Record", ImageRecord, JobRecord)


def new_id() -> str:
    """Return an id that cannot be guessed: 128 random bits."""
    return secrets.token_hex(16)


class JobDatabase:
    """The records of one data folder.

    Raises:
        ConfigError: when the file is no such database, or was written by a later version.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = threading.RLock()
        path = folder / FILE
        try:
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._database.row_factory = sqlite3.Row
            self._database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
            version = int(self._rows("PRAGMA user_version")[0][0])
            if version > _VERSION:
                raise ConfigError(
                    f"{path} was written by another version of transunet (format {version}, "
                    f"expected {_VERSION}). Choose another --data folder."
                )
            if version < _VERSION:
                change = _SCHEMA if version == 0 else _FROM_VERSION_1
                self._database.executescript(f"{change} PRAGMA user_version = {_VERSION};")
            # Make the files larger than they need to be; SQLite keeps the pages and uses them.
            self._database.executescript(
                f"PRAGMA wal_autocheckpoint = {_RESERVE // 8192};"
                f"CREATE TABLE reserve AS SELECT zeroblob({_RESERVE}) AS room;"
                "DROP TABLE reserve; PRAGMA wal_checkpoint(FULL);"
            )
        except sqlite3.Error as error:
            raise ConfigError(
                f"{path} cannot be opened as the server's records ({error}). Choose another --data "
                "folder, or move this one away."
            ) from None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def add_image(self, image: ImageRecord) -> None:
        """Keep a new image."""
        self._insert("images", image)

    def image(self, id_: str) -> ImageRecord | None:
        """Return the image, or None."""
        rows = self._rows("SELECT * FROM images WHERE id = ?", id_)
        return _record(ImageRecord, rows[0]) if rows else None

    def image_ids(self) -> list[str]:
        """Return the id of every image."""
        return [row["id"] for row in self._rows("SELECT id FROM images")]

    def keep_image(self, id_: str, until: float) -> None:
        """Put an image's end off to `until`, if that is later."""
        self._rows("UPDATE images SET expires = max(expires, ?) WHERE id = ?", until, id_)

    def remove_image(self, id_: str) -> list[str] | None:
        """Remove an image and its jobs, and return the jobs' ids; None while one is not over."""
        with self._transaction():
            jobs = self._rows("SELECT id, status FROM jobs WHERE image = ?", id_)
            if any(row["status"] not in OVER for row in jobs):
                return None
            self._rows("DELETE FROM jobs WHERE image = ?", id_)
            self._rows("DELETE FROM images WHERE id = ?", id_)
        return [row["id"] for row in jobs]

    def add_job(self, job: JobRecord, most: int) -> bool:
        """Queue a job; False when `most` are waiting already or its image is gone."""
        with self._transaction():
            if self.waiting() >= most or self.image(job.image) is None:
                return False
            self._insert("jobs", job)
        return True

    def job(self, id_: str) -> JobRecord | None:
        """Return the job, or None."""
        rows = self._rows("SELECT * FROM jobs WHERE id = ?", id_)
        return _record(JobRecord, rows[0]) if rows else None

    def jobs(self) -> list[JobRecord]:
        """Return every job, oldest first."""
        return [_record(JobRecord, row) for row in self._rows("SELECT * FROM jobs ORDER BY place")]

    def waiting(self) -> int:
        """Return how many jobs are queued."""
        return len(self._rows(_QUEUED))

    def position(self, id_: str) -> int | None:
        """Return a queued job's place in the queue, 1 for the next one; None for any other."""
        queued = [row["id"] for row in self._rows(_QUEUED)]
        return queued.index(id_) + 1 if id_ in queued else None

    def begin_next(self, now: float) -> JobRecord | None:
        """Mark the first queued job as running and return it, or None where none waits."""
        begin = "UPDATE jobs SET status = 'running', attempts = attempts + 1, started = ?"
        with self._transaction():
            queued = self._rows(f"{_QUEUED} LIMIT 1")
            if not queued:
                return None
            self._rows(f"{begin} WHERE id = ?", now, queued[0]["id"])
            return self.job(queued[0]["id"])

    def requeue(self, id_: str, *, counts: bool) -> None:
        """Put a job that runs back to its place; its attempt `counts` as a failed one, or not."""
        back = "UPDATE jobs SET status = 'queued', started = NULL, attempts = attempts - ?"
        self._rows(f"{back} WHERE id = ? AND status = 'running'", 0 if counts else 1, id_)

    def finish(self, id_: str, from_: Sequence[str], **values: Any) -> bool:
        """Set `values` of a job if its status is one of `from_`; return whether it was."""
        columns = _columns(values)
        names = ", ".join(f"{name} = ?" for name in columns)
        with self._transaction():
            job = self.job(id_)
            if job is None or job.status not in from_:
                return False
            self._rows(f"UPDATE jobs SET {names} WHERE id = ?", *columns.values(), id_)
        return True

    def remove_job(self, id_: str) -> None:
        """Forget a job."""
        self._rows("DELETE FROM jobs WHERE id = ?", id_)

    def set_size(self, id_: str, size: int) -> None:
        """Note the bytes that a job's files take now."""
        self._rows("UPDATE jobs SET size = ? WHERE id = ?", size, id_)

    def expired(self, now: float) -> tuple[list[str], list[str]]:
        """Return the ids of images and of jobs whose time is over; none that a job still needs."""
        jobs = self._rows("SELECT id FROM jobs WHERE expires < ?", now)
        images = self._rows(
            "SELECT id FROM images WHERE expires < ? AND id NOT IN "
            "(SELECT image FROM jobs WHERE status IN ('queued', 'running'))",
            now,
        )
        return [row["id"] for row in images], [row["id"] for row in jobs]

    def used_bytes(self) -> int:
        """Return the bytes that images and results take."""
        every = self._rows("SELECT size FROM images UNION ALL SELECT size FROM jobs")
        return sum(row["size"] for row in every)

    def _insert(self, table: str, record: ImageRecord | JobRecord) -> None:
        columns = _columns(vars(record))
        marks = ", ".join("?" * len(columns))
        names = ", ".join(columns)
        self._rows(f"INSERT INTO {table} ({names}) VALUES ({marks})", *columns.values())

    def _rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._database.execute(sql, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")


def _columns(values: dict[str, Any]) -> dict[str, Any]:
    columns = {}
    for name, value in values.items():
        text = json.dumps(value) if name in _JSON and value is not None else value
        columns["facts" if name == "metadata" else name] = text
    return columns


def _record(kind: type[Record], row: sqlite3.Row) -> Record:
    values = dict(row)
    values.pop("place", None)  # of a job, which its order in the queue is told by
    if "facts" in values:
        values["metadata"] = values.pop("facts")
    for name in _JSON & values.keys():
        values[name] = json.loads(values[name]) if values[name] is not None else None
    return kind(**values)

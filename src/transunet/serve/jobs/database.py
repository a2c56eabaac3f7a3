"""Images and jobs in SQLite, so that they survive a restart; one connection, one lock."""

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from transunet.errors import ConfigError
from transunet.serve.image_records import ImageRecord, JobRecord

Record = TypeVar("Record", ImageRecord, JobRecord)

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
_JSON = frozenset({"facts", "settings", "error", "statistics", "warnings"})
_WAITING = "SELECT * FROM jobs WHERE status = 'queued' ORDER BY place"


class Store:
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
            self._prepare(path)
            self._reserve()
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

    def images(self) -> list[ImageRecord]:
        """Return every image."""
        return [_record(ImageRecord, row) for row in self._rows("SELECT * FROM images")]

    def keep_image(self, id_: str, until: float) -> None:
        """Put an image's end off to `until`, if that is later."""
        self._rows("UPDATE images SET expires = max(expires, ?) WHERE id = ?", until, id_)

    def remove_image(self, id_: str) -> list[str] | None:
        """Remove an image and its jobs, unless one of them is not over; return the jobs' ids.

        Returns:
            None where a job of it is queued or running.
        """
        with self._transaction():
            jobs = self._rows("SELECT id, status FROM jobs WHERE image = ?", id_)
            if any(row["status"] in ("queued", "running") for row in jobs):
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
        """How many jobs are queued."""
        return int(self._rows("SELECT count(*) FROM jobs WHERE status = 'queued'")[0][0])

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state."""
        rows = self._rows("SELECT status, count(*) FROM jobs GROUP BY status")
        return {row[0]: int(row[1]) for row in rows}

    def position(self, id_: str) -> int | None:
        """Return a queued job's place in the queue, 1 for the next one; None for any other."""
        places = [row["id"] for row in self._rows(_WAITING)]
        return places.index(id_) + 1 if id_ in places else None

    def begin_next(self, now: float) -> JobRecord | None:
        """Mark the first queued job as running and return it, or None where none waits."""
        with self._transaction():
            rows = self._rows(f"{_WAITING} LIMIT 1")
            if not rows:
                return None
            id_ = rows[0]["id"]
            self._rows(
                "UPDATE jobs SET status = 'running', attempts = attempts + 1, started = ? "
                "WHERE id = ?",
                now,
                id_,
            )
            return self.job(id_)

    def requeue(self, id_: str, *, counts: bool) -> None:
        """Put a running job back to its place in the queue.

        Args:
            id_: the job's.
            counts: whether this attempt counts as a failed one.
        """
        change = "" if counts else ", attempts = attempts - 1"
        self._rows(
            f"UPDATE jobs SET status = 'queued', started = NULL{change} "
            "WHERE id = ? AND status = 'running'",
            id_,
        )

    def finish(self, id_: str, from_: Sequence[str], **values: Any) -> bool:
        """Set `values` of a job if its status is one of `from_`; return whether it was."""
        with self._transaction():
            job = self.job(id_)
            if job is None or job.status not in from_:
                return False
            names = ", ".join(f"{name} = ?" for name in values)
            self._rows(f"UPDATE jobs SET {names} WHERE id = ?", *_sql(values).values(), id_)
        return True

    def remove_job(self, id_: str) -> None:
        """Forget a job."""
        self._rows("DELETE FROM jobs WHERE id = ?", id_)

    def grown(self, id_: str, size: int) -> None:
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
        """Bytes that images and results take."""
        total = "SELECT coalesce(sum(size), 0) FROM"
        return sum(int(self._rows(f"{total} {table}")[0][0]) for table in ("images", "jobs"))

    def _prepare(self, path: Path) -> None:
        version = int(self._rows("PRAGMA user_version")[0][0])
        if version == 0:
            self._database.executescript(f"{_SCHEMA} PRAGMA user_version = {_VERSION};")
        elif version == 1:
            self._database.executescript(f"{_FROM_VERSION_1} PRAGMA user_version = {_VERSION};")
        elif version != _VERSION:
            raise ConfigError(
                f"{path} was written by another version of transunet (format {version}, expected "
                f"{_VERSION}). Choose another --data folder."
            )

    def _reserve(self) -> None:
        """Make the files larger than they need to be; SQLite keeps the pages and uses them."""
        self._database.executescript(
            f"PRAGMA wal_autocheckpoint = {_RESERVE // 8192};"
            f"CREATE TABLE reserve AS SELECT zeroblob({_RESERVE}) AS room;"
            "DROP TABLE reserve; PRAGMA wal_checkpoint(FULL);"
        )

    def _insert(self, table: str, record: ImageRecord | JobRecord) -> None:
        values = _sql({one.name: getattr(record, one.name) for one in fields(record)})
        marks = ", ".join("?" * len(values))
        self._rows(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", *values.values())

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


def _sql(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: json.dumps(value) if name in _JSON and value is not None else value
        for name, value in values.items()
    }


def _record(kind: type[Record], row: sqlite3.Row) -> Record:
    values = {one.name: row[one.name] for one in fields(kind)}
    for name in _JSON & values.keys():
        values[name] = json.loads(values[name]) if values[name] is not None else None
    return kind(**values)

"""One data folder being served: records, files, queue and processes, begun and ended together."""

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from transunet.errors import ConfigError
from transunet.files import writable_folder
from transunet.optional import own_version
from transunet.serve.api.error_responses import ApiError
from transunet.serve.api.prometheus import Metrics
from transunet.serve.bundles import Served, read_bundles
from transunet.serve.image_records import ImageRecord, JobRecord, new_id
from transunet.serve.jobs.database import Store
from transunet.serve.jobs.queue import JobQueue
from transunet.serve.jobs.worker_client import Hand
from transunet.serve.server_settings import ServeSettings
from transunet.serve.uploads.quota import Space, remove
from transunet.serve.uploads.sandbox import Desk

_SWEEP_SECONDS = 30.0
_STRAY_SECONDS = 600.0
_STOP_SECONDS = 0.5  # between attempts to stop a worker that is being started
_READERS = min(2, os.cpu_count() or 1)


class Service:
    """Everything behind the API.

    Args:
        sources: bundles: folders or hub ids.
        settings: how it runs.
        hand: the worker, where it is another than the usual one.

    Raises:
        ConfigError, DataError: for bundles that cannot be read, or a data folder that cannot be
            used or is in use.
    """

    def __init__(
        self, sources: Sequence[str], settings: ServeSettings, hand: Hand | None = None
    ) -> None:
        self.settings, self.limits = settings, settings.limits
        self.bundles: Mapping[str, Served] = read_bundles(sources)
        self.data = writable_folder(settings.data)
        self.data.chmod(0o700)  # patients' images
        self._lock = _locked(self.data)
        for folder in ("images", "jobs", "incoming", "scratch"):
            if folder in ("incoming", "scratch"):
                remove(self.data / folder)
            (self.data / folder).mkdir(exist_ok=True)
        self.store = Store(self.data)
        self._drop_strays(0)
        self.metrics = Metrics()
        self.space = Space(self.data, self.limits.quota_bytes, self.store.used_bytes)
        self.desk = Desk(_READERS, self.data / "scratch")
        self.hand = hand or Hand(self.bundles, settings.predictor)
        self.queue = JobQueue(
            self.store, self.hand, self.job_folder, self.image_folder, self.limits, self.metrics
        )
        self.version = own_version()
        self.stopping = False
        self.failure: Exception | None = None
        """Why the bundles could not be loaded."""

    @asynccontextmanager
    async def running(
        self, note: Callable[[str], None], loaded: Callable[[], None]
    ) -> AsyncIterator[None]:
        """Load the bundles beside, then work on jobs; at the end, put what runs into the queue.

        Args:
            note: called with how far the loading is.
            loaded: called when it has ended, well or with a `failure`.
        """
        self.desk.open()
        loading = asyncio.create_task(self._load(note, loaded))
        sweeper = asyncio.create_task(self._sweep())
        try:
            yield
        finally:
            self.stop_waiting()
            sweeper.cancel()
            self.desk.close()
            while not loading.done():  # the worker may be about to start
                self.hand.stop()
                await asyncio.wait({loading}, timeout=_STOP_SECONDS)
            await asyncio.to_thread(self.queue.stop)
            self.close()

    async def _load(self, note: Callable[[str], None], loaded: Callable[[], None]) -> None:
        try:
            if not self.hand.ready:
                await asyncio.to_thread(self.hand.start, note)
        except Exception as error:  # whatever it is, it must not leave a server that never begins
            if not self.stopping:
                self.failure = error
                loaded()
            return
        self.queue.start()
        loaded()

    def close(self) -> None:
        """Give the data folder back."""
        self.hand.stop()
        self.store.close()
        self._lock.release()

    def stop_waiting(self) -> None:
        """End the answers that would go on: the server is about to stop."""
        self.stopping = True
        self.queue.bell.ring()

    def image_folder(self, id_: str) -> Path:
        """Return the folder of an image's files."""
        return self.data / "images" / id_

    def job_folder(self, id_: str) -> Path:
        """Return the folder of a job's files."""
        return self.data / "jobs" / id_

    def scratch_file(self, suffix: str) -> Path:
        """Return a path for a file that somebody is about to write and remove."""
        return self.data / "scratch" / f"{new_id()}{suffix}"

    def image(self, id_: str) -> ImageRecord:
        """Return an image.

        Raises:
            ApiError: when there is none.
        """
        found = self.store.image(id_)
        if found is None:
            raise self._gone("image", "Upload it again.")
        return found

    def job(self, id_: str) -> JobRecord:
        """Return a job.

        Raises:
            ApiError: when there is none.
        """
        found = self.store.job(id_)
        if found is None:
            raise self._gone("job", "Segment the image again.")
        return found

    def bundle(self, id_: str) -> Served:
        """Return a bundle that is served.

        Raises:
            ApiError: when it is not.
        """
        if id_ not in self.bundles:
            known = ", ".join(self.bundles)
            raise ApiError("not_found", f"No bundle {id_!r:.100} is served; there are: {known}.")
        return self.bundles[id_]

    def remove_image(self, id_: str) -> None:
        """Remove an image, its jobs and all their files.

        Raises:
            ApiError: when there is none, or a job of it is waiting or running.
        """
        self.image(id_)
        jobs = self.store.remove_image(id_)
        if jobs is None:
            raise ApiError(
                "busy", "A job of this image is waiting or running.", "Cancel the job before."
            )
        remove(self.image_folder(id_))
        for job in jobs:
            remove(self.job_folder(job))

    def expire(self) -> None:
        """Remove what was kept long enough."""
        images, jobs = self.store.expired(time.time())
        for id_ in jobs:
            self.queue.forget(id_)
        for id_ in images:
            for job in self.store.remove_image(id_) or ():
                remove(self.job_folder(job))
            remove(self.image_folder(id_))
        self._drop_strays(_STRAY_SECONDS)

    def _gone(self, what: str, remedy: str) -> ApiError:
        message = (
            f"There is no such {what}: it was deleted, or kept for its {self.limits.keep_hours:g} "
            "hours."
        )
        return ApiError("not_found", message, remedy)

    async def _sweep(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.expire)
            except sqlite3.Error as error:
                logging.getLogger(__name__).error("Nothing could be removed: %s", error)
            await asyncio.sleep(_SWEEP_SECONDS)

    def _drop_strays(self, age: float) -> None:
        """Remove files without a record, some seconds old: of what was cut off, or deleted in use.

        Args:
            age: seconds; an image is there a moment before its record is.
        """
        before = time.time() - age
        known = {image.id for image in self.store.images()}
        known |= {job.id for job in self.store.jobs()}
        for kind in ("images", "jobs"):
            for folder in (self.data / kind).iterdir():
                if folder.name not in known and folder.stat().st_mtime <= before:
                    remove(folder)


def _locked(data: Path) -> FileLock:
    lock = FileLock(data / "lock", thread_local=False)  # released in whatever thread it ends
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"Another server is using {data}. Stop it, or choose another folder with --data."
        ) from None
    return lock

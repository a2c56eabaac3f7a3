"""One data folder being served: records, files, queue and processes, begun and ended together."""

import asyncio
import json
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from filelock import FileLock, Timeout

from transunet.batch.worklist import read_worklist
from transunet.errors import ConfigError
from transunet.files import writable_folder, write_json
from transunet.optional import own_version
from transunet.serve.api_errors import ApiError
from transunet.serve.bundles import ServedBundle, read_bundles
from transunet.serve.child_process import ChildProcess
from transunet.serve.jobs.database import (
    OVER,
    ImageRecord,
    JobDatabase,
    JobRecord,
    LabelMapRecord,
)
from transunet.serve.jobs.dataset_cases import check_dataset
from transunet.serve.jobs.queue import JobQueue
from transunet.serve.prometheus import ServerMetrics
from transunet.serve.server_settings import ServeSettings
from transunet.serve.uploads.quota import Quota, remove, size_of
from transunet.serve.uploads.sandbox import ParserPool

_SWEEP_SECONDS = 30.0
_STRAY_SECONDS = 600.0  # an image is there a moment before its record is
_MARKS = "added.json"
"""Which images of worklists were added to the data set."""
_STOP_SECONDS = 0.5  # between attempts to stop processes that are being started
_KEPT = ("images", "jobs", "label_maps")
"""Folders with one folder for each record."""
_PARSERS = min(2, os.cpu_count() or 1)


class Service:
    """Everything behind the API.

    Args:
        sources: bundles: folders or hub ids.
        settings: how it runs.
        workers: what computes, where it is other than the usual processes.

    Raises:
        ConfigError, DataError: for bundles that cannot be read, or a data folder that cannot be
            used or is in use.
    """

    def __init__(
        self, sources: Sequence[str], settings: ServeSettings, *workers: ChildProcess
    ) -> None:
        self.settings, self.limits = settings, settings.limits
        self.bundles: Mapping[str, ServedBundle] = read_bundles(sources)
        if settings.dataset is not None:
            check_dataset(settings.dataset, self.bundles.values())
        self.worklist = read_worklist(settings.worklist) if settings.worklist else None
        self.data = writable_folder(settings.data)
        self.data.chmod(0o700)  # patients' images
        # It is released in whatever thread it ends.
        self._lock = FileLock(self.data / "lock", thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(
                f"Another server is using {self.data}. Stop it, or choose another folder with "
                "--data."
            ) from None
        for name in ("incoming", "scratch"):
            remove(self.data / name)
        for name in (*_KEPT, "incoming", "scratch"):
            (self.data / name).mkdir(exist_ok=True)
        self.database = JobDatabase(self.data)
        self._remove_strays(0)
        self.metrics = ServerMetrics()
        self.quota = Quota(self.data, self.limits.quota_bytes, self.database.used_bytes)
        self.parsers = ParserPool(_PARSERS, self.data / "scratch")
        target = "transunet.serve.jobs.worker:run_worker"
        given = self.bundles, dict(settings.predictor), settings.workers
        self.workers = workers or [ChildProcess(target, *given) for _ in range(settings.workers)]
        self.queue = JobQueue(self.database, self.workers, self.limits, self.metrics)
        self.version = own_version()
        self.stopping = False
        """Whether answers that would go on are to end."""
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

        async def load_workers() -> None:
            # One after the other: what the first converts for its engine, the others find.
            for number, worker in enumerate(self.workers, 1):
                if len(self.workers) > 1:
                    note(f"Worker {number} of {len(self.workers)}:")
                await asyncio.to_thread(worker.start, note)

        async def load() -> None:
            try:
                if not self.worker.ready:
                    await asyncio.gather(load_workers(), self.parsers.warm_up())
                if not self.stopping:
                    self.queue.start()
            except Exception as error:  # it must not leave a server that never begins
                self.failure = None if self.stopping else error
            if not self.stopping:
                loaded()

        async def sweep() -> None:
            while True:
                try:
                    await asyncio.to_thread(self.expire)
                except sqlite3.Error as error:
                    logging.getLogger(__name__).error("Nothing could be removed: %s", error)
                await asyncio.sleep(_SWEEP_SECONDS)

        loading, sweeper = asyncio.create_task(load()), asyncio.create_task(sweep())
        try:
            yield
        finally:
            self.stopping = True
            sweeper.cancel()
            self.parsers.close()
            await asyncio.to_thread(self.queue.stop)
            while not loading.done():  # a process may be about to start
                self._stop_workers()
                self.parsers.close()
                await asyncio.wait({loading}, timeout=_STOP_SECONDS)
            self.close()

    def close(self) -> None:
        """Give the data folder back."""
        self._stop_workers()
        self.database.close()
        self._lock.release()

    @property
    def worker(self) -> ChildProcess:
        """The worker that a question should go to which does not wait in the queue."""
        busy = self.queue.running.values()
        return min(self.workers, key=lambda worker: (not worker.ready, worker in busy))

    def _stop_workers(self) -> None:
        for worker in self.workers:
            worker.stop()

    def image(self, id_: str) -> ImageRecord:
        """Return an image, or raise the `ApiError` that there is none."""
        if id_ not in (images := self.database.images):
            raise self._gone("image", "Upload it again.")
        return images[id_]

    def job(self, id_: str) -> JobRecord:
        """Return a job, or raise the `ApiError` that there is none."""
        if id_ not in (jobs := self.database.jobs):
            raise self._gone("job", "Segment the image again.")
        return jobs[id_]

    def label_map(self, id_: str) -> LabelMapRecord:
        """Return a label map that no job made, or raise the `ApiError` that there is none."""
        if id_ not in (label_maps := self.database.label_maps):
            raise self._gone("label map", "List those of the image.")
        return label_maps[id_]

    def is_corrected(self, image: str) -> bool:
        """Whether somebody corrected a label map of an image, which is then kept until deleted."""
        maps = self.database.label_maps.values()
        return any(each.image == image and each.kind == "correction" for each in maps)

    def _gone(self, what: str, remedy: str) -> ApiError:
        hours = f"{self.limits.keep_hours:g} hours"
        message = f"There is no such {what}: it was deleted, or kept for its {hours}."
        return ApiError("not_found", message, remedy)

    @property
    def added_cases(self) -> dict[str, str]:
        """Key of an image of a worklist -> the case of the data set that it became."""
        marks: dict[str, dict[str, str]] = {}
        with suppress(OSError, ValueError):
            marks = json.loads((self.data / _MARKS).read_text(encoding="utf-8"))
        return marks.get(str(self.settings.dataset), {})

    def mark_added(self, key: str, case: str) -> None:
        """Remember that an image of the worklist is a case of the data set."""
        with self.database.lock, suppress(ConfigError):  # it can be found by its voxels again
            marks = {str(self.settings.dataset): {**self.added_cases, key: case}}
            write_json(marks, self.data / _MARKS)

    def bundle(self, id_: str) -> ServedBundle:
        """Return a bundle, or raise the `ApiError` that it is not served."""
        if id_ not in self.bundles:
            known = ", ".join(self.bundles)
            raise ApiError("not_found", f"No model {id_!r:.100} is served; there are: {known}.")
        return self.bundles[id_]

    def remove_image(self, id_: str) -> bool:
        """Remove an image, its jobs, label maps and all files; False where a job waits or runs."""
        with self.database.lock:
            jobs = [job for job in self.database.jobs.values() if job.image == id_]
            if any(job.status not in OVER for job in jobs):
                return False
            maps = [each.id for each in self.database.label_maps.values() if each.image == id_]
            self.database.remove(id_, *(job.id for job in jobs), *maps)
        remove(self.database.image_folder(id_))
        for label_map in maps:
            remove(self.database.label_map_folder(label_map))
        for job in jobs:
            remove(self.database.job_folder(job.id))
        return True

    def measure_label_map(self, id_: str) -> None:
        """Note the bytes that a label map's files take now, if it is still there."""
        size = size_of(self.database.label_map_folder(id_))
        with self.database.lock:
            if record := self.database.label_maps.get(id_):
                self.database.save(replace(record, size=size))

    def remove_label_map(self, id_: str) -> None:
        """Remove a label map that no job made; its image is then kept as from a last result."""
        with self.database.lock:
            image = self.database.images[self.label_map(id_).image]
            until = time.time() + self.limits.keep_hours * 3600
            self.database.save(replace(image, expires=max(image.expires, until)))
            self.database.remove(id_)
        remove(self.database.label_map_folder(id_))

    def expire(self) -> None:
        """Remove what was kept long enough, but for corrected images and what was corrected."""
        now = time.time()
        corrected = {each.parent for each in self.database.label_maps.values()}
        for job in self.database.jobs.values():
            if job.expires is not None and job.expires < now and job.id not in corrected:
                self.queue.forget(job.id)
        for image in self.database.images.values():
            if image.expires < now and not self.is_corrected(image.id):
                self.remove_image(image.id)  # unless a job still needs it
        self._remove_strays(_STRAY_SECONDS)

    def _remove_strays(self, age: float) -> None:
        """Remove files of `age` seconds without a record: of what was cut off or deleted in use."""
        before = time.time() - age
        known = {*self.database.images, *self.database.jobs, *self.database.label_maps}
        for kind in _KEPT:
            for folder in (self.data / kind).iterdir():
                if folder.name not in known and folder.stat().st_mtime <= before:
                    remove(folder)

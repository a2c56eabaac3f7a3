"""The queue: one job at a time goes to the worker; a worker that dies takes no job with it."""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transunet.errors import TransUNetError
from transunet.serve.api.error_responses import ApiError, told
from transunet.serve.api.prometheus import Metrics
from transunet.serve.image_records import ImageRecord, JobRecord, new_id
from transunet.serve.jobs.database import Store
from transunet.serve.jobs.messages import Cancelled, Prediction
from transunet.serve.jobs.notifier import Bell
from transunet.serve.jobs.worker_client import Hand, WorkerDiedError
from transunet.serve.server_settings import Limits
from transunet.serve.uploads.quota import remove, size_of

ATTEMPTS = 2
"""How often a job is begun before it is given up: it may be what kills the worker."""
_AGAIN_SECONDS = 1.0  # between attempts to write to a full disk, or to start a worker
_STOP_SECONDS = 0.5  # between attempts to stop the worker


class JobQueue:
    """Runs the jobs of a store, in the order they came.

    Args:
        store: where they are kept.
        hand: the worker.
        folder: returns the folder of a job's files, by its id.
        image_folder: as `folder`, of an image.
        limits: how many may wait, and how long results are kept.
        metrics: counts.
    """

    def __init__(
        self,
        store: Store,
        hand: Hand,
        folder: Callable[[str], Path],
        image_folder: Callable[[str], Path],
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self._store, self._hand, self._limits, self._metrics = store, hand, limits, metrics
        self._folder, self._image_folder = folder, image_folder
        self._work = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self.running: str | None = None
        """The job that the worker is at."""
        self.progress: dict[str, tuple[int, int]] = {}
        """Slices done and in all, of jobs that have begun since the start."""
        self.bell = Bell()
        """Rings when a job changes."""

    def start(self) -> None:
        """Take up what an earlier server left, and go on."""
        for job in self._store.jobs():
            if job.status == "running":
                self._again_or_failed(job)
        self._work.set()
        self._thread.start()

    def stop(self) -> None:
        """End; the job that is running will be begun anew by the next server."""
        self._stopping.set()
        self._work.set()
        self._hand.stop()
        while self._thread.is_alive():  # it may just have started the worker, or asked it, again
            self._thread.join(_STOP_SECONDS)
            self._hand.stop()

    def submit(
        self, image: ImageRecord, bundle: str, settings: dict[str, Any], warnings: list[str]
    ) -> JobRecord:
        """Queue a job.

        Raises:
            ApiError: when the queue is full.
        """
        job = JobRecord(new_id(), image.id, bundle, settings, time.time(), warnings=warnings)
        if not self._store.add_job(job, self._limits.queue):
            if self._store.image(image.id) is None:
                raise ApiError("not_found", "The image was deleted just now.", "Upload it again.")
            raise ApiError(
                "queue_full",
                f"{self._limits.queue} jobs are waiting, which is all that the server takes.",
                "Try again in a minute.",
                {"Retry-After": "60"},
            )
        self._metrics.count("transunet_jobs_submitted_total")
        self._changed()
        return job

    def cancel(self, id_: str) -> bool:
        """Stop a job or take it out of the queue; False where it is over already."""
        until = time.time() + self._limits.keep_hours * 3600
        cancelled = self._store.finish(
            id_, ("queued", "running"), status="cancelled", finished=time.time(), expires=until
        )
        if cancelled:
            self._metrics.count("transunet_jobs_total", status="cancelled")
            self._hand.cancel(id_)
            self._changed()
        return cancelled

    def forget(self, id_: str) -> None:
        """Remove a job and its files; one that is running is stopped."""
        self.cancel(id_)
        self._store.remove_job(id_)
        self.progress.pop(id_, None)
        if self.running != id_:  # else its files go when the worker has let go of them
            remove(self._folder(id_))
        self._changed()

    def _changed(self) -> None:
        self._work.set()
        self.bell.ring()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._ensure_worker()
                job = self._store.begin_next(time.time())
            except (sqlite3.Error, TransUNetError) as error:
                self._wait_after(error)
                continue
            if job is None:
                self._work.wait()
                self._work.clear()
            else:
                self._carry_out(job)

    def _ensure_worker(self) -> None:
        if not self._hand.ready and not self._stopping.is_set():
            self._metrics.count("transunet_worker_restarts_total")
            self._hand.start()

    def _carry_out(self, job: JobRecord) -> None:
        self.running = job.id
        self._changed_by_worker(job.id)
        try:
            self._settle(job, self._outcome(job))
        finally:
            self.running = None
            if self._gone(job.id):
                remove(self._folder(job.id))

    def _outcome(self, job: JobRecord) -> dict[str, Any] | None:
        """How a job ended, as columns of its record; None where it is to be begun again."""
        try:
            found = self._answer(job)
            return {"status": "done", **found, "size": size_of(self._folder(job.id))}
        except Cancelled:
            return {"status": "cancelled"}
        except WorkerDiedError:
            return None
        except TransUNetError as error:
            fault = told(error, self._image_folder(job.image), "unusable")
        except Exception:  # a mistake of ours must not end the thread that all jobs wait for
            logging.getLogger(__name__).exception("A job failed")
            fault = ApiError("internal", "The server made a mistake; its log says more.")
        return {"status": "failed", "error": fault.body["error"]}

    def _answer(self, job: JobRecord) -> dict[str, Any]:
        remove(self._folder(job.id))  # of an attempt that was cut off
        image = self._store.image(job.image)
        if image is None:
            raise Cancelled  # and deleted, before it was looked at
        question = Prediction(
            job.id,
            job.bundle,
            job.image,
            self._image_folder(job.image),
            image.facts,
            self._folder(job.id),
            job.settings,
        )
        answer = self._hand.ask(question, lambda *slices: self._heard(job.id, *slices))
        if self._gone(job.id):  # cancelled before the worker knew of it
            self._hand.cancel(job.id)
        found: dict[str, Any] = answer.result()
        return found

    def _settle(self, job: JobRecord, outcome: dict[str, Any] | None) -> None:
        while True:  # until the disk has room for what became of it
            try:
                if outcome is not None:
                    self._finish(job, outcome)
                elif self._stopping.is_set():
                    self._store.requeue(job.id, counts=False)
                else:
                    self._again_or_failed(job)
                return
            except sqlite3.Error as error:
                if self._stopping.is_set():
                    return  # the next server finds it running, and begins it again
                self._wait_after(error)

    def _finish(self, job: JobRecord, outcome: dict[str, Any]) -> None:
        now = time.time()
        until = now + self._limits.keep_hours * 3600
        if self._store.finish(job.id, ("running",), **outcome, finished=now, expires=until):
            self._store.keep_image(job.image, until)
            self._metrics.job_ended(outcome, now - (job.started or now))
            self._changed_by_worker(job.id)

    def _again_or_failed(self, job: JobRecord) -> None:
        """Put a job back whose attempt was cut off, unless it was the last one."""
        if job.attempts < ATTEMPTS:
            self._store.requeue(job.id, counts=True)
        else:
            error = ApiError(
                "worker_died",
                f"The process that segmented it was killed {ATTEMPTS} times, as a rule because the "
                "memory ran out.",
                "Segment a smaller image, or give the server more memory.",
            )
            self._finish(job, {"status": "failed", "error": error.body["error"]})
        self._changed_by_worker(job.id)

    def _heard(self, id_: str, done: int, total: int) -> None:
        self._metrics.count("transunet_slices_total", done - self.progress.get(id_, (0, 0))[0])
        self.progress[id_] = done, total
        self.bell.ring()

    def _changed_by_worker(self, id_: str) -> None:
        self.progress.pop(id_, None)
        self.bell.ring()

    def _gone(self, id_: str) -> bool:
        try:
            job = self._store.job(id_)
        except sqlite3.Error:
            return False
        return job is None or job.status == "cancelled"

    def _wait_after(self, error: Exception) -> None:
        logging.getLogger(__name__).error("The queue waits: %s", error)
        self._stopping.wait(_AGAIN_SECONDS)

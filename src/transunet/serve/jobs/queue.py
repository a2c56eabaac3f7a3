"""The queue: each worker is at one job at a time; a worker that dies takes no job with it."""

import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transunet.errors import TransUNetError
from transunet.serve.api_errors import ApiError, api_error
from transunet.serve.child_process import Cancelled, ChildProcess, ProcessDiedError
from transunet.serve.jobs.database import OVER, JobDatabase, JobRecord
from transunet.serve.jobs.messages import PredictionTask
from transunet.serve.prometheus import ServerMetrics
from transunet.serve.server_settings import Limits
from transunet.serve.uploads.quota import remove, size_of

ATTEMPTS = 2
"""How often a job is begun before it is given up: it may be what kills the worker."""
_KILLED = ApiError(
    "worker_died",
    f"The process that segmented it was killed {ATTEMPTS} times, as a rule because the memory ran "
    "out.",
    "Segment a smaller image, or give the server more memory.",
)
_AGAIN_SECONDS = 1.0  # between attempts to write to a full disk, or to start a worker
_STOP_SECONDS = 0.5  # between attempts to stop the workers
_LOOK_SECONDS = 1.0  # between looks whether a worker that has nothing to do still lives


class JobQueue:
    """Runs the jobs of a database, in the order they came, in a thread for each worker.

    Args:
        database: where they are kept.
        workers: what computes; whichever is free takes the next job.
        limits: how many may wait, and how long results are kept.
        metrics: counts.
    """

    def __init__(
        self,
        database: JobDatabase,
        workers: Sequence[ChildProcess],
        limits: Limits,
        metrics: ServerMetrics,
    ) -> None:
        self._database, self._workers = database, workers
        self._limits, self._metrics = limits, metrics
        self._changed = threading.Condition(database.lock)
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(worker,), name="jobs", daemon=True)
            for worker in workers
        ]
        self.running: dict[str, ChildProcess] = {}
        """The worker that is at a job, by the job's id."""
        self.progress: dict[str, tuple[int, int]] = {}
        """Slices done and in all, of jobs that have begun since the start."""

    def start(self) -> None:
        """Take up what an earlier server left, and go on."""
        for job in self._database.jobs.values():
            if job.status == "running":
                self._settle(job, None)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; the jobs that are running will be begun anew by the next server."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        for worker, thread in zip(self._workers, self._threads, strict=True):
            worker.stop()
            while thread.is_alive():  # it may just have started the worker, or asked it, again
                thread.join(_STOP_SECONDS)
                worker.stop()

    def submit(self, *jobs: JobRecord) -> None:
        """Queue jobs: all of them, or none.

        Raises:
            ApiError: when the queue has no room for them, or an image was deleted.
        """
        with self._changed:
            if any(job.image not in self._database.images for job in jobs):
                raise ApiError("not_found", "The image was deleted just now.", "Upload it again.")
            self.check_room(len(jobs))
            self._database.save(*jobs)
            self._changed.notify_all()
        for job in jobs:
            self._metrics.count("transunet_jobs_submitted_total", bundle=job.bundle)

    def check_room(self, more: int = 1) -> None:
        """Make sure that `more` jobs may wait.

        Raises:
            ApiError: when they may not.
        """
        waiting, most = len(self._database.queued()), self._limits.queue
        if more > most:
            message = f"{more} jobs were sent together; at most {most} may wait."
            remedy = "Send fewer at a time, or start the server with a larger --queue."
            raise ApiError("queue_full", message, remedy)
        if waiting + more > most:
            raise ApiError(
                "queue_full",
                f"{waiting} jobs are waiting, and {most} are all that the server takes.",
                "Try again in a minute.",
                {"Retry-After": "60"},
            )

    def cancel(self, id_: str) -> bool:
        """Stop a job or take it out of the queue; False where it is over already."""
        with self._database.lock:
            job = self._database.jobs.get(id_)
            if job is None or job.status in OVER:
                return False
            self._database.save(replace(job, status="cancelled", **self._ends_now()))
        self._metrics.count("transunet_jobs_total", bundle=job.bundle, status="cancelled")
        if worker := self.running.get(id_):
            worker.cancel(id_)
        return True

    def forget(self, id_: str) -> None:
        """Remove a job and its files; one that is running is stopped."""
        self.cancel(id_)
        self._database.remove(id_)
        self.progress.pop(id_, None)
        if id_ not in self.running:  # else its files go when the worker has let go of them
            remove(self._database.job_folder(id_))

    def measure(self, id_: str) -> None:
        """Note the bytes that a job's files take now, if it is still there."""
        size = size_of(self._database.job_folder(id_))
        with self._database.lock:
            if job := self._database.jobs.get(id_):
                self._database.save(replace(job, size=size))

    def _run(self, worker: ChildProcess) -> None:
        while not self._stopping.is_set():
            try:
                if not worker.ready:
                    self._metrics.count("transunet_worker_restarts_total")
                    worker.start()
                job = self._take(worker)
            except (sqlite3.Error, TransUNetError) as error:
                self._wait_after(error)
                continue
            if job is not None:
                self._settle(job, self._carry_out(job, worker))
                del self.running[job.id]

    def _take(self, worker: ChildProcess) -> JobRecord | None:
        """Wait a moment for a job, and record that `worker` is at it; None where there is none."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopping.is_set() or self._database.queued(), _LOOK_SECONDS
            )
            queued = self._database.queued()
            if not queued or self._stopping.is_set() or not worker.ready:
                return None
            job, now = self._database.jobs[queued[0]], time.time()
            job = replace(job, status="running", attempts=job.attempts + 1, started=now)
            self._database.save(job)
            self.running[job.id] = worker
        self._metrics.observe("transunet_job_wait_seconds", now - job.created, bundle=job.bundle)
        return job

    def _carry_out(self, job: JobRecord, worker: ChildProcess) -> dict[str, Any] | None:
        """Return how a job ended, as columns of its record; None where it is to be begun again."""
        folder = self._database.job_folder(job.id)
        image_folder = self._database.image_folder(job.image)

        def on_progress(done: int, total: int) -> None:
            before, _ = self.progress.get(job.id, (0, 0))
            self._metrics.count("transunet_slices_total", done - before, bundle=job.bundle)
            self.progress[job.id] = done, total

        try:
            remove(folder)  # of an attempt that was cut off
            image = self._database.images.get(job.image)
            if image is None:
                return {"status": "cancelled"}  # and deleted, before it was looked at
            task = PredictionTask(
                job.bundle, image, image_folder, folder, job.settings, job.warnings
            )
            answer = worker.ask(job.id, task, on_progress)
            now = self._database.jobs.get(job.id)
            if now is None or now.status == "cancelled":  # before the worker knew of it
                worker.cancel(job.id)
            return {"status": "done", **answer.result(), "size": size_of(folder)}
        except Cancelled:
            return {"status": "cancelled"}
        except ProcessDiedError:
            return None
        except Exception as error:  # even a mistake of ours must not end the thread of all jobs
            fault = api_error(error, image_folder, "unusable")
            return {"status": "failed", "error": fault.body["error"]}

    def _settle(self, job: JobRecord, outcome: dict[str, Any] | None) -> None:
        """Record what became of a job, or put it back whose attempt was cut off (None).

        Each attempt counts but one that ends with this server, and the last is the end of the job.
        """
        ends = self._ends_now()
        while True:  # until the disk has room for it
            stopping = self._stopping.is_set()
            try:
                with self._database.lock:
                    now = self._database.jobs.get(job.id)
                    if now is None or now.status != "running":  # it was deleted, or cancelled
                        remove(self._database.job_folder(job.id))
                    elif outcome is None and (stopping or job.attempts < ATTEMPTS):
                        attempts = job.attempts - stopping
                        self._database.save(
                            replace(now, status="queued", started=None, attempts=attempts)
                        )
                        self._changed.notify()
                    else:
                        outcome = outcome or {"status": "failed", "error": _KILLED.body["error"]}
                        image = self._database.images[job.image]
                        until = max(image.expires, ends["expires"])
                        self._database.save(
                            replace(now, **outcome, **ends), replace(image, expires=until)
                        )
                        labels = {"bundle": job.bundle}
                        status = outcome["status"]
                        self._metrics.count("transunet_jobs_total", 1, **labels, status=status)
                        if outcome["status"] == "done":
                            seconds = ends["finished"] - (job.started or ends["finished"])
                            self._metrics.observe("transunet_job_seconds", seconds, **labels)
                break
            except sqlite3.Error as error:
                if stopping:
                    break  # the next server finds it running, and begins it again
                self._wait_after(error)
        self.progress.pop(job.id, None)

    def _ends_now(self) -> dict[str, Any]:
        now = time.time()
        return {"finished": now, "expires": now + self._limits.keep_hours * 3600}

    def _wait_after(self, error: Exception) -> None:
        logging.getLogger(__name__).error("The queue waits: %s", error)
        self._stopping.wait(_AGAIN_SECONDS)

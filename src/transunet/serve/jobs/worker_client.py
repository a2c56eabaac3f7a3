"""The server's end of the worker process: questions go in, answers come out of futures."""

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Any

from transunet.errors import TransUNetError
from transunet.serve.api.error_responses import ApiError
from transunet.serve.bundles import Served
from transunet.serve.jobs.child_processes import CONTEXT
from transunet.serve.jobs.messages import Cancelled, Look, Prediction, start_worker

Told = Callable[[int, int], None]
"""Called with the slices done and in all."""


_log = logging.getLogger(__name__)


class WorkerDiedError(Exception):
    """The process ended while it worked."""


class Hand:
    """One worker process: started, asked, and started again by whoever holds it.

    Args:
        bundles: what it loads.
        settings: of every bundle's predictor.
    """

    def __init__(self, bundles: Mapping[str, Served], settings: Mapping[str, Any]) -> None:
        self._given = dict(bundles), dict(settings)
        self._lock = threading.Lock()
        self._open: dict[str, tuple[Future[Any], Told | None]] = {}
        self._process: Any = None
        self._pipe: Connection | None = None
        self.ready = False
        """Whether the models are loaded."""
        self.loading = ""
        """Which of them is being loaded, such as "1 of 2"; no name, for it is told to anybody."""

    def start(self, note: Callable[[str], None] = _log.info) -> None:
        """Start the process and wait until it has loaded every bundle.

        Args:
            note: called with how far it is.

        Raises:
            TransUNetError: when a bundle cannot be loaded.
        """
        pipe, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(
            target=start_worker, args=(theirs, *self._given), name="transunet-worker", daemon=True
        )
        process.start()
        theirs.close()
        self._process, self._pipe = process, pipe
        try:
            kind, text, error = pipe.recv()
            while kind in ("loading", "note"):
                if kind == "note":
                    note(text)
                else:
                    self.loading = text
                kind, text, error = pipe.recv()
        except EOFError:
            kind, error = "broken", _killed_at_start()
        if kind == "broken":
            process.join()
            raise error
        self.ready = True
        threading.Thread(target=self._listen, args=(pipe,), daemon=True).start()

    def ask(self, question: Prediction | Look, told: Told | None = None) -> Future[Any]:
        """Send a question; its answer comes as the future's result.

        The future raises `WorkerDiedError`, `Cancelled`, or what the worker found wrong.
        """
        future: Future[Any] = Future()
        with self._lock:
            if not self.ready or self._pipe is None:
                future.set_exception(WorkerDiedError())
                return future
            self._open[question.id] = future, told
            try:
                self._pipe.send(question)
            except OSError:
                self._open.pop(question.id, None)
                future.set_exception(WorkerDiedError())
        return future

    def cancel(self, id_: str) -> None:
        """Ask the worker to stop the job `id_`, if that is what it is at."""
        with self._lock:
            if self.ready and self._pipe is not None and id_ in self._open:
                try:
                    self._pipe.send(id_)
                except OSError:
                    return  # it died, and the listener tells

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.ready = False
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def _listen(self, pipe: Connection) -> None:
        try:
            while True:
                self._answered(*pipe.recv())
        except (EOFError, OSError):
            pass
        with self._lock:
            self.ready = False
            unanswered, self._open = list(self._open.values()), {}
        pipe.close()
        for future, _ in unanswered:
            future.set_exception(WorkerDiedError())

    def _answered(self, kind: str, id_: str, value: Any) -> None:
        with self._lock:
            future, told = self._open.get(id_, (None, None))
            if kind != "progress":
                self._open.pop(id_, None)
        if future is None:
            return
        if kind == "progress" and told is not None:
            told(*value)
        elif kind == "done":
            future.set_result(value)
        elif kind == "cancelled":
            future.set_exception(Cancelled())
        elif kind == "failed":
            future.set_exception(value)


def _killed_at_start() -> TransUNetError:
    return ApiError(
        "worker_died",
        "The process that loads the models ended before it was ready, as a rule because the memory "
        "ran out. Serve fewer bundles, or give the machine more memory.",
    )

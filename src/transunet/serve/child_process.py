"""A process beside the server's that answers requests through a pipe, and may be killed."""

import logging
import multiprocessing
import pkgutil
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from transunet.data.processes import end_with_parent
from transunet.serve.api_errors import ApiError

OnProgress = Callable[[Any, Any], None]
"""Called with the slices done and in all; of the start, with a text and how far the loading is."""

Unanswered = dict[str, tuple[Future[Any], OnProgress | None]]
"""The requests that a process is at, by id."""

START = ""
"""Id of what every process is asked first: to be ready."""
_CONTEXT = multiprocessing.get_context("spawn")  # forking a process that has threads can deadlock
_log = logging.getLogger(__name__)


class ProcessDiedError(ApiError):
    """The process ended while it was asked, or before it was ready."""


class Cancelled(Exception):  # noqa: N818 - asked for, not a fault
    """The request that is being answered is not wanted any more."""


class ChildProcess:
    """A process that is asked through a pipe; whoever holds it starts it, again where it died.

    The process sends `(kind, id, value)` for `START` and then for each request that it is sent: any
    number of "progress" with two values, and once "done" with the answer or "failed" with an error.

    Args:
        target: "module:function" that is called in the process with its end of the pipe and
            `arguments`; a name, so that the server does not import what it needs, such as torch.
        arguments: picklable.
    """

    def __init__(self, target: str, *arguments: Any) -> None:
        self._target, self._arguments = target, arguments
        self._lock, self._starting = threading.Lock(), threading.Lock()
        self._unanswered: Unanswered = {}
        self._process: Any = None
        self._pipe: Connection | None = None
        self.ready = False
        """Whether it can be asked."""
        self.loading = ""
        """How far it is before that, such as "1 of 2"."""

    def start(self, note: Callable[[str], None] = _log.info) -> None:
        """Start the process and wait until it is ready.

        Args:
            note: called with what it tells meanwhile.

        Raises:
            ProcessDiedError: when it ends before.
            TransUNetError: when it cannot do its work, such as load a bundle.
        """

        def on_start(text: str, loading: str) -> None:
            self.loading = loading
            note(text)

        with self._starting:
            if self.ready:
                return
            ready: Future[Any] = Future()
            pipe, child_pipe = _CONTEXT.Pipe()
            process = _CONTEXT.Process(
                target=_run, args=(child_pipe, self._target, self._arguments), daemon=True
            )
            process.start()
            child_pipe.close()
            self._process, self._pipe = process, pipe
            self._unanswered = {START: (ready, on_start)}
            listening = (process, pipe, self._unanswered)
            threading.Thread(target=self._listen, args=listening, daemon=True).start()
            try:
                ready.result()
            except ProcessDiedError:
                raise ProcessDiedError(
                    "worker_died",
                    "The process that loads the models ended before it was ready, as a rule "
                    "because the memory ran out. Serve fewer models, or give the machine more "
                    "memory.",
                ) from None

    def ask(self, id_: str, request: Any, on_progress: OnProgress | None = None) -> Future[Any]:
        """Send a request; its answer comes as the future's result.

        The future raises `ProcessDiedError`, `Cancelled`, or what the process found wrong.
        """
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # who waits may be cancelled, but not the answer
        with self._lock:
            if self.ready:
                self._unanswered[id_] = future, on_progress
                self._send(id_, request)
            else:
                future.set_exception(process_died())
        return future

    def cancel(self, id_: str) -> None:
        """Ask the process to stop answering the request `id_`, if that is what it is at."""
        with self._lock:
            if self.ready and id_ in self._unanswered:
                self._send(id_, None)

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.ready = False
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def _send(self, id_: str, request: Any) -> None:
        assert self._pipe is not None
        with suppress(OSError):  # it died, and the listener tells
            self._pipe.send((id_, request))

    def _listen(self, process: Any, pipe: Connection, unanswered: Unanswered) -> None:
        try:
            while True:
                kind, id_, value = pipe.recv()
                with self._lock:
                    future, on_progress = unanswered.get(id_, (None, None))
                    if kind != "progress":
                        unanswered.pop(id_, None)
                    if kind == "done" and id_ == START and self._process is process:
                        self.ready = True
                if kind == "progress" and on_progress is not None:
                    on_progress(*value)
                elif kind == "done" and future is not None:
                    future.set_result(value)
                elif kind == "failed" and future is not None:
                    future.set_exception(value)
        except (EOFError, OSError):
            pipe.close()
        with self._lock:
            if self._process is process:  # it may have been replaced
                self.ready = False
            died = list(unanswered.values())
            unanswered.clear()
        for future, _ in died:
            future.set_exception(process_died())


def process_died() -> ProcessDiedError:
    """Return the error of a request whose process died."""
    message = "The process that computes it is being replaced."
    return ProcessDiedError("worker_died", message, "Try again.", {"Retry-After": "5"})


def _run(pipe: Connection, target: str, arguments: tuple[Any, ...]) -> None:
    """Be the process: leave Ctrl-C to the server, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    with suppress(EOFError, OSError):  # the server is gone
        pkgutil.resolve_name(target)(pipe, *arguments)

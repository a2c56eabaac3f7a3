"""Work that goes on beside the computing: what comes next is prepared, what came out is stored."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(items: Iterable[Item]) -> Generator[Item]:
    """Yield `items`, which another thread goes through, one of them ahead.

    What it raises is raised here. Left early, it stops after the item that it is at.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue()
    room, stopped = threading.Semaphore(1), threading.Event()

    def fill() -> None:
        source = iter(items)
        try:
            while room.acquire() and not stopped.is_set():
                ready.put(("item", next(source)))
        except StopIteration:
            ready.put(("end", None))
        except BaseException as error:
            ready.put(("error", error))

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            room.release()
            yield value
    finally:
        stopped.set()
        room.release()  # so that a thread that waits for room sees that it is not wanted any more
        thread.join()


def map_in_thread(work: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result]:
    """Yield `work(item)` in order, done in another thread, at most two of them behind."""
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) == 2:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

"""The same work on many items, in this process or spread over several."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import Protocol, TypeVar

from transunet.errors import DataError


class Named(Protocol):
    """What work is done on, such as a case."""

    @property
    def name(self) -> str:
        """What progress calls it."""


Item = TypeVar("Item", bound=Named)
Result = TypeVar("Result")
Progress = Callable[[int, int, str], None]
"""Called with the items done, all items, and the name of the one just done."""


def spread(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    progress: Progress | None = None,
) -> list[Result]:
    """Return `work(item)` for every item, in their order.

    What `work` raises is raised here, once what has begun is done; what has not begun is not begun.

    Args:
        work: importable from a module, with arguments that can be pickled.
        items: what to work on.
        workers: processes; below 2 the work is done here.
        progress: called after each item, as they are done.

    Raises:
        DataError: when a process dies.
    """
    results: dict[int, Result] = {}

    def keep(number: int, result: Result) -> None:
        results[number] = result
        if progress:
            progress(len(results), len(items), items[number].name)

    if workers < 2 or len(items) < 2:
        for number, item in enumerate(items):
            keep(number, work(item))
        return list(results.values())
    # Spawned, not forked: the caller may have threads (torch has), which a fork would leave in the
    # middle of things.
    context = get_context("spawn")
    count = min(workers, len(items))
    with ProcessPoolExecutor(count, context, initializer=end_with_parent) as pool:
        futures = {pool.submit(work, item): number for number, item in enumerate(items)}
        try:
            for future in as_completed(futures):
                keep(futures[future], future.result())
        except BrokenProcessPool:
            raise DataError(
                f"One of {workers} processes that worked on the data died, most likely for want of "
                "memory: use fewer workers. (A script that uses several needs the line "
                "`if __name__ == '__main__':` around its own work.)"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
    return [results[number] for number in range(len(items))]


def end_with_parent() -> None:
    """Have this process end when its parent is killed, which the pool alone does not see to."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

"""Processes that open untrusted files, so that a file that kills its reader kills nothing else."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import ParamSpec, TypeVar

from transunet.serve.api.error_responses import ApiError
from transunet.serve.jobs.child_processes import CONTEXT, settle_in

Given = ParamSpec("Given")
Result = TypeVar("Result")


class Desk:
    """A few processes; each serves one call at a time, so that its death is that call's alone.

    Args:
        places: how many processes.
        scratch: folder for their temporary files, on the disk that uploads are kept on.
    """

    def __init__(self, places: int, scratch: Path) -> None:
        self._scratch, self._places = scratch, places
        self._free: asyncio.Queue[ProcessPoolExecutor] = asyncio.Queue()
        self._all: set[ProcessPoolExecutor] = set()

    def open(self) -> None:
        """Make the processes; they start with their first call, or to warm up."""
        for _ in range(self._places):
            self._free.put_nowait(self._hired())

    def warm_up(self) -> None:
        """Have the processes start and import what they will need, before anybody waits for it."""
        for pool in self._all:
            pool.submit(import_module, "transunet.serve.uploads.inspection")

    def close(self) -> None:
        """End the processes, whatever they do."""
        for pool in self._all:
            _kill(pool)
        self._all.clear()

    async def run(
        self, work: Callable[Given, Result], *given: Given.args, **named: Given.kwargs
    ) -> Result:
        """Return `work(...)`, called in one of the processes.

        Raises:
            ApiError: when the process died twice of it.
            TransUNetError: what `work` raises.
        """
        pool = await self._free.get()
        try:
            for _ in range(2):
                try:
                    loop = asyncio.get_running_loop()
                    return await loop.run_in_executor(pool, partial(work, *given, **named))
                except BrokenProcessPool:  # killed from outside, perhaps: once more
                    pool = self._replaced(pool)
        except asyncio.CancelledError:  # the client left: nobody waits for what is being done
            pool = self._replaced(pool)
            raise
        finally:
            self._free.put_nowait(pool)
        raise ApiError(
            "unreadable",
            "The process that read it was killed, as a rule because the memory ran out.",
            "Send a smaller image, or give the server more memory.",
        )

    def _hired(self) -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(
            1, mp_context=CONTEXT, initializer=settle_in, initargs=(self._scratch,)
        )
        self._all.add(pool)
        return pool

    def _replaced(self, pool: ProcessPoolExecutor) -> ProcessPoolExecutor:
        self._all.discard(pool)
        _kill(pool)
        return self._hired()


def _kill(pool: ProcessPoolExecutor) -> None:
    for process in list((pool._processes or {}).values()):  # it has no public way to do so
        process.kill()
    pool.shutdown(wait=False, cancel_futures=True)

"""Processes that open untrusted files, so that a file that kills its reader kills nothing else."""

import asyncio
import tempfile
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import ParamSpec, TypeVar

from transunet.serve.api_errors import ApiError, api_error
from transunet.serve.child_process import START, ChildProcess, ProcessDiedError
from transunet.serve.jobs.database import new_id

Given = ParamSpec("Given")
Result = TypeVar("Result")


class ParserPool:
    """A few processes; each serves one call at a time, so that its death is that call's alone.

    Args:
        count: how many processes.
        scratch: folder for their temporary files, on the disk that uploads are kept on.
    """

    def __init__(self, count: int, scratch: Path) -> None:
        target = f"{__name__}:run_parser"
        self._processes = [ChildProcess(target, str(scratch)) for _ in range(count)]
        self._free: asyncio.Queue[ChildProcess] = asyncio.Queue()
        for process in self._processes:
            self._free.put_nowait(process)

    async def warm_up(self) -> None:
        """Start the processes, before anybody waits for it; the first call tries again."""
        starts = (asyncio.to_thread(process.start) for process in self._processes)
        await asyncio.gather(*starts, return_exceptions=True)

    def close(self) -> None:
        """End the processes, whatever they do."""
        for process in self._processes:
            process.stop()

    async def run(
        self, function: Callable[Given, Result], *given: Given.args, **named: Given.kwargs
    ) -> Result:
        """Return `function(...)`, called in one of the processes.

        Raises:
            ApiError: when the process died twice of it, or what `function` raises.
        """
        process = await self._free.get()
        try:
            for _ in range(2):
                try:
                    if not process.ready:
                        await asyncio.to_thread(process.start)
                    answer = process.ask(new_id(), (function, given, named))
                    result: Result = await asyncio.wrap_future(answer)
                    return result
                except ProcessDiedError:  # killed from outside, perhaps: once more
                    process.stop()
        except asyncio.CancelledError:  # the client left: nobody waits for what is being done
            process.stop()
            raise
        finally:
            self._free.put_nowait(process)
        raise ApiError(
            "unreadable",
            "The process that read it was killed, as a rule because the memory ran out.",
            "Send a smaller image, or give the server more memory.",
        )


def run_parser(pipe: Connection, scratch: str) -> None:
    """Call what is asked for until the pipe closes (`ChildProcess`'s target).

    Raises:
        EOFError, OSError: when it does.
    """
    tempfile.tempdir = scratch
    import_module("transunet.serve.uploads.inspection")  # what the first call will need
    pipe.send(("done", START, None))
    while True:
        id_, (function, given, named) = pipe.recv()
        try:
            answer = "done", id_, function(*given, **named)
        except Exception as error:
            answer = "failed", id_, api_error(error, Path(scratch))
        pipe.send(answer)

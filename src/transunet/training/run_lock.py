"""The lock by which one launch at a time trains a run.

RUN/.lock is the operating system's, which releases it when its holder ends in whatever way;
RUN/.lock.json says who holds it.
"""

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from json import loads
from pathlib import Path

from filelock import FileLock, Timeout

from transunet.errors import ConfigError
from transunet.files import writable_folder, write_json
from transunet.training.distributed import ProcessGroup

LOCK_SECONDS = 10.0
"""How long a lock is waited for: data workers, which hold it too, may outlive a killed process by
five seconds."""

_log = logging.getLogger(__name__)


class RunInUseError(ConfigError):
    """Another process trains this run."""


@contextmanager
def locked(folder: Path, world: ProcessGroup, seconds: float | None = None) -> Iterator[None]:
    """Keep the run in `folder` from other launches.

    Within one thread the lock may be taken again.

    Args:
        folder: the run's.
        world: the processes that share the run's batches, all of which come here together; the
            first one holds the lock.
        seconds: how long to wait for another holder, `LOCK_SECONDS` if not given; below 0 without
            end.

    Raises:
        RunInUseError: when another process holds it; the message says which one.
        ConfigError: when the folder cannot be written to.
    """
    lock, holder_file = FileLock(folder / ".lock", is_singleton=True), folder / ".lock.json"
    refusal = ""
    try:
        if world.first:
            writable_folder(folder)
            try:
                lock.acquire(timeout=LOCK_SECONDS if seconds is None else seconds)
                since = datetime.now().astimezone().isoformat(timespec="seconds")
                holder = {"host": platform.node(), "process": os.getpid(), "since": since}
                write_json(holder, holder_file)
            except Timeout:
                try:
                    holder = loads(holder_file.read_text(encoding="utf-8"))
                    who = " (process {process} on {host}, since {since})".format(**holder)
                except (OSError, ValueError, KeyError, TypeError):  # it has this moment taken it
                    who = ""
                refusal = (
                    f"Another process trains the run in {folder}{who}. Wait until it ends, or stop "
                    f"it; then go on with: transunet train --resume {folder}"
                )
            except (OSError, NotImplementedError) as error:
                _log.warning(
                    "%s lies on a file system without locks (%s): see to it that no other process "
                    "trains this run at the same time.",
                    folder,
                    getattr(error, "strerror", None) or error,
                )
        if refusal := world.gather(refusal)[0]:
            raise RunInUseError(refusal)
        yield
    finally:
        if world.first:
            lock.release()

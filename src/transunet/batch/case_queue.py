"""Several processes, on one machine or many, share the cases of one output folder.

Who works on a case holds its lock, a lock of the operating system, which is released when its
holder is killed, so that no case is lost. A worker holds a second one as long as it lives, by which
others see that a run is under way.
"""

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from transunet.data.cases import Case
from transunet.data.inputs import LOCKS_FOLDER
from transunet.errors import ConfigError
from transunet.files import writable_folder

_WAIT = 0.2  # seconds between looks at cases that other processes have


@contextmanager
def join_run(folder: Path, key: str, about: str) -> Iterator[str]:
    """Join the workers on `folder`, and yield the name of the run that they share.

    Whoever is first starts a run; who comes while one of them is alive takes part in it.

    Args:
        folder: the output folder.
        key: what results depend on; all workers must have the same.
        about: `key` in words, for the error of another worker.

    Raises:
        ConfigError: when a living worker has another key, or the folder cannot be locked.
    """
    locks = writable_folder(folder / LOCKS_FOLDER)
    guard = FileLock(locks / "guard.lock")
    own = FileLock(locks / f"worker-{uuid.uuid4().hex}.lock")
    note = locks / "run.json"
    try:
        with guard:
            if any(_is_held(path) for path in locks.glob("worker-*.lock")):
                run = json.loads(note.read_text(encoding="utf-8"))
            else:
                run = {"run": uuid.uuid4().hex, "key": key, "about": about}
                note.write_text(json.dumps(run), encoding="utf-8")
            if run["key"] != key:
                raise ConfigError(
                    f"Another process is predicting into {folder} with other settings "
                    f"({run['about']}). Wait for it, or choose another output folder."
                )
            own.acquire(timeout=0)
    except OSError as error:
        raise ConfigError(
            f"Cannot lock files in {locks}: {error.strerror or error}. Choose an output folder on "
            "a disk with room, whose file system has locks."
        ) from None
    try:
        yield run["run"]
    finally:
        with guard:
            own.release()
            Path(own.lock_file).unlink(missing_ok=True)


def claim_cases(
    folder: Path, cases: Sequence[Case], claims: ExitStack
) -> Iterator[tuple[Case, FileLock]]:
    """Yield every case once, with its lock, which is held; those of other processes last.

    Args:
        folder: the output folder.
        cases: what is to be done.
        claims: releases the locks that the caller has not released.
    """
    waiting = list(cases)
    while waiting:
        before = len(waiting)
        for case in list(waiting):
            path = folder / LOCKS_FOLDER / f"case-{case.name}.lock"
            writable_folder(path.parent)  # of a case in a folder of its own
            # Acquired in the thread that reads and released in the one that writes.
            lock = FileLock(path, thread_local=False)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            claims.callback(lock.release)
            waiting.remove(case)
            yield case, lock
        if len(waiting) == before:
            time.sleep(_WAIT)


def _is_held(path: Path) -> bool:
    """Whether a worker holds its lock; the file of one that is dead is removed."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    path.unlink(missing_ok=True)
    return False

"""Several processes, on one machine or many, share the cases of one output folder.

Who works on a case holds its lock, a lock of the operating system: it falls open when its holder is
killed, so that no case is lost. A worker holds a second one as long as it lives, by which others
see who is at work, and on what.
"""

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from transunet.data.inputs import LOCKS_FOLDER
from transunet.errors import ConfigError
from transunet.files import writable_folder

_POLL = 0.2  # seconds between looks at a case that another worker has


@contextmanager
def session(folder: Path, key: str, about: str) -> Iterator[str]:
    """Join the workers on `folder`, and yield the name of the run that they share.

    Whoever is first starts a run; who comes while one of them is alive takes part in it.

    Args:
        folder: the output folder.
        key: what results depend on; all workers must have the same.
        about: `key` in words, for the error of another worker.

    Raises:
        ConfigError: when a living worker has another key.
    """
    place = writable_folder(folder / LOCKS_FOLDER)
    me = place / f"worker-{uuid.uuid4().hex}"
    lock = FileLock(me.with_suffix(".lock"))
    try:
        run = _join(place, me, lock, {"key": key, "about": about})
    except OSError as error:
        raise ConfigError(
            f"Cannot lock files in {place}: {error.strerror or error}. Choose an output folder on "
            "a disk with room, whose file system has locks."
        ) from None
    try:
        yield run
    finally:
        with FileLock(place / "guard.lock"):
            _forget(me)
        lock.release()
        me.with_suffix(".lock").unlink(missing_ok=True)


class Claim:
    """The right to work on one case, until it is given back or this process ends."""

    def __init__(self, folder: Path, case: str) -> None:
        path = folder / LOCKS_FOLDER / f"case-{case}.lock"
        writable_folder(path.parent)  # of a case in a folder of its own
        # Claimed in the thread that reads and given back in the one that writes.
        self._lock = FileLock(path, thread_local=False)

    def take(self) -> bool:
        """Return whether the case is this worker's now; no other will have it meanwhile."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        return True

    def give_back(self) -> None:
        """Let others have the case; for one that was given back already, do nothing."""
        self._lock.release()


@contextmanager
def together(folder: Path) -> Iterator[None]:
    """Keep other workers from writing the folder's summaries at the same time."""
    with FileLock(writable_folder(folder / LOCKS_FOLDER) / "summary.lock"):
        yield


def _join(place: Path, me: Path, lock: FileLock, what: dict[str, str]) -> str:
    """Announce this worker; return the run of those alive, or a new one's name."""
    with FileLock(place / "guard.lock"):
        others = _living(place)
        _refuse_others(others, what["key"], place.parent)
        run = others[0]["run"] if others else uuid.uuid4().hex
        lock.acquire(timeout=0)
        me.with_suffix(".json").write_text(json.dumps({**what, "run": run}))
    return run


def _living(place: Path) -> list[dict[str, str]]:
    """What the workers say who hold their locks; those of dead ones are removed."""
    found = []
    for path in sorted(place.glob("worker-*.lock")):
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            found.append(_read(path.with_suffix(".json")))
            continue
        _forget(path.with_suffix(""))
        lock.release()
        path.unlink(missing_ok=True)
    return [worker for worker in found if worker]


def _read(path: Path) -> dict[str, str]:
    for _ in range(5):  # on a network's file system it may show a moment later than its lock
        try:
            found: dict[str, str] = json.loads(path.read_text())
            return found
        except (OSError, ValueError):
            time.sleep(_POLL)
    return {}


def _forget(worker: Path) -> None:
    worker.with_suffix(".json").unlink(missing_ok=True)


def _refuse_others(workers: list[dict[str, str]], key: str, folder: Path) -> None:
    for worker in workers:
        if worker["key"] != key:
            raise ConfigError(
                f"Another process is predicting into {folder} with other settings "
                f"({worker['about']}). Wait for it, or choose another output folder."
            )

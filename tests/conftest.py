"""Settings of the test run."""

import gc
import multiprocessing.process
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

import forks

# Before torch is imported: waiting threads sleep instead of spinning. On a machine that does other
# work too (or runs a test of several processes), spinning makes training tens of times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# OpenVINO would report that it was imported (see transunet.optional); importorskip imports it.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

# One folder of this run, for all of pytest-xdist's workers. Converted networks and downloads go to
# a cache in it, one for each worker, not to the cache of whoever runs the tests.
TESTS = Path(__file__).parent
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if not WORKER:
    os.environ["TRANSUNET_TESTS"] = tempfile.mkdtemp(prefix="transunet-tests-")
SHARED = Path(os.environ["TRANSUNET_TESTS"])
os.environ["TRANSUNET_CACHE"] = str(SHARED / f"cache{WORKER}")

# What our commands import is compiled once, and not in each of a hundred processes.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

if WORKER:  # the others compute too
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# What a whole folder of tests is; single modules and tests elsewhere are marked where they stand.
FOLDERS = {
    "backends": pytest.mark.runtime,
    "export": pytest.mark.runtime,
    "integrations": pytest.mark.runtime,
    "serve": pytest.mark.process,
    "serve/page": pytest.mark.browser,
}
MAY_START_PROCESSES = {"process", "browser", "runtime"}
_running: pytest.Item | None = None


# What is imported and collected stays until the end: the collector need not look through it.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for folder, mark in FOLDERS.items():
            if TESTS / folder in item.path.parents:
                item.add_marker(mark)
    if WORKER:  # the longest first; and a worker that is done takes over the end of another's list,
        # so that the modules whose fixtures cost most stay whole
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    global _running
    _running = item
    result = yield
    _running = None
    return result


def _refuse_unmarked(start: Callable[..., Any]) -> Callable[..., Any]:
    """Let only a test with a marker start a process, so that `make quick` stays quick."""

    @wraps(start)
    def guarded(self: object, *arguments: Any, **options: Any) -> Any:
        if _running and not MAY_START_PROCESSES & {mark.name for mark in _running.iter_markers()}:
            pytest.fail(f"{_running.nodeid} starts a process: mark it with pytest.mark.process")
        return start(self, *arguments, **options)

    return guarded


subprocess.Popen.__init__ = _refuse_unmarked(subprocess.Popen.__init__)  # type: ignore[method-assign]
forks.Process.__init__ = _refuse_unmarked(forks.Process.__init__)  # type: ignore[method-assign]
multiprocessing.process.BaseProcess.start = _refuse_unmarked(  # type: ignore[method-assign]
    multiprocessing.process.BaseProcess.start
)


@pytest.fixture
def without_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train without curves, which take longer than the few steps; a test may ask for `curves`."""
    if "curves" not in request.fixturenames:
        monkeypatch.setattr("transunet.training.loop.draw_curves", lambda folder: None)


@pytest.fixture
def curves() -> None:
    """Let a run draw its curves in spite of `without_curves`."""


def pytest_unconfigure() -> None:
    if not WORKER:
        shutil.rmtree(SHARED, ignore_errors=True)

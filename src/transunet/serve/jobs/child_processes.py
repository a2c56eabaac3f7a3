"""What every process beside the API's does first: end with it, and leave Ctrl-C to it."""

import multiprocessing
import os
import signal
import tempfile
import threading
from multiprocessing.connection import wait
from pathlib import Path

CONTEXT = multiprocessing.get_context("spawn")
"""Forking a process that has threads can deadlock."""


def settle_in(scratch: Path | None = None) -> None:
    """Prepare this process.

    Args:
        scratch: folder for temporary files, where the usual one will not do.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if scratch is not None:
        tempfile.tempdir = str(scratch)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)  # killed: nothing that is done here has anybody left who wants it

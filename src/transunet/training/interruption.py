"""Ctrl-C and SIGTERM as a wish that the loop grants at the next safe moment."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from transunet.errors import TransUNetError


class Interrupted(TransUNetError):  # noqa: N818 - not a fault: everything was saved
    """Training was asked to stop and has saved what going on needs."""

    def __init__(self, folder: Path, step: int, signal_number: int | None) -> None:
        self.folder, self.step = folder, step
        super().__init__(
            f"Stopped after step {step}; everything is saved. Go on with: "
            f"transunet train --resume {folder}"
        )
        # None: another process was asked.
        self.exit_code = 128 + (signal_number or signal.SIGTERM)


@dataclass
class Wish:
    """Whether someone has asked to stop, and how."""

    signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None


@contextmanager
def stop_wishes() -> Iterator[Wish]:
    """Yield a wish that SIGINT or SIGTERM fulfils; a second Ctrl-C stops at once.

    Outside the main thread, where Python takes no signals, the wish never comes true.
    """
    wish = Wish()

    def ask(number: int, frame: FrameType | None) -> None:
        if wish and number == signal.SIGINT:
            raise KeyboardInterrupt
        wish.signal_number = number

    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

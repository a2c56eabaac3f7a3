"""What the library notes by the way, such as work that is done once, on the error stream."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class _Notes(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() in self.shown:  # each case of one folder tells the same of it
            return
        self.shown.add(record.getMessage())
        warning = record.levelno >= logging.WARNING
        text = f"Warning: {record.getMessage()}" if warning else record.getMessage()
        console = Console(stderr=True, soft_wrap=True)
        console.print(text, style="yellow" if warning else "dim", markup=False, highlight=False)


@contextmanager
def showing_notes() -> Iterator[None]:
    """Show what `transunet` logs, from notes upwards, while this lasts."""
    logger, handler = logging.getLogger("transunet"), _Notes()
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates

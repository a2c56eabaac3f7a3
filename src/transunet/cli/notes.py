"""What the library notes by the way, such as work that is done once, on the error stream."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from transunet.logs import forwarded_logs


@contextmanager
def showing_notes() -> Iterator[None]:
    """Show what `transunet` logs, from notes upwards, each text once, while this lasts."""
    shown: set[str] = set()

    def show(record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text in shown:  # each case of one folder tells the same of it
            return
        shown.add(text)
        warning = record.levelno >= logging.WARNING
        console = Console(stderr=True, soft_wrap=True)
        console.print(
            f"Warning: {text}" if warning else text,
            style="yellow" if warning else "dim",
            markup=False,
            highlight=False,
        )

    with forwarded_logs(show):
        yield

"""What commands say: lines of text, what the library logs, and which cases failed."""

import logging
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console

from transunet.errors import ConfigError, DataError
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


def say(what: object, style: str = "", end: str = "\n") -> None:
    """Print text that is broken nowhere, so that paths and commands in it can be copied."""
    Console(soft_wrap=True).print(what, style=style, end=end, markup=False, highlight=False)


def hanging(console: Console, text: str, indent: int) -> str:
    """Return `text` with lines that begin `indent` columns in, the first one's being there already.

    Where there is no terminal, no line is broken: for `grep` and for log files.
    """
    lines = text.split("\n")
    if console.is_terminal:
        wrap = textwrap.TextWrapper(
            console.width - indent, break_long_words=False, break_on_hyphens=False
        )
        lines = [part for line in lines for part in wrap.wrap(line)]
    return f"\n{'':<{indent}}".join(lines)


def raise_failed(failed: Mapping[str, Exception | None], count: int, done: str) -> None:
    """Raise one error that lists what failed, if anything did.

    Args:
        failed: case -> why.
        count: cases in all.
        done: what could not be done to them, such as "predicted".

    Raises:
        ConfigError: when all of it is wrong use.
        DataError: else.
    """
    if not failed:
        return
    listed = "\n".join(f"  {name}: {error}" for name, error in failed.items())
    wrong_use = all(isinstance(error, ConfigError) for error in failed.values())
    raise (ConfigError if wrong_use else DataError)(
        f"{len(failed)} of {count} cases could not be {done}:\n{listed}"
    )

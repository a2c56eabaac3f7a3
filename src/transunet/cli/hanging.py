"""Text whose further lines keep its indent where a terminal's width breaks it."""

import textwrap

from rich.console import Console


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

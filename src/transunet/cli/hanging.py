"""Text whose further lines keep its indent where a terminal's width breaks it."""

import textwrap

from rich.console import Console


def hanging(console: Console, text: str, indent: int) -> str:
    """Return `text` with lines that begin `indent` columns in, the first one's being there already.

    Where there is no terminal, it stays one line: for `grep` and for log files.
    """
    if not console.is_terminal:
        return text
    lines = textwrap.wrap(
        text, console.width - indent, break_long_words=False, break_on_hyphens=False
    )
    return f"\n{'':<{indent}}".join(lines)

"""Pages of text: sections of paragraphs, lists and tables, which become Markdown.

Names of cases, structures and data sets are anybody's text: neither may make markup of them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CardTable:
    """A table."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Block = str | tuple[str, ...] | CardTable
"""A paragraph, a list, or a table."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: tuple[Block, ...]


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Return a whole page, as GitHub and the hub show it."""
    parts = [f"# {_plain(title)}"]
    for section in sections:
        parts.append(f"## {_plain(section.title)}")
        parts += [_markdown(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, str):
        return _plain(block)
    if isinstance(block, tuple):
        return "\n".join(f"- {_plain(item)}" for item in block)
    lines = [block.head, ("---",) * len(block.head), *block.rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _plain(text: str) -> str:
    """Text on one line, whose markup is shown and not followed."""
    line = " ".join(text.split())
    return re.sub(r"([\\`*<]|(?<!\w)_|_(?!\w)|(?<=\])\()", r"\\\1", line)


def _cell(text: str) -> str:
    return text if text == "---" else _plain(text).replace("|", r"\|")

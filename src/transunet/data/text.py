"""Texts: files in the encodings that programs write without asking, names and lists of them."""

import codecs
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from transunet.errors import ConfigError


def text_of(path: Path) -> str:
    """Return the text of a file: UTF-8, or the UTF-16 that programs on Windows write.

    Raises:
        OSError: when it cannot be read.
        UnicodeDecodeError: for any other encoding; a `ValueError`.
    """
    content = path.read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if wide else "utf-8-sig")


def counted(number: int, what: str) -> str:
    """Return a number of things in words: "1 case", "2 cases"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def count_of_each(kinds: Mapping[str, int]) -> str:
    """Return how many of each kind there are, in words: "2 SR, 1 localizer"."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def extents(sides: Iterable[float | None], form: str = "") -> str:
    """Return sides in words: "3 x 4 x 5"; None is "own".

    Args:
        sides: voxels or millimetres along each axis.
        form: how each is written, such as ".4g".
    """
    return " x ".join("own" if side is None else format(side, form) for side in sides)


def some(names: Sequence[str], most: int = 5) -> str:
    """Return the first of `names`, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def groups_by(pattern: str, names: Sequence[str]) -> Mapping[str, str]:
    """Return the group of each name: what `pattern` finds in it.

    The first parenthesis counts where there is one, else the whole match.

    Raises:
        ConfigError: for a pattern that is no regular expression or does not fit every name.
    """
    try:
        matches = {name: re.search(pattern, name) for name in names}
    except re.error as error:
        raise ConfigError(f"{pattern!r} is no regular expression: {error}.") from None
    groups = {name: match[1 if match.re.groups else 0] for name, match in matches.items() if match}
    unfit = [name for name in names if not groups.get(name)]
    if unfit:
        raise ConfigError(
            f"{pattern!r} finds no group in {len(unfit)} of {len(names)} names of cases: "
            f"{some(unfit)}. Choose a pattern that fits every case."
        )
    return groups

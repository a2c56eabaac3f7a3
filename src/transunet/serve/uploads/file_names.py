"""File names from anywhere: what they are called on this disk, and what a download is called."""

import re
from collections.abc import Collection
from pathlib import PurePosixPath

_LONGEST = 120  # characters; file systems allow 255 bytes, and letters may take four
_ENDING = 30  # characters at the end that are kept when a name is cut: suffixes


def shown(name: str) -> str:
    """Return the last part of a client's path without what cannot be printed; never empty."""
    last = PurePosixPath(name.replace("\\", "/")).name
    text = "".join(letter for letter in last if letter.isprintable() and letter != "\ufffd")
    return text.strip()[-_LONGEST:] or "unnamed"


def on_disk(name: str, taken: Collection[str]) -> str:
    """Return a harmless file name that ends like `name` and is not one of `taken`."""
    text = re.sub(r"[^\w.+=@()-]", "_", shown(name), flags=re.ASCII).lstrip(".-") or "unnamed"
    if len(text) > _LONGEST:
        text = text[: _LONGEST - _ENDING] + text[-_ENDING:]
    number, free = 2, text
    while free in taken:
        number, free = number + 1, f"{number}_{text}"
    return free


def download(stem: str, bundle: str, suffix: str) -> str:
    """Return what the result of a bundle for the image `stem` is called."""
    text = re.sub(r'[\\/:*?"<>|\s]+', "_", stem).strip("._") or "image"
    return f"{text}_{bundle}{suffix}"

"""What a file is that should hold weights and does not, told by how it begins."""

import re

_TOLD_BY = (
    (rb"\s*(?:<!doctype\s+html|<html|<head|<\?xml)", "a web page"),
    (rb"version https://git-lfs", "the pointer to a file in Git LFS, not the file"),
    (rb"\s*[{\[]\s*[\"{\[\]}]", "JSON"),
    (rb"\x1f\x8b\x08", "bytes compressed with gzip"),
    (rb"\x89HDF\r\n", "an HDF5 file, as Keras writes it"),
)


def looks_like(start: bytes) -> str | None:
    """Return in words what begins with `start`, with its first words where it is text.

    None for what is none of the things that are met in the place of weights.
    """
    if not start:
        return "nothing"
    if start[4:9] == b"\0\0\0\0{":  # a .safetensors, whose length may begin like anything
        return None
    for pattern, name in _TOLD_BY:
        if re.match(pattern, start, re.IGNORECASE):
            return f"{name}{_first_words(start)}"
    words = _first_words(start)
    return f"text{words}" if words else None


def _first_words(start: bytes) -> str:
    text = start.decode("utf-8", "ignore")
    if not text.strip() or not all(char.isprintable() or char.isspace() for char in text):
        return ""
    words = " ".join(text.split())
    return f" ({words[:60]!r}{'...' if len(words) > 60 else ''})"

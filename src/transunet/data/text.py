"""Text files, in the encodings that programs write without asking."""

import codecs
from pathlib import Path


def text_of(path: Path) -> str:
    """Return the text of a file: UTF-8, or the UTF-16 that programs on Windows write.

    Raises:
        OSError: when it cannot be read.
        UnicodeDecodeError: for any other encoding; a `ValueError`.
    """
    content = path.read_bytes()
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if wide else "utf-8-sig")

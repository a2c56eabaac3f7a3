"""A PNG encoder for 8-bit pictures, so that a report with images needs no imaging package."""

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _COLOUR = 0, 2
_UP = 2  # filter: each row minus the one above, which natural images compress better by


def png_data_uri(picture: NDArray[np.uint8]) -> str:
    """Encode `picture`, (H, W) grey or (H, W, 3) RGB, as the text of a `data:` address."""
    return "data:image/png;base64," + base64.b64encode(png(picture)).decode("ascii")


def png(picture: NDArray[np.uint8]) -> bytes:
    """Encode `picture`, (H, W) grey or (H, W, 3) RGB, as the content of a PNG file."""
    height, width = picture.shape[:2]
    colour = _COLOUR if picture.ndim == 3 else _GREY
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    rows = picture.reshape(height, -1)
    changes = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))  # modulo 256, as PNG wants it
    filtered = np.column_stack([np.full(height, _UP, np.uint8), changes])
    body = zlib.compress(filtered.tobytes(), 9)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

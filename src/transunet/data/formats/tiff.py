"""What the tags of a TIFF say of its pages: bits, bands, transparency, which pages are channels."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.optional import require

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF, the last two of a BigTIFF."""

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK = 0, 1, 2, 3, 5
"""What the numbers of a page mean (PhotometricInterpretation)."""

_BIG = 43
_ALPHA = frozenset({1, 2})  # kinds of extra samples; 0, "unspecified", is data
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}  # SampleFormat; the rest is complex
# With these and 8 bits Pillow makes colours of three samples (of four in CMYK).
_COLOURS = frozenset({RGB, CMYK, 6, 8})
_IMAGEJ = {"channels": "C", "slices": "Z", "frames": "T"}


@dataclass(frozen=True)
class Page:
    """One page, or a picture of another format."""

    index: int | None
    """Which page of a TIFF; None for other formats."""
    height: int
    width: int
    """As stored, before `orientation`."""
    dtype: np.dtype[Any]
    samples: int
    """Numbers per pixel."""
    bands: tuple[int, ...]
    """Which samples are no transparency."""
    orientation: int
    """1 to 8, as EXIF counts them; 1 is upright already."""
    fits_pillow: bool
    """Whether Pillow's modes hold the numbers of every band."""
    in_strips: bool = True
    """Rows follow each other, the samples of a pixel together: no tiles, no planes."""
    meaning: int = BLACK_IS_ZERO
    description: str = ""


def pages_of(path: Path) -> list[Page]:
    """Read the tags of every page but smaller copies of others (a slide's pyramid).

    Raises:
        ValueError, OSError, SyntaxError, struct.error: for a damaged file, as Pillow does.
    """
    plugin: Any = require("PIL.TiffImagePlugin", extra="images")
    pages, seen = [], set[int]()
    with path.open("rb") as file:
        header = file.read(8)
        header += file.read(8) if header[2:3] == bytes([_BIG]) or header[3:4] == b"+" else b""
        directory = plugin.ImageFileDirectory_v2(header)
        while directory.next and directory.next not in seen:
            seen.add(directory.next)
            file.seek(directory.next)
            directory.load(file)
            if not int(directory.get(254, 0)) & 1:  # else it is a smaller copy
                pages.append(_page(len(seen) - 1, directory))
    return pages


def page_axes(first: Page, count: int) -> tuple[tuple[str, int], ...]:
    """Return what `count` pages run along, slowest first: slices (Z), channels (C) and time (T).

    OME-TIFF, ImageJ and tifffile tell it in the description of the first page; without it they are
    slices.
    """
    text = first.description
    if "<OME" in text:
        order = re.search(r'DimensionOrder="XY([CZT]{3})"', text)
        axes = {axis: _number(rf'\bSize{axis}="(\d+)"', text) for axis in "CZT"}
        axes["C"] //= len(first.bands) if axes["C"] % len(first.bands) == 0 else 1
        fastest = order[1] if order else "CZT"
    elif text.startswith("ImageJ="):
        axes = {axis: _number(rf"^{name}=(\d+)", text) for name, axis in _IMAGEJ.items()}
        fastest = "CZT"
    else:  # tifffile's {"shape": [3, 64, 64], "axes": "CYX"}
        axes = {}
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            content = json.loads(text)
            axes = dict(zip(content["axes"], map(int, content["shape"]), strict=True))
        axes = {axis: size for axis, size in axes.items() if axis not in "YXS"}
        fastest = "".join(reversed(axes))
    if not axes or not {*axes} <= {*"CZT"} or prod(axes.values()) != count:  # in other files, e.g.
        return (("Z", count),)
    return tuple((axis, axes[axis]) for axis in reversed(fastest))


def samples_of(path: Path, pages: Sequence[Page]) -> NDArray[Any] | None:
    """Return (pages, H, W, samples) as tifffile reads them; None where it does not."""
    tifffile = require("tifffile", extra="images")
    arrays = []
    try:
        with tifffile.TiffFile(path) as file:
            for page in (file.pages[page.index] for page in pages):
                array = page.asarray()
                array = np.moveaxis(array, 0, -1) if page.axes.startswith("S") else array
                arrays.append(array.reshape(page.imagelength, page.imagewidth, -1))
            return np.stack(arrays)
    except MemoryError:
        raise
    except Exception:  # damaged in any way, or compressed as only further packages read it
        return None


def along_axes(pages: NDArray[Any], axes: Sequence[tuple[str, int]]) -> NDArray[Any]:
    """(pages, H, W, bands) -> (channels, H, W, slices); times follow each other as slices."""
    names = "".join(name for name, _ in axes)
    split = pages.reshape(*(size for _, size in axes), *pages.shape[1:])
    if "C" not in names:
        return pages.transpose(3, 1, 2, 0)
    split = np.moveaxis(split, names.index("C"), -1)  # (..., H, W, bands, C)
    *_, height, width, bands, channels = split.shape
    flat = split.reshape(-1, height, width, bands * channels)
    return flat.transpose(3, 1, 2, 0)


def _page(index: int, tags: Mapping[int, Any]) -> Page:
    if 256 not in tags or 257 not in tags:
        raise ValueError("its size is missing")
    samples, bits = int(tags.get(277, 1)), int(np.max(tags.get(258, 1)))
    kind = _KINDS.get(int(np.max(tags.get(339, 1))), "V")
    dtype = np.dtype(f"{kind}{max(1, 2 ** int(np.ceil(np.log2(bits / 8))))}")
    meaning, orientation = int(tags.get(262, BLACK_IS_ZERO)), int(tags.get(274, 1))
    usual = 3 if meaning in (RGB, 6, 8) else 4 if meaning == CMYK else 1
    extra = np.atleast_1d(tags.get(338, ())).astype(int).tolist() or [0] * max(0, samples - usual)
    colours = samples - len(extra)
    if meaning == PALETTE:
        fits_pillow = bits <= 8
    elif set(extra) - _ALPHA or len(extra) > (0 if meaning == CMYK else 1):
        fits_pillow = False
    elif dtype == np.uint8:
        coloured = meaning in _COLOURS and colours == 3 + (meaning == CMYK)
        fits_pillow = colours == 1 or coloured
    else:
        grey = samples == 1 and meaning == BLACK_IS_ZERO
        fits_pillow = grey and dtype.str[1:] in {"u2", "i2", "i4", "f4"}
    return Page(
        index=index,
        height=int(tags[257]),
        width=int(tags[256]),
        dtype=dtype,
        samples=samples,
        bands=tuple(n for n in range(samples) if n < colours or extra[n - colours] not in _ALPHA),
        orientation=orientation if 1 <= orientation <= 8 else 1,
        fits_pillow=fits_pillow,
        in_strips=322 not in tags and tags.get(284, 1) == 1,
        meaning=meaning,
        description=str(tags.get(270, "")),
    )


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text, re.MULTILINE)
    return int(match[1]) if match else 1

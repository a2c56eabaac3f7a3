"""Photographs and masks (PNG, JPEG, TIFF, BMP) through pillow.

An image of H x W pixels becomes a volume (C, H, W, 1) on an identity affine: its first axis runs
down the rows, and a pixel counts as one millimetre. The pages of a TIFF become the third axis.
"""

import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from transunet.data.problems import Problem
from transunet.data.volume import Grid, Volume
from transunet.errors import ConfigError, TransUNetError
from transunet.extras import require

Result = TypeVar("Result")

COLOUR = 1 << 24
"""Added to 0xRRGGBB for the label value of a coloured pixel; a grey one's is its brightness."""

JPEG = frozenset({".jpg", ".jpeg"})
"""Suffixes of a format that is not exact."""

_DAMAGE = (OSError, EOFError, ValueError, TypeError, SyntaxError, MemoryError, struct.error)
_PAGES = {".tif", ".tiff"}
# Pillow's modes of one number per pixel; any other is turned into RGB.
_GREY = {"L", "I", "F", "I;16", "I;16L", "I;16B"}


def read(path: Path) -> Volume:
    """Read an image: one channel for grey, three for colours; alpha is dropped.

    Raises:
        ConfigError: without pillow.
        DataError: when the file is damaged.
    """
    return _volume(path, _undamaged(path, lambda image: _pages(image, path, _colours)))


def read_labels(path: Path) -> Volume:
    """Read a mask: indices, brightness, or `COLOUR` + 0xRRGGBB where it has colours.

    A JPEG is not exact: a black-and-white one is rounded to 0 and 255, another is refused.

    Raises:
        ConfigError: without pillow.
        DataError: when the file is damaged, or a JPEG that is not black and white.
    """
    pages = _undamaged(path, lambda image: _pages(image, path, _indices))
    if path.suffix.lower() in JPEG:
        pages = [_black_and_white(page, path) for page in pages]
    return _volume(path, pages)


def read_grid(path: Path) -> Grid:
    """Read the size, without the pixels.

    Raises:
        ConfigError: without pillow.
        DataError: when the header is damaged.
    """
    width, height, pages = _undamaged(path, lambda image: (*image.size, _page_count(image, path)))
    return Grid((height, width, pages), np.eye(4), str(path))


def bits(path: Path) -> tuple[int, int]:
    """Return channels and bits per channel, from the header.

    Raises:
        As `read_grid`.
    """
    mode: str = _undamaged(path, lambda image: image.mode)
    if mode in _GREY | {"1", "LA"}:
        return 1, 16 if mode.startswith("I") else 8
    return 3, 8


def write(volume: Volume, path: Path) -> None:
    """Write a label map (uint8, uint16) or a colour image (three channels of uint8).

    Raises:
        ConfigError: for JPEG, which is not exact, several slices in another format than TIFF, or
            other numbers.
    """
    pillow = require("PIL.Image", extra="images")
    if path.suffix.lower() in JPEG:
        raise ConfigError(
            f"{path}: JPEG changes values a little, so no labels are written to it. Use PNG."
        )
    slices = volume.spatial_shape[2]
    if slices > 1 and path.suffix.lower() not in _PAGES:
        raise ConfigError(
            f"{path}: {volume.name} has {slices} slices, an image of this format has one. Write it "
            f"as TIFF or NIfTI."
        )
    pages = [pillow.fromarray(_page(volume, index, path)) for index in range(slices)]
    more = {"save_all": True, "append_images": pages[1:]} if slices > 1 else {}
    pages[0].save(path, **more)


def _page(volume: Volume, index: int, path: Path) -> NDArray[Any]:
    pixels = volume.array[..., index]
    if volume.channels == 1 and pixels.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(pixels[0])
    if volume.channels == 3 and pixels.dtype == np.uint8:
        return np.ascontiguousarray(np.moveaxis(pixels, 0, -1))
    raise ConfigError(
        f"{path}: an image holds one channel of uint8 or uint16 or three of uint8, found "
        f"{volume.channels} of "
        f"{pixels.dtype}. Write it as NIfTI."
    )


def _volume(path: Path, pages: list[NDArray[Any]]) -> Volume:
    """Pages (H, W) or (H, W, C) -> (C, H, W, pages)."""
    stack = np.stack([page.reshape(*page.shape[:2], -1) for page in pages])
    return Volume(stack.transpose(3, 1, 2, 0), np.eye(4), str(path))


def _pages(image: Any, path: Path, pixels: Callable[[Any], NDArray[Any]]) -> list[NDArray[Any]]:
    pages = []
    for index in range(_page_count(image, path)):
        image.seek(index)
        pages.append(pixels(image))
    if len({page.shape for page in pages}) > 1:
        raise _problem(path, "its pages differ in size or colours")
    return pages


def _page_count(image: Any, path: Path) -> int:
    # A JPEG or PNG with several frames is a camera's or an animation, not a volume.
    return int(getattr(image, "n_frames", 1)) if path.suffix.lower() in _PAGES else 1


def _colours(image: Any) -> NDArray[Any]:
    if image.mode in {"1", "LA"}:
        return np.asarray(image.convert("L"))
    return np.asarray(image if image.mode in _GREY else image.convert("RGB"))


def _indices(image: Any) -> NDArray[Any]:
    if image.mode in _GREY | {"1", "P"}:
        return np.asarray(image)
    if image.mode == "LA":
        return np.asarray(image.convert("L"))
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), dtype=np.uint32), -1, 0)
    grey = (red == green) & (green == blue)
    packed: NDArray[np.uint32] = COLOUR + (red << 16) + (green << 8) + blue
    return np.where(grey, red, packed)


def _black_and_white(page: NDArray[Any], path: Path) -> NDArray[Any]:
    # Compression moves black and white by a few steps, more along edges; a third grey is another
    # class.
    between = int(((page > 64) & (page < 191)).sum() + (page > 255).sum())
    if between > 0.02 * page.size:
        remedy = "Export the mask from its source as PNG"
        found = "JPEG changes values, so a JPEG mask can only be black and white; this one is not"
        raise Problem("jpeg-mask", str(path), found, remedy).error()
    return np.asarray(np.where(page > 127, 255, 0), dtype=np.uint8)


def _undamaged(path: Path, use: Callable[[Any], Result]) -> Result:
    pillow = require("PIL.Image", extra="images")
    try:
        # Pillow warns of damage before it raises, and of large images, which a slide may well be.
        with warnings.catch_warnings(action="ignore"), pillow.open(path) as image:
            return use(image)
    except TransUNetError:
        raise
    except (*_DAMAGE, pillow.DecompressionBombError) as error:
        reason = " ".join(str(error).replace(str(path), "").split()) or type(error).__name__
        raise _problem(path, f"it cannot be read as an image ({reason[:200]})") from None


def _problem(path: Path, found: str) -> TransUNetError:
    remedy = "The file is damaged, cut short or of another format: copy or export it again"
    return Problem("unreadable", str(path), found, remedy).error()

"""Numbers of pictures that Pillow does not hold: colours of 16 bits, floats, any count of bands.

SimpleITK reads most of them, tifffile the rest. Both are believed only where
what they return is what the file's own header promises: SimpleITK drops bands of some TIFFs and
turns others into colours of 8 bits.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.data.formats.tiff import Page
from transunet.optional import require


def read_samples(
    path: Path, shape: tuple[int, int, int, int], dtype: np.dtype[Any], pages: Sequence[Page] = ()
) -> NDArray[Any] | None:
    """Return (pages, H, W, samples) as they are stored, or None if nothing here reads them so.

    Args:
        path: a PNG or TIFF.
        shape: what its header promises.
        dtype: likewise.
        pages: of a TIFF.

    Raises:
        ConfigError: without SimpleITK or tifffile.
    """
    # ITK turns some orientations, tells nobody, and makes 8 bits of tiles and planes.
    plain = all(page.in_strips and page.orientation == 1 for page in pages)
    read = _by_itk(path) if plain else None
    if read is not None and (read.size, read.dtype) == (int(np.prod(shape)), dtype):
        return read.reshape(shape)
    stacked = _by_tifffile(path, pages) if pages else None
    if stacked is not None and (stacked.shape, stacked.dtype) == (shape, dtype):
        return stacked
    return None


def _by_itk(path: Path) -> NDArray[Any] | None:
    itk = require("SimpleITK", extra="images")
    with suppress(RuntimeError):
        array: NDArray[Any] = itk.GetArrayFromImage(itk.ReadImage(str(path)))
        return array
    return None


def _by_tifffile(path: Path, pages: Sequence[Page]) -> NDArray[Any] | None:
    tifffile = require("tifffile", extra="images")
    try:
        with tifffile.TiffFile(path) as file:
            return np.stack([_samples_last(file.pages[page.index]) for page in pages])
    except MemoryError:
        raise
    except Exception:  # damaged in any way, or compressed as only further packages read it
        return None


def _samples_last(page: Any) -> NDArray[Any]:
    array: NDArray[Any] = page.asarray()
    array = np.moveaxis(array, 0, -1) if page.axes.startswith("S") else array
    return array.reshape(page.imagelength, page.imagewidth, -1)

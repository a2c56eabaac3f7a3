"""Photographs and masks (PNG, JPEG, TIFF, BMP) through Pillow, SimpleITK and tifffile.

An image of H x W pixels becomes a volume (C, H, W, 1) on an identity affine: its first axis runs
down the rows, and a pixel counts as one millimetre. It is read as viewers show it, turned as its
orientation tag (EXIF, TIFF) says; so are masks, and label maps are written upright, without a tag.
The pages of a TIFF become the third axis, or channels where OME-TIFF or ImageJ call them so.

Pillow does not hold colours of 16 bits, floats and more bands than colours have. SimpleITK reads
most of them, tifffile the rest. Both are believed only where what they return is what the file's
own header promises: SimpleITK drops bands of some TIFFs and turns others into colours of 8 bits.
"""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.data.checks.problems import Problem
from transunet.data.formats import tiff
from transunet.data.formats.volume_format import VolumeFormat, reading, unreadable
from transunet.data.volume import Grid, Volume
from transunet.errors import ConfigError, first_line
from transunet.optional import require

COLOUR = 1 << 24
"""Added to 0xRRGGBB for the label value of a coloured pixel; a grey one's is its brightness."""
JPEG = frozenset({".jpg", ".jpeg"})
"""Suffixes of a format that is not exact."""

_PAGES = {".tif", ".tiff"}
# Pillow's modes of one number per pixel; any other is turned into RGB.
_GREY = {"L", "I", "F", "I;16", "I;16L", "I;16B"}
_ORIENTATION = 0x0112  # the EXIF tag
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_BANDS = {2: (3, 3), 4: (2, 1), 6: (4, 3)}  # kind -> numbers per pixel, those of colours
_UPRIGHT: Mapping[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored.swapaxes(0, 1), 2),
    8: np.rot90,
}
"""Orientation tag -> stored (H, W, C) turned as it is shown."""


@dataclass(frozen=True)
class PictureHeader:
    """What a picture's file tells before its pixels are read."""

    pages: tuple[tiff.Page, ...]
    """Of one size and kind; one, but of a TIFF."""
    axes: tuple[tuple[str, int], ...]
    """What its pages run along, slowest first."""
    channels: int
    """Without transparency."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers of a pixel."""
        return self.pages[0].dtype

    @property
    def orientation(self) -> int:
        """1 to 8, as EXIF counts them; 1 is upright already."""
        return self.pages[0].orientation

    @property
    def white(self) -> float | None:
        """The number of full brightness; None for floats and more than 16 bits, which have none."""
        return {"|u1": 255.0, "u2": 65535.0}.get(self.dtype.str.lstrip("<>"))

    @property
    def is_turned(self) -> bool:
        """Whether its orientation tag turns it by a quarter."""
        return self.orientation >= 5


def read(path: Path) -> Volume:
    """Read an image: one channel for grey, three for colours, else one per band, without alpha.

    Raises:
        ConfigError: without Pillow, SimpleITK or tifffile, where one of them is needed.
        DataError: when the file is damaged.
    """
    return _read(path, _intensities, lambda bands: bands)


def read_labels(path: Path) -> Volume:
    """Read a mask: indices, brightness, or `COLOUR` + 0xRRGGBB where it has colours.

    The indices of a palette count, unless it holds greys only: then a pixel's brightness does. A
    JPEG is not exact: a black-and-white one is rounded to 0 and 255, another is a `DataError`.
    """
    volume = _read(path, _indices, _indices_of_bands)
    if path.suffix.lower() not in JPEG:
        return volume
    # Compression moves black and white by a few steps, more along edges; a third grey is another
    # class.
    page = volume.array
    between = int(((page > 64) & (page < 191)).sum() + (page > 255).sum())
    if between > 0.02 * page.size:
        remedy = "Export the mask from its source as PNG"
        found = "JPEG changes values, so a JPEG mask can only be black and white; this one is not"
        raise Problem("jpeg-mask", str(path), found, remedy).error()
    return volume.with_array(np.where(page > 127, 255, 0).astype(np.uint8))


def has_shape_in_alpha(path: Path) -> bool:
    """Whether the transparency of a picture, which is not read, differs from pixel to pixel."""
    with _opened(path) as image:
        if not image.mode.endswith("A"):
            return False
        low, high = image.getchannel("A").getextrema()
        return bool(low < high)


def read_grid(path: Path) -> Grid:
    """Read the size as shown, without the pixels."""
    header = read_header(path)
    slices = int(np.prod([size for axis, size in header.axes if axis != "C"]))
    height, width = header.pages[0].height, header.pages[0].width
    rows, columns = (width, height) if header.is_turned else (height, width)
    return Grid((rows, columns, slices), np.eye(4), str(path))


def channels_in(path: Path) -> int:
    """Return how many channels a file has, from its header."""
    return read_header(path).channels


def read_header(path: Path) -> PictureHeader:
    """Read what the file tells before its pixels; errors as `read`."""
    with _reading(path), path.open("rb") as file:
        start = file.read(26)
    if start.startswith(tiff.MAGIC):
        with _reading(path):
            first, *_ = pages = tuple(tiff.pages_of(path))
        if len({(page.height, page.width, page.samples, page.dtype) for page in pages}) > 1:
            raise unreadable(path, "its pages differ in size or colours")
        bands, axes = len(first.bands), tiff.page_axes(first, len(pages))
        if first.fits_pillow:
            bands = 1 if bands == 1 else 3
            if first.meaning == tiff.PALETTE:
                with _opened(path) as image:
                    bands = 1 if _is_grey(_palette(image)) else 3
        return PictureHeader(pages, axes, bands * dict(axes).get("C", 1))
    with _opened(path) as image:
        mode, (width, height) = image.mode, image.size
        grey = mode in _GREY | {"1", "LA"} or (mode == "P" and _is_grey(_palette(image)))
        orientation = _orientation(image, path)
    depth, kind = (start[24], start[25]) if start.startswith(_PNG) else (8, 0)
    deep_colours = depth == 16 and kind in _PNG_BANDS
    samples, colours = _PNG_BANDS[kind] if deep_colours else (0, 1 if grey else 3)
    dtype, bands_of_page = np.dtype(np.uint16 if depth == 16 else np.uint8), tuple(range(colours))
    page = tiff.Page(
        None, height, width, dtype, samples, bands_of_page, orientation, not deep_colours
    )
    return PictureHeader((page,), (("Z", 1),), colours)


def write(volume: Volume, path: Path) -> None:
    """Write a label map (uint8, uint16), colours (three channels of uint8), or floats (TIFF).

    Raises:
        ConfigError: for JPEG, which is not exact, several slices in another format than TIFF, or
            other numbers.
    """
    suffix, dtype, slices = path.suffix.lower(), volume.array.dtype, volume.spatial_shape[2]
    if suffix in JPEG:
        raise ConfigError(
            f"{path}: JPEG changes values a little, so no labels are written to it. Use PNG."
        )
    if slices > 1 and suffix not in _PAGES:
        raise ConfigError(
            f"{path}: {volume.name} has {slices} slices, an image of this format has one. Write it "
            "as TIFF or NIfTI."
        )
    pages = np.ascontiguousarray(np.moveaxis(volume.array, (3, 0), (0, -1)))  # (Z, H, W, C)
    pages = pages[..., 0] if volume.channels == 1 else pages
    if dtype == np.float32 and suffix in _PAGES:  # each pixel with all of its channels
        colours = "rgb" if volume.channels == 3 else "minisblack"
        planes = "contig" if volume.channels > 1 else None
        require("tifffile", extra="images").imwrite(
            path, pages, photometric=colours, planarconfig=planes, metadata=None
        )
        return
    if (volume.channels, dtype.name) not in ((1, "uint8"), (1, "uint16"), (3, "uint8")):
        raise ConfigError(
            f"{path}: an image holds one channel of uint8 or uint16 or three of uint8, found "
            f"{volume.channels} of {dtype}. Write it as NIfTI."
        )
    pillow = require("PIL.Image", extra="images")
    first, *others = [pillow.fromarray(np.ascontiguousarray(page)) for page in pages]
    first.save(path, **({"save_all": True, "append_images": others} if others else {}))


def _orientation(image: Any, path: Path) -> int:
    """1 to 8, as EXIF counts."""
    with suppress(Exception):  # of the tag alone
        if image.format != "PNG":
            exif = image.getexif()
        else:  # the chunk eXIf may stand behind the pixels, and Pillow would read them all
            exif = require("PIL.Image", extra="images").Exif()
            with path.open("rb") as file:
                file.seek(len(_PNG))
                while len(start := file.read(8)) == 8:
                    length = int.from_bytes(start[:4], "big")
                    if start[4:] == b"eXIf":
                        exif.load(file.read(length))
                        break
                    file.seek(length + 4, 1)
        value = int(exif.get(_ORIENTATION, 1))
        return value if value in _UPRIGHT else 1
    return 1


def _palette(image: Any) -> NDArray[np.uint8]:
    """(colours, 3), without reading the pixels."""
    small = require("PIL.Image", extra="images").new("P", (1, 1))
    small.putpalette(image.palette.palette, image.palette.rawmode or image.palette.mode)
    return np.reshape(np.array(small.getpalette("RGB"), np.uint8), (-1, 3))


def _is_grey(palette: NDArray[np.uint8]) -> bool:
    return bool((palette == palette[:, :1]).all())


def _read(
    path: Path,
    of_image: Callable[[Any], NDArray[Any]],
    of_bands: Callable[[NDArray[Any]], NDArray[Any]],
) -> Volume:
    """Read every page, of an image of Pillow's or of all bands (pages, H, W, C)."""
    header = read_header(path)
    first = header.pages[0]
    try:
        if first.fits_pillow:
            shown = []
            with _opened(path) as image:
                for page in header.pages:
                    if page.index is not None:
                        image.seek(page.index)
                        if page.orientation != 1:
                            image.load()  # late versions of Pillow turn a TIFF, without the tag
                            require("PIL.ImageOps", "images").exif_transpose(image, in_place=True)
                    pixels = of_image(image)
                    pixels = pixels.reshape(*pixels.shape[:2], -1)  # (H, W, C)
                    if page.index is None:
                        pixels = _UPRIGHT[page.orientation](pixels)
                    shown.append(pixels)
            pages = np.stack(shown)
        else:
            pages = of_bands(_bands(path, header))
        return Volume(tiff.along_axes(pages, header.axes), np.eye(4), str(path), header)
    except MemoryError:
        found = f"its {first.height} x {first.width} pixels do not fit into the memory"
        remedy = "Cut it into tiles, shrink it, or use a machine with more memory"
        raise Problem("too-large", str(path), found, remedy).error() from None


def _bands(path: Path, header: PictureHeader) -> NDArray[Any]:
    """(pages, H, W, C), upright, of what Pillow does not hold."""
    first, samples = header.pages[0], None
    shape = (len(header.pages), first.height, first.width, first.samples)
    is_tiff = first.index is not None
    # ITK turns some orientations, tells nobody, and makes 8 bits of tiles and planes.
    if not is_tiff or all(page.in_strips and page.orientation == 1 for page in header.pages):
        itk = require("SimpleITK", extra="images")
        with suppress(RuntimeError):
            samples = itk.GetArrayFromImage(itk.ReadImage(str(path)))
    if samples is not None and (samples.size, samples.dtype) == (np.prod(shape), first.dtype):
        samples = samples.reshape(shape)
    else:
        samples = tiff.samples_of(path, header.pages) if is_tiff else None
    if samples is None or (samples.shape, samples.dtype) != (shape, first.dtype):
        kind = "complex numbers" if first.dtype.kind == "V" else f"{first.dtype} per pixel"
        found = (
            f"it holds {first.samples} {kind}, in a form of this format that is not read here, or "
            "it is cut short"
        )
        remedy = "Save it as TIFF without compression and tiles, as NRRD, or as a file per channel"
        raise unreadable(path, found, remedy)
    if first.meaning == tiff.WHITE_IS_ZERO and header.white:
        samples = np.asarray(header.white - samples, dtype=first.dtype)
    return np.stack([_UPRIGHT[first.orientation](page) for page in samples[..., first.bands]])


def _intensities(image: Any) -> NDArray[Any]:
    if image.mode == "La":  # brightness multiplied with the transparency
        return np.asarray(image.convert("LA").convert("L"))
    if image.mode in {"1", "LA"} or (image.mode == "P" and _is_grey(_palette(image))):
        return np.asarray(image.convert("L"))
    return np.asarray(image if image.mode in _GREY else image.convert("RGB"))


def _indices(image: Any) -> NDArray[Any]:
    if image.mode == "P":
        indices, palette = np.asarray(image), _palette(image)
        used, greys = np.unique(indices), palette[:, 0]
        # A palette of greys, each for one index, is a way to store a grey mask.
        if _is_grey(palette) and used[-1] < len(greys) and len({*greys[used]}) == len(used):
            return np.asarray(greys[indices])
        return indices
    if image.mode in _GREY | {"1"}:
        return np.asarray(image)
    if image.mode in {"LA", "La"}:
        return _intensities(image)
    return _packed(np.asarray(image.convert("RGB")))


def _packed(colours: NDArray[Any]) -> NDArray[Any]:
    """(..., 3) of up to 255 -> brightness where it is grey, else `COLOUR` + 0xRRGGBB."""
    red, green, blue = np.moveaxis(colours.astype(np.uint32), -1, 0)
    grey = (red == green) & (green == blue)
    packed: NDArray[np.uint32] = COLOUR + (red << 16) + (green << 8) + blue
    return np.where(grey, red, packed)


def _indices_of_bands(bands: NDArray[Any]) -> NDArray[Any]:
    """Colours of 16 bits that are grey, or have 8 bits of meaning, as such; the rest as it is."""
    if bands.shape[-1] != 3 or bands.dtype != np.uint16:
        return bands
    if (bands == bands[..., :1]).all():
        return bands[..., :1]
    return _packed(bands // 257)[..., None] if not (bands % 257).any() else bands


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Damage as one error; a `MemoryError` is no sign of it, a picture may be large."""

    def reason(error: Exception) -> str:
        return re.sub(r"\s*<_io[^>]*>", "", first_line(error))

    with (
        reading(path, "an image", reason_of=reason, but=(MemoryError,)),
        warnings.catch_warnings(action="ignore"),  # Pillow warns of damage before it raises it
    ):
        yield


_readers = 0
_limit: int | None = None
_lock = Lock()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a picture of any size: a slide is large, and the server has its own limit.

    The limit is Pillow's global one, so the last of several readers puts it back.
    """
    global _readers, _limit
    pillow: Any = require("PIL.Image", extra="images")
    with _lock:
        if not _readers:
            _limit, pillow.MAX_IMAGE_PIXELS = pillow.MAX_IMAGE_PIXELS, None
        _readers += 1
    try:
        # A file's name lets Pillow map it into memory; then it mixes up the rows of a turned TIFF.
        with _reading(path), path.open("rb") as file, pillow.open(file) as image:
            yield image
    finally:
        with _lock:
            _readers -= 1
            if not _readers:
                pillow.MAX_IMAGE_PIXELS = _limit


FORMAT = VolumeFormat(
    read=read,
    read_labels=read_labels,
    read_grid=read_grid,
    channels_in=channels_in,
    write=write,
    space="pixels",
    oriented=False,
    tells_space=lambda _: False,
    rank=1,  # beside volumes they are previews
    label_suffixes=dict.fromkeys((*JPEG, ".bmp"), ".png"),
    magic={
        ".png": rb"\x89PNG\r\n\x1a\n",
        ".jpg": rb"\xff\xd8\xff",
        ".tif": rb"II[*+]\0|MM\0[*+]",
    },
)

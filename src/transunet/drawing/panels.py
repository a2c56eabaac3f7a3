"""One slice as it is drawn: the image, the labels on it, which side is which.

Arrays are those of a volume that was reoriented to RAS (or to `AS_STORED`, a picture without a
patient).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.colours import colour_of
from transunet.data.formats import known_format
from transunet.data.volume import Grid, Volume, orientation_change
from transunet.drawing.contours import loops
from transunet.drawing.figures import add_text, halo
from transunet.optional import require

PLANES = ("sagittal", "coronal", "axial")
"""What the slices across each axis of RAS are called."""
LETTERS = (("A", "P", "S", "I"), ("R", "L", "S", "I"), ("R", "L", "A", "P"))
"""Per plane, what lies left, right, at the top and at the bottom of the picture."""
AS_STORED = "PLS"
"""On an identity affine, rows run along R and columns along A. Axes in this order come out of
`plane` as they are stored."""

Picture = NDArray[np.uint8]
Window = tuple[float, float]
"""The intensities that become black and white."""
Cut = tuple[slice, slice]
"""Rows and columns of a slice."""

_THICK = 1.5
"""Times the other voxel edges: an axis of so much thicker slices is the one to leaf through."""
_MARGIN = 0.25  # of the structures' extent, shown around them
_LEAST_MARGIN = 12  # pixels
_PERCENTILES = (0.5, 99.5)  # of the intensities that become black and white
_MOST_PIXELS = 768  # per side; larger slices are thinned out
_TEXT: Mapping[str, Any] = {"color": "white", "fontsize": 7, "ha": "center", "va": "center"}


@dataclass(frozen=True)
class Panel:
    """A slice as it is drawn: rows from top to bottom, columns from left to right."""

    picture: Picture | None
    """(H, W) grey or (H, W, 3) RGB."""
    labels: NDArray[np.integer[Any]]
    """(H, W)."""
    pixel_mm: tuple[float, float]
    """Height and width of a pixel."""
    letters: tuple[str, str, str, str] | None = None
    """Directions left, right, top and bottom; None for a picture without a patient."""
    title: str = ""

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width."""
        height, width = self.labels.shape
        return height * self.pixel_mm[0], width * self.pixel_mm[1]

    @property
    def values(self) -> tuple[int, ...]:
        """The labels that are in it, without the background."""
        return tuple(int(value) for value in np.unique(self.labels) if value)


def tells_space(path: Path) -> bool:
    """Whether a file's format knows voxel sizes and how the patient lies."""
    known = known_format(path)
    return known is None or known.oriented


def orientation_for(oriented: bool) -> str:
    """The orientation in which slices are drawn: as radiologists look at them, or as stored."""
    return "RAS" if oriented else AS_STORED


def panel_of(
    image: Volume | None,
    labels: Volume,
    axis: int,
    index: int,
    *,
    oriented: bool,
    cut: Cut | None = None,
    window: Window | None = None,
    title: str = "",
) -> Panel:
    """Return a slice of volumes that were reoriented to `orientation_for(oriented)`."""
    values = plane(labels.array[0], axis, index)
    rows, columns = cut or (slice(0, values.shape[0]), slice(0, values.shape[1]))
    step = -(-max(rows.stop - rows.start, columns.stop - columns.start) // _MOST_PIXELS)
    cut = slice(rows.start, rows.stop, step), slice(columns.start, columns.stop, step)
    width, height = (size for other, size in enumerate(labels.spacing_mm) if other != axis)
    return Panel(
        picture=None if image is None else picture(image, axis, index, cut, window),
        labels=values[cut],
        pixel_mm=(height * step, width * step),
        letters=LETTERS[axis] if oriented else None,
        title=title,
    )


def leafed_axis(volume: Volume) -> int:
    """The axis to leaf through: a flat one, else one of much thicker slices, else head to feet."""
    if min(volume.spatial_shape) == 1:
        return max(axis for axis, n in enumerate(volume.spatial_shape) if n == 1)
    spacing = np.asarray(volume.spacing_mm)
    thickest = int(spacing.argmax())
    return thickest if spacing[thickest] >= _THICK * np.delete(spacing, thickest).max() else 2


def plane(array: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """A plane of a RAS array as a picture: the patient's right (or front) is on the left."""
    turned: NDArray[Any] = np.take(array, index, axis=axis).T[::-1, ::-1]
    return turned


def plane_of(grid: Grid, codes: str, axis: int, index: int) -> tuple[int, int]:
    """Return axis and index, after reorienting to `codes`, of a slice of the array as stored."""
    turned = grid.axes_in(codes).index(axis)
    flipped = orientation_change(grid.affine, codes)[axis, 1] < 0
    return turned, grid.spatial_shape[axis] - 1 - index if flipped else index


def pixel_of(grid: Grid, codes: str, axis: int, voxel: Sequence[int]) -> tuple[int, int]:
    """Return row and column, in the picture of the slice across the stored `axis`, of a voxel."""
    turned, _ = plane_of(grid, codes, axis, 0)
    position = [0, 0, 0]
    for stored, value in enumerate(voxel):
        to, index = plane_of(grid, codes, stored, int(value))
        position[to] = grid.spatial_shape[stored] - 1 - index  # a picture's axes run the other way
    column, row = (index for to, index in enumerate(position) if to != turned)
    return row, column


def around(foreground: NDArray[np.bool_]) -> Cut:
    """Rows and columns around the structures; all of them where there is none."""
    cut = []
    for axis, size in enumerate(foreground.shape):
        indices = np.flatnonzero(foreground.any(axis=1 - axis))
        first, last = (int(indices[0]), int(indices[-1]) + 1) if indices.size else (0, size)
        margin = max(_LEAST_MARGIN, round(_MARGIN * (last - first)))
        cut.append(slice(max(first - margin, 0), min(last + margin, size)))
    rows, columns = cut
    return rows, columns


def picture(
    image: Volume, axis: int, index: int, cut: Cut, window: Window | None = None
) -> Picture:
    """Return a slice as it is drawn: (H, W) grey, or (H, W, 3) RGB of a flat image of 3 channels.

    Args:
        image: reoriented.
        axis: the axis that is leafed through.
        index: the slice.
        cut: its rows and columns that are drawn.
        window: the intensities that become black and white; from the picture's own without it.
    """
    colour = image.channels == 3 and image.spatial_shape[axis] == 1
    channels = image.array if colour else image.array[:1]
    planes = [plane(channel, axis, index)[cut] for channel in channels]
    values = np.stack(planes, axis=-1) if colour else planes[0]
    low, high = window or window_of(values)
    scaled = (np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-12)
    return np.asarray(np.clip(scaled, 0, 1) * 255, dtype=np.uint8)


def window_of(values: NDArray[Any]) -> Window:
    """Return the intensities that leave out only the darkest and brightest 0.5 %."""
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, _PERCENTILES) if finite.size else (0.0, 0.0)
    return float(low), float(high)


def draw_panel(
    axes: Any,
    panel: Panel,
    *,
    opacity: float = 0.3,
    line: float = 1.0,
    interpolation: str = "bilinear",
) -> None:
    """Draw a panel into matplotlib axes, in millimetres."""
    high, wide = set_extent(axes, panel)
    axes.set_facecolor("black")
    for spine in axes.spines.values():
        spine.set_visible(False)
    if panel.picture is not None:
        grey = {} if panel.picture.ndim == 3 else {"cmap": "gray", "vmin": 0, "vmax": 255}
        axes.imshow(panel.picture, extent=(0, wide, high, 0), interpolation=interpolation, **grey)
    for value in panel.values:
        add_outline(axes, panel, panel.labels == value, colour_of(value - 1), opacity, line)
    places = ((0.04, 0.5), (0.96, 0.5), (0.5, 0.96), (0.5, 0.04))
    for letter, (x, y) in zip(panel.letters, places, strict=True) if panel.letters else ():
        add_text(axes, x, y, letter, transform=axes.transAxes, path_effects=[halo(1.2)], **_TEXT)
    axes.set_title(panel.title, fontsize=8, pad=3, parse_math=False)


def set_extent(axes: Any, panel: Panel) -> tuple[float, float]:
    """Let axes measure a panel in millimetres, rows from top to bottom; return height and width."""
    high, wide = panel.size_mm
    axes.set(xlim=(0, wide), ylim=(high, 0), xticks=[], yticks=[], aspect="equal")
    return high, wide


def add_outline(
    axes: Any,
    panel: Panel,
    mask: NDArray[np.bool_],
    colour: str,
    opacity: float,
    line: float,
    dashes: tuple[float, float] | None = None,
) -> None:
    """Draw a mask (H, W) along its pixels' edges, filled as densely as `opacity` says."""
    paths = require("matplotlib.path", "train").Path
    outlines = [paths([*loop, loop[0]], closed=True) for loop in loops(mask)]
    if not outlines:
        return
    whole = paths.make_compound_path(*outlines)
    height, width = panel.pixel_mm
    axes.add_artist(  # `add_patch` would measure the limits, which are set, and take as long again
        require("matplotlib.patches", "train").PathPatch(
            paths(whole.vertices * (width, height), whole.codes),
            facecolor=require("matplotlib.colors", "train").to_rgba(colour, opacity),
            edgecolor=colour,
            linewidth=line,
            linestyle=(0, dashes) if dashes else "solid",
        )
    )


def without_labels(panel: Panel) -> Panel:
    """Return the same slice with nothing labelled."""
    return replace(panel, labels=np.zeros_like(panel.labels))

"""One slice as it is drawn: the image, the labels on it, which side is which."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.data.formats import known_format
from transunet.data.volume import Volume
from transunet.drawing.colours import colour_of
from transunet.drawing.contours import loops
from transunet.drawing.figures import add_text, halo
from transunet.drawing.planes import (
    AS_STORED,
    LETTERS,
    Cut,
    Picture,
    Window,
    picture,
    pixel_mm,
    plane,
    thinned,
)
from transunet.optional import require

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
    whole = slice(0, values.shape[0]), slice(0, values.shape[1])
    cut, step = thinned(cut or whole, _MOST_PIXELS)
    height, width = pixel_mm(labels, axis)
    return Panel(
        picture=None if image is None else picture(image, axis, index, cut, window),
        labels=values[cut],
        pixel_mm=(height * step, width * step),
        letters=LETTERS[axis] if oriented else None,
        title=title,
    )


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

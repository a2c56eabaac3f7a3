"""The one way to matplotlib: figures without a window, texts as they are, files written whole."""

import base64
import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transunet.errors import ConfigError
from transunet.files import atomic_path, writing
from transunet.optional import require

SUFFIXES = (".png", ".svg", ".pdf")
_DPI = 110
_MOST_NAMES = 30  # in a legend; a map of thousands of objects would fill the page


def check_figure_path(path: Path) -> None:
    """Refuse a figure's path before any work is done for it.

    Raises:
        ConfigError: for another suffix than `SUFFIXES`, or without matplotlib.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: pictures are written as {', '.join(SUFFIXES)}.")
    require("matplotlib", "train")


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure of so many inches.

    Raises:
        ConfigError: without matplotlib.
    """
    figure = require("matplotlib.figure", "train").Figure(figsize=(width, height))
    require("matplotlib.backends.backend_agg", "train").FigureCanvasAgg(figure)
    return figure


def axes_at(figure: Any, left: float, top: float, wide: float, tall: float) -> Any:
    """Add axes to a figure, all in inches from its upper left corner."""
    width, height = figure.get_size_inches()
    return figure.add_axes(
        (left / width, (height - top - tall) / height, wide / width, tall / height)
    )


def save_figure(figure: Any, path: Path) -> Path:
    """Write a figure; it appears when it is complete.

    Raises:
        ConfigError: for another suffix than `SUFFIXES`, or a path that cannot be written.
    """
    check_figure_path(path)
    with writing(path), atomic_path(path) as scratch:
        _save(figure, scratch)
    return path


def shown_in_notebooks(figure: Any) -> Any:
    """Return a figure that notebooks show as the value of a cell; pyplot has no part in it."""

    def png() -> bytes:
        content = io.BytesIO()
        _save(figure, content)
        return content.getvalue()

    figure._repr_png_ = png
    return figure


def _save(figure: Any, target: Path | io.BytesIO) -> None:
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(target, dpi=_DPI)


def svg_address(figure: Any) -> str:
    """Return a figure on transparent ground as the `data:` address of an SVG, for a page."""
    content = io.BytesIO()
    # No date and no chance in it: the same page for the same figures.
    with require("matplotlib", "train").rc_context({"svg.hashsalt": "transunet"}):
        figure.savefig(content, format="svg", facecolor="none", metadata={"Date": None})
    # Hundredths of a point are enough: outlines are most of what a page with pictures weighs.
    short = re.sub(rb"(\.\d\d)\d+| *\n *", lambda m: m[1] or b"\n", content.getvalue())
    return "data:image/svg+xml;base64," + base64.b64encode(short).decode("ascii")


def add_text(target: Any, x: float, y: float, text: str, **style: Any) -> None:
    """Write `text` on a figure or axes as it is: a name may hold a dollar sign."""
    target.text(x, y, text, parse_math=False, **style)


def halo(points: float) -> Any:
    """Return the path effect that puts so much black around white letters."""
    effects = require("matplotlib.patheffects", "train")
    return effects.withStroke(linewidth=points, foreground="black")


def add_legend(figure: Any, names: Mapping[str, str], **position: Any) -> None:
    """Add a legend of names and colours in one or several rows."""
    patch = require("matplotlib.patches", "train").Patch
    shown = dict(list(names.items())[:_MOST_NAMES])
    handles = [patch(facecolor=colour, edgecolor="black", linewidth=0.4, label=name)
               for name, colour in shown.items()]  # fmt: skip
    if len(names) > len(shown):
        more = f"and {len(names) - len(shown)} more"
        handles.append(patch(facecolor="none", edgecolor="none", label=more))
    legend = figure.legend(handles=handles, frameon=False, fontsize=9, handlelength=1.2, **position)
    for text in legend.get_texts():
        text.set_parse_math(False)

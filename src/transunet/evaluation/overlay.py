"""A case's picture: its image with the outlines of prediction and reference, as inline SVG."""

from collections.abc import Sequence

import numpy as np

from transunet.drawing.colours import colour_of as colour_of
from transunet.drawing.contours import outline
from transunet.drawing.png import png_data_uri
from transunet.evaluation.html_page import Markup, tag
from transunet.evaluation.overlay_views import Labels, View
from transunet.evaluation.records import Structure


def figure(view: View, structures: Sequence[Structure], note: str = "") -> Markup:
    """Draw a view: the reference as solid lines, the prediction filled with dashed lines."""
    height, width = view.prediction.shape
    row_mm, column_mm = view.pixel_mm
    # In pixels of one size: drawn in millimetres, so that thick slices keep their true shape.
    high, wide = height * row_mm, width * column_mm
    outlines = "".join(_outlines(view, one, colour_of(i)) for i, one in enumerate(structures))
    drawing = (
        f'<svg class="overlay" viewBox="0 0 {wide:.6g} {high:.6g}" role="img">'
        f'<g transform="scale({column_mm:.6g} {row_mm:.6g})">{_image(view)}{outlines}</g>'
        f"{_letters(view, wide, high)}</svg>"
    )
    caption = " · ".join(text for text in (view.caption, note) if text)
    return tag("figure", Markup(drawing), tag("figcaption", caption))


def legend() -> Markup:
    """Switches that show and hide the two kinds of outline, drawn as they are in the pictures."""
    return tag(
        "div",
        _switch(
            "show-reference", "reference", '<path d="M3 7H23" stroke="#4fc3f7" stroke-width="2"/>'
        ),
        _switch(
            "show-prediction",
            "prediction",
            '<rect x="3" y="3" width="20" height="8" fill="#4fc3f7" fill-opacity=".3" '
            'stroke="#4fc3f7" stroke-width="1.6" stroke-dasharray="4 3"/>',
        ),
        class_="switches",
    )


def _switch(name: str, label: str, drawing: str) -> Markup:
    # The box is checked from the start: without CSS :has, both outlines simply stay.
    box = Markup(f'<input type="checkbox" id="{name}" checked>')
    key = Markup(f'<svg class="key" viewBox="0 0 26 14" aria-hidden="true">{drawing}</svg>')
    return tag("label", box, key, label)


def _outlines(view: View, structure: Structure, colour: str) -> str:
    parts = []
    for kind, labels in (("prediction", view.prediction), ("reference", view.reference)):
        path = outline(_mask(labels, structure))
        fill = f' fill="{colour}"' if kind == "prediction" else ""
        if path:
            parts.append(f'<path class="{kind}" stroke="{colour}"{fill} d="{path}"/>')
    return "".join(parts)


def _mask(labels: Labels, structure: Structure) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return np.isin(labels, structure.values)


def _image(view: View) -> str:
    if view.image is None:
        return ""
    height, width = view.prediction.shape
    return (
        f'<image href="{png_data_uri(view.image)}" width="{width}" height="{height}" '
        'preserveAspectRatio="none"/>'
    )


def _letters(view: View, wide: float, high: float) -> str:
    if view.letters is None:
        return ""
    size = 0.05 * max(wide, high)
    places = [(size, high / 2), (wide - size, high / 2), (wide / 2, size), (wide / 2, high - size)]
    return "".join(
        f'<text x="{x:.4g}" y="{y:.4g}" font-size="{size:.4g}">{letter}</text>'
        for letter, (x, y) in zip(view.letters, places, strict=True)
    )

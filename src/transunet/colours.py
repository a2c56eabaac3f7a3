"""Which structure is drawn in which colour: in reports, sheets, on the page and in DICOM alike."""

import colorsys

_COLOURS = (
    "#4fc3f7", "#ffb74d", "#81c784", "#f06292", "#fff176", "#b39ddb", "#4dd0c4", "#ff8a65",
    "#aed581", "#ce93d8",
)  # fmt: skip
"""Bright enough for the black of medical images."""
_GOLDEN = 0.618034  # of a turn between one hue and the next: no two of them come close early


def levels_of(index: int) -> tuple[int, int, int]:
    """Red, green and blue of the structure at `index`, from 0, each 0 to 255."""
    red, green, blue = bytes.fromhex(colour_of(index)[1:])
    return red, green, blue


def colour_of(index: int) -> str:
    """Colour of the structure at `index`, from 0, as #rrggbb."""
    if index < len(_COLOURS):
        return _COLOURS[index]
    red, green, blue = colorsys.hls_to_rgb((index + 1) * _GOLDEN % 1, 0.62, 0.75)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"

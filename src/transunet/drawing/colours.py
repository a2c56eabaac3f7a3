"""Which structure is drawn in which colour, in reports, sheets and figures alike."""

_COLOURS = (
    "#4fc3f7", "#ffb74d", "#81c784", "#f06292", "#fff176", "#b39ddb", "#4dd0c4", "#ff8a65",
    "#aed581", "#ce93d8",
)  # fmt: skip
"""Bright enough for the black of medical images; they repeat after the tenth structure."""


def colour_of(index: int) -> str:
    """Colour of the structure at `index`."""
    return _COLOURS[index % len(_COLOURS)]

"""What the values of masks mean when no description says so: 0/255, numbers, or a colour per class.

A file `labels.json` in the data set's folder settles it: `{"background": 0, "nucleus": 255}`, or
`{"background": "#000000", "road": "#804080"}`. Without one the masks are looked through.
"""

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transunet.data.formats import read_labels
from transunet.data.formats.raster import COLOUR
from transunet.data.layouts import description
from transunet.data.problems import Problem
from transunet.errors import TransUNetError

LABELS = "labels.json"

MOST_CLASSES = 100
"""More values than this are no classes: a photograph, or a mask with soft edges."""

_LOOKED_THROUGH = 2000  # masks, evenly chosen; a value that only others hold is reported as unknown
_HEX = re.compile(r"#[0-9a-f]{6}", re.IGNORECASE)


@dataclass(frozen=True)
class Meaning:
    """Class index -> name, and value -> class index where they differ."""

    labels: dict[int, str]
    values: dict[int, int]
    notes: tuple[Problem, ...] = ()


def meaning(folder: Path, masks: Sequence[Path]) -> Meaning:
    """Return what the values mean: as `labels.json` says, else as found in `masks`.

    Raises:
        DataError: when `labels.json` is wrong, or the masks hold no foreground or too many values.
    """
    path = folder / LABELS
    if path.is_file():
        return Meaning(*description.classes(path, _listed(path), as_listed=True))
    values = found_in(masks)
    foreground = sorted(values - {0})
    if not foreground:
        found = f"none of its {len(masks)} masks holds anything but background"
        raise Problem("no-foreground", str(folder), found, "Check that these are the masks").error()
    if len(foreground) > MOST_CLASSES:
        raise _too_many(folder, len(foreground))
    labels, indices = description.classes(path, {0: "background", **_names(foreground)})
    return Meaning(labels, indices, tuple(_notes(folder, foreground)))


def found_in(masks: Sequence[Path]) -> set[int]:
    """Return the values in (at most 2000, evenly chosen) masks; unreadable ones hold none."""
    step = -(-len(masks) // _LOOKED_THROUGH) or 1
    with ThreadPoolExecutor(
        4
    ) as pool:  # decoding waits for the disk, and lets go of the interpreter
        return set().union(*pool.map(_values, masks[::step]))


def _values(path: Path) -> set[int]:
    try:
        return set(np.unique(read_labels(path).array).tolist())
    except TransUNetError:
        return set()  # missing or damaged: reading the case will tell


def _names(foreground: list[int]) -> dict[int, str]:
    if foreground in ([1], [255]):
        return {foreground[0]: "foreground"}
    return {v: f"#{v - COLOUR:06x}" if v >= COLOUR else f"class {v}" for v in foreground}


def _notes(folder: Path, foreground: list[int]) -> list[Problem]:
    if 255 not in foreground or len(foreground) == 1 or foreground[-1] >= COLOUR:
        return []
    found = "beside other values the masks hold 255, often for 'void'; here it is a class"
    remedy = f"If it is none, replace it by 0 in the masks, or map it to a class in {LABELS}"
    return [Problem("255-label", str(folder), found, remedy, "warning")]


def _too_many(folder: Path, count: int) -> TransUNetError:
    found = (
        f"its masks hold {count} different values; expected one per class, at most {MOST_CLASSES}"
    )
    remedy = (
        "Soft edges (from scaling or JPEG) make such values: export the masks without smoothing, "
        "as PNG. "
        f"If they really are classes, list them in {LABELS}"
    )
    return Problem("too-many-labels", str(folder), found, remedy).error()


def _listed(path: Path) -> dict[int, str]:
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise description.wrong(path, f"it is not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise description.wrong(
            path, "expected an object such as {'background': 0, 'nucleus': 255}"
        )
    names = {_value(path, value): str(name) for name, value in content.items()}
    if len(names) < len(content):
        raise description.wrong(path, "two classes have the same value")
    return names


def _value(path: Path, value: Any) -> int:
    if type(value) is int and value >= 0:
        return value
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise description.wrong(path, f"expected a number or a colour '#rrggbb', found {value!r}")
    colour = int(value[1:], 16)
    red, green, blue = colour >> 16, colour >> 8 & 255, colour & 255
    return red if red == green == blue else COLOUR + colour

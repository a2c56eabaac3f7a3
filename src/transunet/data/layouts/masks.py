"""What the values of masks mean when no description says so: 0/255, numbers, or a colour per class.

A file `labels.json` in the data set's folder settles it: `{"background": 0, "nucleus": 255}`, or
`{"background": "#000000", "road": "#804080"}`. With `regions_class_order` beside its classes it has
regions, as nnU-Net's `dataset.json`. Without such a file the masks are looked through.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from transunet.data.cases import Case, file_problems
from transunet.data.checks.problems import Problem, problem_of
from transunet.data.formats import known_format, raster, read_labels, stem_of
from transunet.data.formats.raster import COLOUR
from transunet.data.layouts import description
from transunet.data.text import some
from transunet.errors import ConfigError, TransUNetError

LABELS = "labels.json"
MOST_CLASSES = 100
"""More values than this are no classes: a photograph, or a mask with soft edges."""

_MANY_CLASSES = 20  # from here on, numbers with gaps are more likely soft edges
_SAMPLED = 2000  # masks, evenly chosen; a value that only others hold is reported as unknown
_FOREGROUND = frozenset({1, 255, 65535})  # how masks of one class write it
_NOISE = 32  # how far JPEG takes black and white from 0 and 255
_BLUR_VALUES = 4  # different values in each half of the greys that a blurred edge has at least
_IF_CLASSES = f"If these are several classes, list their values in {LABELS}"


def meaning(folder: Path, masks: Sequence[Path], unused: Sequence[Path] = ()) -> description.Labels:
    """Return what the values mean: as `labels.json` says, else as found in `masks`.

    Args:
        folder: the data set.
        masks: those of its cases; some may not be there. Of more than 2000 some are looked through.
        unused: masks that belong to no image, for errors.

    Raises:
        ConfigError: when reading the masks needs a package that is not installed.
        DataError: when `labels.json` is wrong, no mask could be read, or they hold no foreground or
            too many values.
    """
    path, listed = folder / LABELS, None
    if path.is_file():
        content = _listed(path)
        if regions := _listed_regions(path, content):
            return regions
        classes = description.classes(path, _listed_values(path, content), as_listed=True)
        listed = description.Labels(*classes)
        if len(listed.names) > 2 or set(listed.indices) - {0, 255}:
            return listed
    chosen = masks[:: -(-len(masks) // _SAMPLED) or 1]
    with ThreadPoolExecutor(4) as pool:  # decoding waits for the disk, without the interpreter
        counted = dict(zip(chosen, pool.map(_pixels_by_value, chosen), strict=True))
    pixels = {path: result for path, result in counted.items() if isinstance(result, Counter)}
    total = Counter[int]()
    for pixels_of_mask in pixels.values():
        total.update(pixels_of_mask)
    single = _one_class(folder, pixels, total)
    if listed:
        return single._replace(names=listed.names) if single else listed
    if single:
        return single
    foreground = sorted(set(total) - {0})
    if not foreground:
        unread = [problem for problem in counted.values() if isinstance(problem, Problem)]
        raise _no_foreground(folder, [*pixels], unread, unused)
    if len(foreground) > MOST_CLASSES:
        found = (
            f"its masks hold {len(foreground)} different values; expected one per class, at most "
            f"{MOST_CLASSES}"
        )
        remedy = (
            "Soft edges (from scaling or JPEG) make such values: export the masks without "
            f"smoothing, as PNG. If they really are classes, list them in {LABELS}"
        )
        raise Problem("too-many-labels", str(folder), found, remedy).error()
    names = {v: f"#{v - COLOUR:06x}" if v >= COLOUR else f"class {v}" for v in foreground}
    notes = []
    if foreground[-1] >= COLOUR:
        shares = [(total[v] / total.total(), name) for v, name in names.items()]
        colours = some([f"{name} ({share:.2%} of the pixels)" for share, name in shares], 12)
        found = f"the masks are coloured, each colour is a class: {colours}"
        remedy = f"Name them in {LABELS}; a colour of a few pixels is often a soft edge"
        notes.append(Problem("coloured-masks", str(folder), found, remedy, "warning"))
    elif 255 in foreground and len(foreground) > 1:
        found = "beside other values the masks hold 255, often for 'void'; here it is a class"
        remedy = f"If it marks what nobody labelled: --ignore 255, or 'ignore': 255 in {LABELS}"
        notes.append(Problem("255-label", str(folder), found, remedy, "warning"))
    if len(foreground) > _MANY_CLASSES and len(foreground) < foreground[-1] < COLOUR:
        found = (
            f"the masks hold {len(foreground)} values beside 0, and each is a class; smoothing and "
            "JPEG make such values along edges"
        )
        remedy = (
            "If there are fewer classes, export the masks without smoothing, as PNG; else list "
            f"them in {LABELS}"
        )
        notes.append(Problem("many-labels", str(folder), found, remedy, "warning"))
    classes = description.classes(folder, {0: "background", **names})
    return description.Labels(*classes, notes=tuple(notes))


def has_soft_edges(pixels: Counter[int]) -> bool:
    """Whether grey between 0 and 255 is the blur of an edge or JPEG's noise, and no classes.

    Blur fills both halves with many values and few pixels; noise keeps close to both ends, where no
    data set numbers its classes: above 223 at most 255 ("void") is one.

    Args:
        pixels: value -> how many pixels have it, of one mask or several.
    """
    if max(pixels, default=0) > 255:
        return False
    between = [value for value in pixels if 0 < value < 255]
    dark, bright = (sum(v <= 127 for v in between), sum(v > 127 for v in between))
    near_black = [count for value, count in pixels.items() if value <= _NOISE]
    near_white = sum(count for value, count in pixels.items() if value >= 255 - _NOISE)
    middle = pixels.total() - sum(near_black) - near_white
    one_background = 2 * max(near_black, default=0) > sum(near_black)
    many = min(dark, bright) >= _BLUR_VALUES
    if len(between) > MOST_CLASSES:  # no classes in any case; thin structures may be mostly edge
        middle //= 2
    few_but_close = middle == 0 and min(dark, bright) > 0
    return one_background and middle < near_white and (many or few_but_close)


def _pixels_by_value(path: Path) -> Counter[int] | Problem:
    """Value -> how many pixels of a mask have it, or why it cannot be read."""
    for problem in file_problems(Case(stem_of(path), (), path)):
        return problem
    try:
        values, counts = np.unique(read_labels(path).array, return_counts=True)
    except ConfigError:
        raise  # a package is missing: no problem of the data
    except TransUNetError as error:
        return problem_of(error, str(path))
    return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))


def _one_class(
    folder: Path, pixels: Mapping[Path, Counter[int]], total: Counter[int]
) -> description.Labels | None:
    """What masks mean that tell one class from the background, however they write it.

    The foreground may be 1, 255 or (in 16 bits) 65535, another in other files. Between 0 and 255
    there may be the soft edges that JPEG or smoothing leave; half of 255 decides. None where the
    values are several classes, or one with another number.
    """
    labels = {0: "background", 1: "foreground"}
    foreground = sorted(set(total) - {0})
    soft, notes = "", []
    if (
        foreground
        and _FOREGROUND.issuperset(foreground)
        and max(len(set(values) - {0}) for values in pixels.values()) == 1
    ):
        values = {} if foreground == [1] else {0: 0, **dict.fromkeys(foreground, 1)}
        written = Counter(max(values) for values in pixels.values() if max(values))
        if len(written) > 1:
            counts = ", ".join(f"{n} masks {value}" for value, n in sorted(written.items()))
            found = (
                f"the foreground is not the same number in all masks ({counts}); all are class 1"
            )
            notes.append(Problem("mixed-foreground", str(folder), found, _IF_CLASSES, "warning"))
        if jpeg := sum(path.suffix.lower() in raster.JPEG for path in pixels):
            soft = f"{jpeg} masks are JPEG, which changes values along edges"
    elif has_soft_edges(total):
        values = {v: int(v > 127) for v in range(256)}
        soft = f"the masks hold {len(total)} values, close to 0 or to 255 or between"
    else:
        return None
    if soft:
        found = f"edges are soft: {soft}; more than half of 255 is class 1, the rest background"
        notes.append(Problem("soft-edges", str(folder), found, _IF_CLASSES, "warning"))
    return description.Labels(labels, values, notes=tuple(notes))


def _no_foreground(
    folder: Path, read: Sequence[Path], unread: Sequence[Problem], unused: Sequence[Path]
) -> TransUNetError:
    """Say that the masks are empty, or why nothing of them could be read."""
    empty = f"none of {len(read)} masks holds anything but background"
    if not unread:
        remedy = "Check that these are the masks"
        pictures = [path for path in read if known_format(path) is raster.FORMAT]
        if pictures and raster.has_shape_in_alpha(pictures[0]):
            empty += ", but their transparency has a shape, which is not read"
            remedy = "Store it as brightness: in Python, Image.open(mask).getchannel('A').save(new)"
        return Problem("no-foreground", str(folder), empty, remedy).error()
    kinds = Counter(problem.kind for problem in unread)
    first = {problem.kind: problem for problem in reversed(unread)}
    reasons = []
    for kind, problem in first.items():
        more = f" (and {kinds[kind] - 1} more like it)" if kinds[kind] > 1 else ""
        reasons.append(f"{problem.where}: {problem.found}{more}")
    if unused:
        names = some([path.relative_to(folder).as_posix() for path in unused], 3)
        reasons.append(f"masks that belong to no image: {names}")
    remedy = next(iter(first.values())).remedy
    if "missing-label" in kinds:
        remedy = "Give each mask the name of its image, or that name with _mask, _label or _seg"
    found = f"{len(unread)} masks are missing or unreadable: {'; '.join(reasons)}"
    found = f"{empty}, and {found}" if read else found
    return Problem("unread-masks", str(folder), found, remedy).error()


def listed_names(path: Path) -> dict[int, str]:
    """Return value -> name as a `labels.json` says.

    Raises:
        DataError: when it is wrong.
    """
    content = _listed(path)
    regions = _listed_regions(path, content)
    return regions.names if regions else _listed_values(path, content)


def _listed(path: Path) -> dict[str, Any]:
    """What stands in `labels.json`."""
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise description.wrong(path, f"it is not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise description.wrong(
            path, "expected an object such as {'background': 0, 'nucleus': 255}"
        )
    return content


def _listed_regions(path: Path, content: dict[str, Any]) -> description.Labels | None:
    """What `labels.json` says where it has regions."""
    order = content.pop("regions_class_order", None)
    content = {"labels": content, "regions_class_order": order}
    return description.labels_of(path, content) if order else None


def _listed_values(path: Path, content: Mapping[str, Any]) -> dict[int, str]:
    """Value -> name, as `labels.json` says."""
    names = {}
    for name, value in content.items():
        number = value
        if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
            colour = int(value[1:], 16)
            red, green, blue = colour >> 16, colour >> 8 & 255, colour & 255
            number = red if red == green == blue else COLOUR + colour
        elif type(value) is not int or value < 0:
            raise description.wrong(
                path, f"expected a number or a colour '#rrggbb', found {value!r}"
            )
        names[number] = str(name)
    if len(names) < len(content):
        raise description.wrong(path, "two classes have the same value")
    return names

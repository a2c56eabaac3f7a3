"""The `dataset.json` of Decathlon and nnU-Net, and the files of a data set by their names."""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from transunet.data.cases import IGNORED, Case
from transunet.data.checks.problems import Problem
from transunet.data.formats import files_of, is_header_of_pair, stem_of, suffix_of
from transunet.data.regions import Region, ordered_regions
from transunet.data.text import text_of
from transunet.errors import TransUNetError

NAME = "dataset.json"
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""What folders and lists are called -> the split that this says."""


def description_of(folder: Path) -> dict[str, Any]:
    """Return the parsed `dataset.json` of `folder`, an object; else a `DataError`."""
    path = folder / NAME
    try:
        content = json.loads(text_of(path))
    except FileNotFoundError:
        found = "the description of the data set is missing"
        raise Problem("description", str(path), found, f"Copy {NAME} along").error() from None
    except (ValueError, RecursionError) as error:
        raise wrong(folder, f"it is not valid JSON ({error})") from None
    except OSError as error:
        raise wrong(folder, f"it cannot be read ({error.strerror or error})") from None
    if not isinstance(content, dict):
        raise wrong(folder, f"expected an object, found {type(content).__name__}")
    return content


def keys_of(folder: Path) -> set[str]:
    """Return the keys of a readable `dataset.json`, else nothing: for recognising a layout."""
    try:
        return set(description_of(folder))
    except TransUNetError:
        return set()


def wrong(path: Path, found: str) -> TransUNetError:
    """Return the error for a description that is wrong (a file, or a `dataset.json`'s folder)."""
    file = path / NAME if path.is_dir() else path
    return Problem("description", str(file), found, "Correct the file").error()


def section(folder: Path, content: Mapping[str, Any], key: str, kind: type) -> Any:
    """Return `content[key]`, of `kind` (dict or list); a `DataError` for another, or without it."""
    value = content.get(key)
    if not isinstance(value, kind):
        words = "an object" if kind is dict else "a list"
        raise wrong(folder, f"expected {words} under {key!r}, found {value!r}"[:300])
    return value


def channel_names(folder: Path, content: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return the values of `{"0": "CT", "1": "PET"}` under `key`; a `DataError` for other keys."""
    names = section(folder, content, key, dict)
    if not names or sorted(names) != sorted(str(index) for index in range(len(names))):
        raise wrong(folder, f"{key!r} must count 0, 1, 2, ..., found {', '.join(names) or 'none'}")
    return tuple(str(names[str(index)]) for index in range(len(names)))


class Labels(NamedTuple):
    """What the values of label maps mean."""

    names: dict[int, str]
    """Class index -> name."""
    indices: dict[int, int]
    """Value -> class index; empty where values are indices."""
    regions: Mapping[str, tuple[int, ...]] = {}
    """Name -> class indices."""
    learned_regions: tuple[Region, ...] = ()
    """The regions where a network is to tell them apart, as 'regions_class_order' asks."""
    notes: tuple[Problem, ...] = ()
    """What is to be known where nothing says it, and the label maps were looked through."""


def labels_of(folder: Path, content: Mapping[str, Any]) -> Labels:
    """Return what 'labels' and 'regions_class_order' say.

    Decathlon has `{"1": "liver"}`, nnU-Net `{"liver": 1}` and lists of values as regions; people
    have either in both. A `DataError` for other values, when two names have one, and for an order
    that contradicts the regions. Where regions are learned, values are class indices whatever they
    are.
    """
    values = section(folder, content, "labels", dict)
    if all(map(str.isdecimal, values)) and any(isinstance(name, str) for name in values.values()):
        names = {int(value): str(name) for value, name in values.items()}
        return Labels(*classes(folder, names))
    members = {}
    for name, value in values.items():
        numbers = value if isinstance(value, list) else [value]
        if not numbers or not all(type(number) is int and number >= 0 for number in numbers):
            raise wrong(
                folder, f"the label {name!r} must be a number or a list of numbers, found {value!r}"
            )
        members[name] = tuple(sorted(set(numbers)))
    if len(members.get("ignore", (0,))) > 1:
        raise wrong(folder, "the label 'ignore' must be one number, not several")
    regions: dict[str, tuple[int, ...]] = {}
    if all(len(numbers) == 1 for numbers in members.values()):
        names = {numbers[0]: name for name, numbers in members.items()}
        if len(names) < len(members):
            raise wrong(folder, f"two labels have the same value: {values!r}"[:300])
    else:
        regions = {name: numbers for name, numbers in members.items() if numbers != (0,)}
        names = named_by_regions(regions)
    if regions and (order := content.get("regions_class_order")) is not None:
        members = {name: numbers for name, numbers in regions.items() if name != "ignore"}
        highest = max(value for numbers in members.values() for value in numbers)
        if highest >= IGNORED:
            raise wrong(folder, f"regions must be made of labels below {IGNORED}, found {highest}")
        try:
            return Labels(names, {}, regions, ordered_regions(members, order))
        except ValueError as error:
            raise wrong(folder, f"'regions_class_order' contradicts 'labels': {error}") from None
    labels, indices = classes(folder, names)
    of_index = {
        name: tuple(indices.get(value, value) for value in numbers)
        for name, numbers in regions.items()
    }
    return Labels(labels, indices, of_index)


def named_by_regions(regions: dict[str, tuple[int, ...]]) -> dict[int, str]:
    """Name each value by the smallest region that holds it.

    Values do not overlap; regions are unions of them.
    """
    names = {0: "background"}
    for value in sorted({v for values in regions.values() for v in values} - {0}):
        holding = [(len(values), name) for name, values in regions.items() if value in values]
        smallest = min(holding)[1]
        names[value] = f"{smallest} ({value})" if smallest in names.values() else smallest
    return names


def classes(
    path: Path, names: Mapping[int, str], as_listed: bool = False
) -> tuple[dict[int, str], dict[int, int]]:
    """Turn label values and their names into class index -> name and value -> class index.

    The second is empty where the values are consecutive already. Classes are numbered by their
    values, or `as_listed` in `names`, the background first. A `DataError` when 0, the background,
    is not among them, or nothing else is.
    """
    values = sorted(names, key=bool if as_listed else None)
    if 0 not in names or len(values) < 2 or min(values) < 0:
        raise wrong(
            path, f"the labels must hold 0 (the background) and at least one more, found {values}"
        )
    indices = {value: index for index, value in enumerate(values)}
    labels = {index: names[value] for value, index in indices.items()}
    return labels, {} if values == list(labels) else indices


def wrong_count(folder: Path, content: Mapping[str, Any], counts: set[int]) -> list[Problem]:
    """Return a warning where `numTraining` is none of `counts`: what was copied may be a part."""
    number = content.get("numTraining")
    if number is None or number in counts:
        return []
    found = f"'numTraining' is {number!r}, but there are {min(counts)} training cases"
    remedy = "Copy the missing cases along, or correct the number"
    return [Problem("count", str(folder / NAME), found, remedy, "warning")]


def rewrite(folder: Path, content: dict[str, Any]) -> None:
    """Write `dataset.json` anew, into a copy."""
    (folder / NAME).write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def path_inside(folder: Path, entry: Any, source: Path | None = None) -> Path:
    """Return the path of a file that the description (or the list `source`) names.

    A `DataError` when `entry` is no path, or leads out of the folder.
    """
    if not isinstance(entry, str) or not entry:
        raise wrong(source or folder, f"expected the path of a file, found {entry!r}"[:300])
    windows = PureWindowsPath(entry)
    path = Path(windows.as_posix() if "\\" in entry and not (folder / entry).exists() else entry)
    if path.is_absolute() and path.is_relative_to(folder.resolve()):
        path = path.relative_to(folder.resolve())
    if path.is_absolute() or windows.drive or ".." in {*path.parts, *windows.parts}:
        raise wrong(
            source or folder,
            f"the path {entry!r} leads out of the data set's folder; expected one that begins "
            "there, such as imagesTr/case_01.nii.gz",
        )
    return path_on_disk(folder, path.as_posix())


def path_on_disk(folder: Path, entry: str) -> Path:
    """Return the path of `entry` below `folder` as its file is really called.

    Descriptions travel between systems: letters may be upper or lower case, accents composed or
    not, and a file unpacked or converted, so that its suffix is another one. A file of exactly that
    name comes first; where none or several fit, `folder / entry` is returned.
    """
    path = folder
    for part in PurePosixPath(entry).parts:
        names = [part]
        if not (path / part).exists() and path.is_dir():
            known = _names_in(path, path.stat().st_mtime_ns)
            fitting = (known.get(key, []) for key in (_folded(part), _folded_stem(Path(part))))
            names = next((names for names in fitting if len(names) == 1), [part])
        path = path / names[0]
    return path


@lru_cache(maxsize=16)
def _names_in(folder: Path, changed: int) -> Mapping[str, list[str]]:
    """Folded name -> names in `folder`, and folded stem -> names of known formats."""
    names: dict[str, list[str]] = {}
    for path in folder.iterdir():
        if not path.name.startswith("."):
            names.setdefault(_folded(path.name), []).append(path.name)
            if suffix_of(path):
                names.setdefault(_folded_stem(path), []).append(path.name)
    return names


def _folded_stem(path: Path) -> str:
    return _folded(stem_of(path)) + ".*"


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def label_if_needed(path: Path, split: str | None) -> Path | None:
    """Return the path of a case's label map, or None where it is a test case that has none."""
    return path if split != "test" or path.is_file() else None


def files_in(folder: Path, ending: str | tuple[str, ...] = "") -> list[Path]:
    """Return the files of a folder with one of these endings, sorted, without hidden ones.

    Archives made on a Mac carry a hidden `._name` beside every file. The header of a pair counts as
    the `.img` beside it, where that has one of the endings, too. A folder that is missing has no
    files.
    """
    if not folder.is_dir():
        return []
    files = {
        path
        for path in folder.iterdir()
        if path.name.lower().endswith(ending) and path.name[0] != "." and path.is_file()
    }
    headers = {path for path in files if is_header_of_pair(path)}
    return sorted(files - {path for path in headers if files.intersection(files_of(path)[1:])})


def files_named(folder: Path, pattern: str) -> list[tuple[Path, re.Match[str]]]:
    """Return the files of a folder whose names fit a regular expression in any case, sorted."""
    matches = (re.fullmatch(pattern, path.name, re.IGNORECASE) for path in files_in(folder))
    return [(folder / match[0], match) for match in matches if match]


def folders_in(root: Path) -> list[Path]:
    """Return the folders in `root` by name, without hidden ones."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")


def unused_files(files: Sequence[Path], cases: Sequence[Case], found: str) -> list[Problem]:
    """Return a warning for each of `files` that no case uses."""
    used = {file for case in cases for path in case.files for file in files_of(path)}
    remedy = "Nothing uses it: list it in the description, give it its counterpart, or remove it"
    return [
        Problem("orphan", str(path), found, remedy, "warning") for path in files if path not in used
    ]

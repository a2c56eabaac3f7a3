"""Which classes of two lists are the same: matched by their names, whatever their numbers.

Lists come from a data set, a bundle, a prediction's manifest or a file's header, and need not
count alike: 1 may be grey matter here and white matter there.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from transunet.errors import ConfigError

_SEPARATORS = re.compile(r"[\s_-]+")
_NUMBERED = re.compile(r"(?:(?:class|label) )?(\d+)")
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_ANY_CLASS = re.compile(r"foreground|(?:class|label|mask|object|region|segment|structure)(?: \d+)?")
"""Words that tell no class; the number in 3D Slicer's "Segment_2" is not the value in the file."""


@dataclass(frozen=True)
class MatchedClasses:
    """How two lists of classes go together."""

    numbers: Mapping[int, int]
    """Number in the first list -> number in the second; the background (0) is 0 in both."""
    first_only: Mapping[int, str]
    """Classes of the first list that the second does not have."""
    second_only: Mapping[int, str]
    """Classes of the second list that the first does not have."""

    @property
    def in_order(self) -> bool:
        """Whether every class that both have has one number."""
        return all(first == second for first, second in self.numbers.items())


def match_classes(first: Mapping[int, str], second: Mapping[int, str]) -> MatchedClasses:
    """Match two lists of classes (number -> name, 0 is the background).

    Names count without regard to case, spaces, underscores and hyphens. Classes without a name of
    their own ("class 2", "foreground") are matched by number.
    """
    ours, theirs = _by_name(first), _by_name(second)
    numbers = {0: 0, **{ours[name]: theirs[name] for name in ours if name in theirs}}
    others = _numbers_in_files(second, first)
    for number, in_files in _numbers_in_files(first, second).items():
        for other in (other for other in others if others[other] == in_files):
            matched = number in numbers or other in numbers.values()
            named = all(
                is_named(name) and plain_name(name) in by_name
                for name, by_name in ((first[number], ours), (second[other], theirs))
            )
            if not matched and not named:
                numbers[number] = other
    return MatchedClasses(
        numbers,
        {number: name for number, name in first.items() if number not in numbers},
        {number: name for number, name in second.items() if number not in numbers.values()},
    )


def is_named(name: str) -> bool:
    """Whether a class has a name of its own, rather than a number or a word for any class."""
    plain = plain_name(name)
    return not (
        _ANY_CLASS.fullmatch(plain) or _NUMBERED.fullmatch(plain) or _COLOUR.fullmatch(plain)
    )


def _by_name(classes: Mapping[int, str]) -> dict[str, int]:
    """Name -> number, of names that occur once (two equal ones tell nothing).

    Equal numbers and colours in names count as well; words for any class do not.
    """
    named = {number: plain_name(name) for number, name in classes.items() if number}
    counts = Counter(named.values())
    return {
        name: number
        for number, name in named.items()
        if counts[name] == 1 and (_NUMBERED.fullmatch(name) or not _ANY_CLASS.fullmatch(name))
    }


def _numbers_in_files(classes: Mapping[int, str], others: Mapping[int, str]) -> dict[int, int]:
    """Number -> the number that a class goes by among `others`.

    "class 85", as it is called when found in masks, says the value in the files: it goes by that
    where the others count so, and else by its own number.
    """
    in_names, in_other_names = (
        {n: int(match[1]) for n, name in names.items() if (match := _number_in(name))}
        for names in (classes, others)
    )
    known = {*others, *in_other_names.values()}
    return {n: value if (value := in_names.get(n)) in known else n for n in classes if n}


def _number_in(name: str) -> re.Match[str] | None:
    return _NUMBERED.fullmatch(plain_name(name))


def plain_name(name: str) -> str:
    """Return `name` without what does not tell names apart: case, spaces, underscores, hyphens."""
    return _SEPARATORS.sub(" ", name).strip().casefold()


def classes_named(names: Collection[str], labels: Mapping[int, str]) -> tuple[int, ...]:
    """Return the class indices of structures by name or number; "all" means every one.

    Capital and small letters are alike, and spaces and underscores, but where names differ in
    nothing else.

    Raises:
        ConfigError: for a name that is not in `labels`.
    """
    structures = {index: name for index, name in labels.items() if index}
    if "all" in names:
        return tuple(structures)
    exact = {str(index): index for index in structures}
    exact |= {name: index for index, name in structures.items()}
    spellings = Counter(map(plain_name, structures.values()))
    plain = {plain_name(n): i for i, n in structures.items() if spellings[plain_name(n)] == 1}
    chosen = {name: exact.get(name) or plain.get(plain_name(name)) for name in names}
    unknown = [name for name, index in chosen.items() if index is None]
    if unknown:
        raise ConfigError(
            f"The bundle has no structure {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(structures.values())}."
        )
    return tuple(sorted({index for index in chosen.values() if index is not None}))

"""Which cases train, validate and test: seeded, by group, whatever order the files come in."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol, Self

from transunet.errors import ConfigError

FOLDS = 5
"""How many, where nobody says."""

FRACTION = 0.2
"""How many of the groups are held out, where nobody says."""


class Splittable(Protocol):
    """What a split needs to know of a case (`Case` and `StoredCase` have it)."""

    @property
    def name(self) -> str:
        """The case's name."""

    @property
    def group(self) -> str | None:
        """What must stay together; None: the case alone."""

    @property
    def split(self) -> str | None:
        """Where the data set itself puts it."""


@dataclass(frozen=True)
class Split:
    """Names of cases, sorted."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...] = ()

    @classmethod
    def of(cls, cases: Sequence[Splittable], validation: Collection[str]) -> Self:
        """Let cases validate by their names, those marked "test" test, and the others train."""
        test = {case.name for case in cases if case.split == "test"}
        train = {case.name for case in cases} - test - set(validation)
        return cls(tuple(sorted(train)), tuple(sorted(validation)), tuple(sorted(test)))


@dataclass(frozen=True)
class Splits:
    """The splits of a data set, and the rule that made them."""

    parts: tuple[Split, ...]
    """One, or one per fold."""
    rule: str
    """In words, such as "drawn with seed 1234" or "split of dataset.json"."""
    drawn: bool = False
    """Whether a seed decided, and neither the data set nor a file."""

    def text(self, fold: int = 0) -> str:
        """Say how many cases do what by which rule."""
        part = self.parts[fold]
        return (
            f"{len(part.train)} train, {len(part.validation)} validate, {len(part.test)} test: "
            f"{self.rule_of(fold)}"
        )

    def rule_of(self, fold: int = 0) -> str:
        """Return the rule, with the fold where there are several."""
        return f"{self.rule}, fold-{fold} of {len(self.parts)}" if self.parts[1:] else self.rule


def split(
    cases: Sequence[Splittable],
    seed: int = 1234,
    *,
    fraction: float = FRACTION,
    folds: int | None = None,
) -> tuple[Split, ...]:
    """Draw a split, or folds, never of a group; names, groups and the seed alone decide.

    A case that the data set marks "test" is always a test case.

    Args:
        cases: any order.
        seed: another seed, another split.
        fraction: of the groups, held out for validation: at least one; 0 trains on everything.
        folds: instead, so many splits whose validation cases together are all cases, once each.

    Raises:
        ConfigError: when there are too few groups.
    """
    rest = [case for case in cases if case.split != "test"]
    # By hash: independent of numpy's version, and one more case leaves the others where they are.
    names = {group_of(case) for case in rest}
    groups = sorted(names, key=lambda group: sha256(f"{seed}/{group}".encode()).digest())
    if folds is not None:
        if not 2 <= folds <= len(groups):
            choice = f"choose 2 to {len(groups)}" if len(groups) > 1 else "that takes at least 2"
            raise ConfigError(
                f"Cannot make {folds} folds of {len(groups)} groups of cases: {choice}."
            )
        held_out = [groups[fold::folds] for fold in range(folds)]
    elif not 0 <= fraction < 1:
        raise ConfigError(f"Cannot hold out {fraction:g} of the cases: choose 0 to below 1.")
    elif fraction == 0:
        held_out = [[]]
    elif len(groups) < 2:
        raise ConfigError(
            f"Holding out cases for validation needs at least 2 groups of cases, found "
            f"{len(groups)}. Add cases, or hold out none: prepare --fraction 0, train --set "
            "holdout=0."
        )
    else:
        held_out = [groups[: min(len(groups) - 1, max(1, round(fraction * len(groups))))]]
    return tuple(
        Split.of(cases, [case.name for case in rest if group_of(case) in part]) for part in held_out
    )


def group_of(case: Splittable) -> str:
    """Return what a case must stay together with."""
    return case.name if case.group is None else case.group

"""Which cases train, validate and test: seeded, by group, whatever order the files come in."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, Protocol

from transunet.data.text import some
from transunet.errors import ConfigError

How = Literal["auto", "own", "holdout", "kfold"]


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
        return f"{self.rule}, fold {fold} of {len(self.parts)}" if self.parts[1:] else self.rule


def split(
    cases: Sequence[Splittable],
    seed: int = 1234,
    *,
    how: How = "auto",
    fraction: float = 0.2,
    folds: int = 5,
) -> tuple[Split, ...]:
    """Split cases, never a group; the result depends on names, groups and the seed only.

    A case that the data set marks "test" is always a test case.

    Args:
        cases: any order.
        seed: another seed, another split.
        how: "own" takes the data set's own split; "holdout" holds out `fraction` of the groups for
            validation; "kfold" gives `folds` splits whose validation cases together are all cases,
            once each; "auto" is "own" where the data set marks validation cases, else "holdout".
        fraction: of the groups, for "holdout": at least one group; 0 trains on everything.
        folds: how many, for "kfold".

    Returns:
        One split, or `folds` of them.

    Raises:
        ConfigError: when there are too few groups, or no split of its own.
    """
    test = [case for case in cases if case.split == "test"]
    rest = [case for case in cases if case.split != "test"]
    own = any(case.split == "validation" for case in cases)
    if how == "own" and not (own or test):
        raise ConfigError("The data set has no split of its own. Choose 'holdout' or 'kfold'.")
    if how == "own" or (how == "auto" and own):
        return (_split(rest, {c.name for c in rest if c.split == "validation"}, test),)
    # By hash: independent of numpy's version, and one more case leaves the others where they are.
    names = {_group(case) for case in rest}
    groups = sorted(names, key=lambda group: sha256(f"{seed}/{group}".encode()).digest())
    if how == "kfold":
        if not 2 <= folds <= len(groups):
            choice = f"choose 2 to {len(groups)}" if len(groups) > 1 else "that takes at least 2"
            raise ConfigError(
                f"Cannot make {folds} folds of {len(groups)} groups of cases: {choice}."
            )
        held_out = [set(groups[fold::folds]) for fold in range(folds)]
    elif not 0 <= fraction < 1:
        raise ConfigError(f"Cannot hold out {fraction:g} of the cases: choose 0 to below 1.")
    elif fraction == 0:
        held_out = [set()]
    elif len(groups) < 2:
        raise ConfigError(
            f"Holding out cases for validation needs at least 2 groups of cases, found "
            f"{len(groups)}. Add cases, or hold out none: prepare --fraction 0, train --set "
            "holdout=0."
        )
    else:
        count = min(len(groups) - 1, max(1, round(fraction * len(groups))))
        held_out = [set(groups[:count])]
    return tuple(
        _split(rest, {c.name for c in rest if _group(c) in part}, test) for part in held_out
    )


def _group(case: Splittable) -> str:
    return case.name if case.group is None else case.group


def _split(rest: Iterable[Splittable], validation: set[str], test: Iterable[Splittable]) -> Split:
    return Split(
        train=tuple(sorted(case.name for case in rest if case.name not in validation)),
        validation=tuple(sorted(validation)),
        test=tuple(sorted(case.name for case in test)),
    )


def refuse_divided(splits: Splits, cases: Sequence[Splittable]) -> None:
    """Make sure that no group has cases that train and cases that validate.

    Raises:
        ConfigError: naming the first groups that have.
    """
    groups = {case.name: _group(case) for case in cases}
    for fold, part in enumerate(splits.parts):
        train, validation = ({groups[n] for n in names} for names in (part.train, part.validation))
        if divided := sorted(train & validation):
            raise ConfigError(
                f"{splits.rule_of(fold)}: it has cases of one group in training and in validation: "
                f"{some(divided)}. Correct it, or leave --group-by out."
            )

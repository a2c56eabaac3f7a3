"""Which cases train, validate and test: seeded, by group, whatever order the files come in."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, Protocol

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
    groups = _shuffled({_group(case) for case in rest}, seed)
    parts = _folds(groups, folds) if how == "kfold" else [_held_out(groups, fraction)]
    return tuple(_split(rest, {c.name for c in rest if _group(c) in part}, test) for part in parts)


def _group(case: Splittable) -> str:
    return case.name if case.group is None else case.group


def _shuffled(groups: set[str], seed: int) -> list[str]:
    # By hash: independent of numpy's version, and one more case leaves the others where they are.
    return sorted(groups, key=lambda group: sha256(f"{seed}/{group}".encode()).digest())


def _held_out(groups: list[str], fraction: float) -> set[str]:
    if not 0 <= fraction < 1:
        raise ConfigError(f"Cannot hold out {fraction:g} of the cases: choose 0 to below 1.")
    if fraction == 0:
        return set()
    if len(groups) < 2:
        raise ConfigError(
            f"Holding out cases for validation needs at least 2 groups of cases, found "
            f"{len(groups)}. Add cases, or "
            "set the fraction to 0."
        )
    return set(groups[: min(len(groups) - 1, max(1, round(fraction * len(groups))))])


def _folds(groups: list[str], folds: int) -> list[set[str]]:
    if not 2 <= folds <= len(groups):
        raise ConfigError(
            f"Cannot make {folds} folds of {len(groups)} groups of cases: choose 2 to "
            f"{len(groups)}."
        )
    return [set(groups[fold::folds]) for fold in range(folds)]


def _split(rest: Iterable[Splittable], validation: set[str], test: Iterable[Splittable]) -> Split:
    return Split(
        train=tuple(sorted(case.name for case in rest if case.name not in validation)),
        validation=tuple(sorted(validation)),
        test=tuple(sorted(case.name for case in test)),
    )

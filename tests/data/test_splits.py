from dataclasses import dataclass

import pytest

from transunet.data.splits import split
from transunet.errors import ConfigError


@dataclass(frozen=True)
class Named:
    name: str
    group: str | None = None
    split: str | None = None


CASES = [Named(f"c{i:02d}") for i in range(20)]
PATIENTS = [Named(f"p{i}_{phase}", group=f"p{i}") for i in range(10) for phase in ("ED", "ES")]


def test_hold_out_takes_a_fifth_whatever_the_order():
    (a,) = split(CASES, seed=1)
    assert len(a.validation) == 4
    assert set(a.train) | set(a.validation) == {case.name for case in CASES}
    assert not set(a.train) & set(a.validation)
    assert split(CASES[::-1], seed=1) == (a,)
    assert split(CASES, seed=2) != (a,)


def test_the_split_of_a_seed_never_changes():
    # Written down: published figures name a seed, and mean these cases.
    assert split(CASES, seed=1234)[0].validation == HELD_OUT_1234


HELD_OUT_1234 = ("c03", "c11", "c15", "c17")


def test_one_more_case_leaves_the_others_where_they_are():
    before = set(split(CASES, fraction=0.5)[0].validation)
    after = set(split([*CASES, Named("new")], fraction=0.5)[0].validation)
    assert len(before - after) <= 1


def test_groups_stay_together():
    for part in split(PATIENTS, folds=3) + split(PATIENTS):
        groups = [{name.split("_")[0] for name in names} for names in (part.train, part.validation)]
        assert not groups[0] & groups[1]
        assert len(part.validation) % 2 == 0


def test_folds_validate_every_case_once():
    parts = split(CASES, folds=3)
    assert sorted(name for part in parts for name in part.validation) == [c.name for c in CASES]
    assert sorted(len(part.validation) for part in parts) == [6, 7, 7]
    assert all(not set(p.train) & set(p.validation) for p in parts)


def test_test_cases_are_never_trained_on():
    cases = [*CASES, Named("x", split="test")]
    for part in (*split(cases), *split(cases, folds=5)):
        assert part.test == ("x",)
        assert "x" not in part.train + part.validation


def test_everything_may_train():
    (part,) = split(CASES, fraction=0)
    assert part.validation == ()
    assert len(part.train) == 20


@pytest.mark.parametrize(
    ("cases", "options", "says"),
    [
        (CASES[:1], {}, "at least 2"),
        (CASES, {"fraction": 1}, "0 to below 1"),
        (CASES, {"folds": 21}, "2 to 20"),
        (CASES, {"folds": 1}, "2 to 20"),
    ],
)
def test_impossible_splits_are_refused(cases, options, says):
    with pytest.raises(ConfigError, match=says):
        split(cases, **options)

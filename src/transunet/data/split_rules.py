"""Which rule splits a data set: a user's file, its own lists, its own folds, or a seed."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from transunet.data.cases import Case, DataSet
from transunet.data.checks.problems import Problem
from transunet.data.formats import channel_of, stem_of
from transunet.data.splits import FOLDS, FRACTION, Split, Splits, Splittable, group_of, split
from transunet.data.store import Store
from transunet.data.text import groups_by, some, text_of
from transunet.errors import ConfigError

How = Literal["auto", "own", "holdout", "kfold"]
Names = Sequence[str]

_FORM = 'nnU-Net\'s form, [{"train": ["a", "b"], "val": ["c"]}, ...]'


def splits_of(
    dataset: DataSet,
    cases: Sequence[Case],
    seed: int = 1234,
    *,
    how: How = "auto",
    fraction: float = FRACTION,
    folds: int | None = None,
) -> Splits:
    """Return the splits of a data set: those that it brings itself, or drawn ones.

    Args:
        dataset: where the cases are from; says what it brings, and how cases are grouped.
        cases: those that are used, all with a label.
        seed: of a split that is drawn.
        how: "own" takes what the data set brings: the cases that it marks for validation, else its
            folds; "kfold" takes its folds if they are as many as asked for, else draws them;
            "holdout" draws; "auto" is "kfold" where `folds` are asked for, else "own" where it
            brings any, else "holdout".
        fraction: of the groups, for "holdout"; 0 trains on everything.
        folds: how many; None for as many as the data set brings, or 5.

    Raises:
        ConfigError: when there are too few groups, no split of its own, or a group is divided
            although the data set was `grouped`.
        DataError: when the data set's file of folds does not fit the cases.
    """
    marked = [case.name for case in cases if case.split == "validation"]
    brought = None if how == "holdout" else own_folds(dataset, cases)
    if how == "auto":
        how = "kfold" if folds else "own" if marked or brought else "holdout"
    if how == "own" and (marked or not brought):
        if not any(case.split in ("validation", "test") for case in cases):
            raise ConfigError("The data set has no split of its own. Choose 'holdout' or 'kfold'.")
        chosen = Splits((Split.of(cases, marked),), dataset.split_rule)
    elif brought and (how == "own" or folds in (None, len(brought.parts))):
        chosen = brought
    else:
        unused = brought.rule if brought else dataset.split_rule if marked else None
        count = (folds or FOLDS) if how == "kfold" else None
        chosen = _draw(cases, seed, fraction, count, dataset.group_by, unused)
    if dataset.group_by:
        _refuse_divided(chosen, cases)
    return chosen


def stored_splits(
    store: Store,
    seed: int = 1234,
    *,
    fraction: float | None = None,
    folds: int | None = None,
    group_by: str | None = None,
) -> Splits:
    """Return the splits that a store was prepared with, or drawn ones where others are asked for.

    Args:
        store: a prepared store.
        seed: of a split that is drawn.
        fraction: of the groups, to draw a split with; None for what was prepared.
        folds: how many; of a store that was prepared with folds, those.
        group_by: keeps cases together whose names it finds alike; what was drawn without it is
            drawn anew.

    Raises:
        ConfigError: when the store has another number of folds, there are too few groups, or the
            data set's own split divides one.
    """
    cases = grouped_cases(store, group_by)
    prepared = store.prepared
    has_folds = len(prepared.parts) > 1
    if folds and has_folds and folds != len(prepared.parts):
        raise ConfigError(
            f"The store {store.path} was prepared with {len(prepared.parts)} folds "
            f"({prepared.rule}), and {folds} are asked for. Give --folds {len(prepared.parts)}, or "
            f"prepare it again with --folds {folds}: no case is made anew."
        )
    if fraction is None and (has_folds or not folds):
        try:
            if group_by:
                _refuse_divided(prepared, cases)
            return prepared
        except ConfigError:
            if not prepared.drawn:
                raise
            folds = len(prepared.parts) if has_folds else None
    unused = None if prepared.drawn else prepared.rule
    share = FRACTION if fraction is None else fraction
    return _draw(cases, seed, share, folds, group_by or store.manifest.group_by, unused)


def grouped_cases(store: Store, group_by: str | None) -> list[Splittable]:
    """Return the cases of a store, in the groups that `group_by` makes, if it is given."""
    cases = list(store.cases.values())
    if group_by is None:
        return list(cases)
    groups = groups_by(group_by, [case.name for case in cases if case.split != "test"])
    return [case.model_copy(update={"group": groups.get(case.name)}) for case in cases]


def _draw(
    cases: Sequence[Splittable],
    seed: int,
    fraction: float,
    folds: int | None,
    group_by: str | None,
    unused: str | None,
) -> Splits:
    """Draw splits; the rule says the seed, how groups were made, and what was not used."""
    parts = split(cases, seed, fraction=fraction, folds=folds)
    if not parts[0].validation:
        return Splits(parts, "none held out, as asked for", drawn=True)
    groups = f" by group: --group-by {group_by}" if group_by else ""
    if not groups and any(case.group for case in cases if case.split != "test"):
        groups = ", groups kept whole"
    rule = f"drawn with seed {seed}{groups}{f', not the {unused}' if unused else ''}"
    return Splits(parts, rule, drawn=True)


def _refuse_divided(splits: Splits, cases: Sequence[Splittable]) -> None:
    groups = {case.name: group_of(case) for case in cases}
    for fold, part in enumerate(splits.parts):
        train, validation = ({groups[n] for n in names} for names in (part.train, part.validation))
        if divided := sorted(train & validation):
            raise ConfigError(
                f"{splits.rule_of(fold)}: it has cases of one group in training and in validation: "
                f"{some(divided)}. Correct it, or leave --group-by out."
            )


def own_folds(dataset: DataSet, cases: Sequence[Case]) -> Splits | None:
    """Return the folds that a data set brings: nnU-Net's `splits_final.json`, or keys `fold`.

    Raises:
        DataError: when the file is of another form, or does not fit `cases`.
    """
    if file := dataset.folds_file:
        try:
            return splits_in(file, cases, rule=file.name)
        except ConfigError as error:
            found = str(error).removeprefix(f"{file}: ").rstrip(".")
            remedy = "Correct the file, or take it away to have a split drawn"
            raise Problem("splits", str(file), found, remedy).error() from None
    rest = [case for case in cases if case.split != "test"]
    pairs = [
        ([c.name for c in rest if c.fold != number], [c.name for c in rest if c.fold == number])
        for number in sorted({case.fold for case in rest if case.fold is not None})
    ]
    if not pairs or not all(train for train, _ in pairs):
        return None  # one number for all of them makes no folds
    return _checked_splits(pairs, cases, "folds of dataset.json", dataset.folder)


def splits_in(
    path: Path,
    cases: Sequence[Splittable],
    folds: int | None = None,
    group_by: str | None = None,
    rule: str = "",
) -> Splits:
    """Return the splits in a file; cases that are for testing stay so.

    Args:
        path: JSON in nnU-Net's form, see `named_splits`.
        cases: those that are used.
        folds: how many the file must hold; None for any number.
        group_by: the pattern that made the groups of `cases`, if they must not be divided.
        rule: what the file is called; as a user's option if not given.

    Raises:
        ConfigError: for a file that cannot be used, names other cases, or holds another number.
    """
    pairs = named_splits(path, {case.name for case in cases})
    splits = _checked_splits(pairs, cases, rule or f"--splits {path}", path)
    if folds not in (None, len(splits.parts)):
        raise ConfigError(
            f"{path} holds {len(splits.parts)} splits, and --folds {folds} are asked for. Leave "
            "--folds out, or give the number in the file."
        )
    if group_by:
        _refuse_divided(splits, cases)
    return splits


def named_splits(path: Path, cases: Collection[str] = ()) -> list[tuple[Names, Names]]:
    """Return the names that train and that validate, split by split, of a file in nnU-Net's form.

    That is JSON: a list of objects with the lists `train` and `val`; one object alone is one split.
    Names of files (CASE.nii.gz, CASE_0000) become those of `cases` where these are called so.

    Raises:
        ConfigError: for a file that is missing or of another form.
    """
    try:
        content = json.loads(text_of(path))
    except OSError as error:
        raise ConfigError(f"{path}: it cannot be read ({error.strerror or error}).") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: it is not JSON ({error}); expected {_FORM}.") from None

    def case_of(name: str) -> str:
        stem = stem_of(Path(name))
        names = (name, stem, f"{stem}_0000", (channel_of(stem) or [stem])[0])
        return next((known for known in names if known in cases), name)

    items = [content] if isinstance(content, dict) else content
    if not isinstance(items, list) or not items:
        raise ConfigError(f"{path}: expected {_FORM}, found {content!r:.100}.")
    pairs: list[tuple[Names, Names]] = []
    for number, item in enumerate(items):
        sides = [item.get(key) for key in ("train", "val")] if isinstance(item, dict) else [None]
        for side in sides:
            if not isinstance(side, list) or not all(isinstance(name, str) for name in side):
                raise ConfigError(f"{path}: expected {_FORM}, found split {number}: {item!r:.100}.")
        train, validation = ([case_of(name) for name in item[key]] for key in ("train", "val"))
        pairs.append((train, validation))
    return pairs


def _checked_splits(
    pairs: Sequence[tuple[Names, Names]], cases: Sequence[Splittable], rule: str, source: Path
) -> Splits:
    """Make sure that the names in `source` are those of `cases`, each on one side, none empty."""
    test = {case.name for case in cases if case.split == "test"}
    names = {case.name for case in cases}
    for number, (train, validation) in enumerate(pairs):
        faults = {
            "no labelled cases of the data set": {*train, *validation} - names,
            "test cases of the data set": {*train, *validation} & test,
            "both in 'train' and in 'val'": {*train} & {*validation},
        }
        for what, wrong in faults.items():
            if wrong:
                raise ConfigError(
                    f"{source}: split {number} names {len(wrong)} that are {what}: "
                    f"{some(sorted(wrong))}. Cases are called {some(sorted(names - test), 3)}."
                )
        if empty := [key for key, side in (("train", train), ("val", validation)) if not side]:
            raise ConfigError(
                f"{source}: split {number} has no cases in {' and '.join(map(repr, empty))}. "
                "Every split needs cases to train and to validate."
            )
    sides = [[tuple(sorted({*side})) for side in (*pair, test)] for pair in pairs]
    return Splits(tuple(Split(*each) for each in sides), rule)


def split_warnings(store: Store, split: Split) -> list[str]:
    """Return, in sentences, what is to be known of a split before training with it."""
    classes = [index for index in store.labels if index]
    learned, measured = (classes_in(store, names) for names in (split.train, split.validation))
    unlearned = [store.labels[index] for index in classes if index not in learned]
    unmeasured = [store.labels[index] for index in classes if index not in measured]
    groups = [
        {store.cases[name].group for name in names} - {None}
        for names in (split.train, split.validation)
    ]
    divided = sorted(str(group) for group in groups[0] & groups[1])
    unused = sorted(set(store.cases) - {*split.train, *split.validation, *split.test})
    warnings = {
        f"No training case holds {some(unlearned)}: the network cannot learn it.": unlearned,
        f"Cases of one group train and validate: {some(divided)}. Dice will flatter.": divided,
        f"The split names neither for training nor for validation: {some(unused)}.": unused,
    }
    sentences = [text for text, names in warnings.items() if names]
    if split.validation and not measured:
        sentences.append(
            "No held-out case holds a structure, so the best network cannot be told from the last: "
            "RUN/best will be the last. Hold out other cases (another --seed, --splits FILE)."
        )
    elif split.validation and unmeasured:
        sentences.append(
            f"No held-out case holds {some(unmeasured)}: RUN/best is chosen by the other classes."
        )
    return sentences


def classes_in(store: Store, names: Sequence[str]) -> set[int]:
    """Return which classes, but the background, occur in these cases."""
    return {index for name in names for index in store.cases[name].slices_with}

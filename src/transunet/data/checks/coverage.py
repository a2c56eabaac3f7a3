"""What a split of a store leaves out: classes that nothing teaches, or that nothing measures."""

from collections.abc import Sequence

from transunet.data.splits import Split, some
from transunet.data.store import Store


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
    found = [text for text, names in warnings.items() if names]
    if split.validation and not measured:
        found.append(
            "No held-out case holds a structure, so the best network cannot be told from the last: "
            "RUN/best will be the last. Hold out other cases (another --seed, --splits FILE)."
        )
    elif split.validation and unmeasured:
        found.append(
            f"No held-out case holds {some(unmeasured)}: RUN/best is chosen by the other classes."
        )
    return found


def classes_in(store: Store, names: Sequence[str]) -> set[int]:
    """Return which classes, but the background, occur in these cases."""
    return {index for name in names for index in store.cases[name].slices_with}

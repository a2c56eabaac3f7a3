"""Which cases of a data set a bundle's trust is fitted on."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from transunet.data.cases import IGNORED, Case, DataSet
from transunet.data.classes import match_classes
from transunet.data.volume import Volume
from transunet.errors import ConfigError
from transunet.inference.logits import label_type
from transunet.trust.fitting import HeldOutCase


def held_out_cases(
    dataset: DataSet, labels: Mapping[int, str], split: str | None = None
) -> list[HeldOutCase]:
    """Return the labelled cases of `dataset`.

    Args:
        dataset: what the bundle was not trained on.
        labels: the bundle's, value -> name, which are matched by name.
        split: only cases of this split.

    Raises:
        ConfigError: when the data set has other structures than the bundle, or no such case.
    """
    matched = match_classes(dataset.labels, labels)
    if unknown := sorted([*matched.first_only.values(), *matched.second_only.values()]):
        raise ConfigError(
            f"{dataset.folder}: the data set's structures are "
            f"{', '.join(dataset.labels.values())}; the bundle's are "
            f"{', '.join(labels.values())}. They differ in "
            f"{', '.join(unknown)}. Give cases with the bundle's structures, "
            "named alike."
        )
    highest = max(IGNORED, *dataset.labels, *labels)
    numbers = np.arange(highest + 1, dtype=label_type(highest))
    for index, own in matched.numbers.items():
        numbers[index] = own
    chosen = [
        case
        for case in dataset.cases
        if case.label and case.label.exists() and split in (None, case.split)
    ]
    if not chosen:
        of = f" of the split {split!r}" if split else ""
        raise ConfigError(f"{dataset.folder}: the data set has no labelled case{of}.")

    def read(case: Case) -> tuple[Volume, Volume]:
        image, label = dataset.read_case(case)
        assert label is not None  # only labelled cases were chosen
        return image, label.with_array(numbers[label.array])

    ignored = IGNORED if IGNORED in dataset.values.values() else None
    return [HeldOutCase(case.name, partial(read, case), case.group, ignored) for case in chosen]

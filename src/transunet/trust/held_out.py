"""Which cases of a data set a bundle's trust is fitted on."""

from functools import partial

import numpy as np

from transunet.bundle.bundle_config import BundleConfig
from transunet.data.cases import IGNORED, Case, DataSet
from transunet.data.volume import Volume
from transunet.errors import ConfigError
from transunet.trust.fitting import HeldOutCase


def held_out_cases(
    dataset: DataSet, config: BundleConfig, split: str | None = None
) -> tuple[list[HeldOutCase], int | None]:
    """Return the labelled cases of `dataset`, and the class index of voxels that nobody labelled.

    Args:
        dataset: what the bundle was not trained on.
        config: the bundle's, whose labels are matched by name.
        split: only cases of this split.

    Raises:
        ConfigError: when the data set has other structures than the bundle, or no such case.
    """
    indices = {name: index for index, name in config.labels.items()}
    if unknown := sorted(set(dataset.labels.values()) ^ set(indices)):
        raise ConfigError(
            f"{dataset.folder}: the data set's structures are "
            f"{', '.join(dataset.labels.values())}; the bundle's are {', '.join(indices)}. They "
            f"differ in {', '.join(unknown)}. Give cases with the bundle's structures, named alike."
        )
    numbers = np.arange(256, dtype=np.uint8 if max(indices.values()) < 256 else np.uint16)
    for index, name in dataset.labels.items():
        numbers[index] = indices[name]
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
    return [HeldOutCase(case.name, partial(read, case)) for case in chosen], ignored

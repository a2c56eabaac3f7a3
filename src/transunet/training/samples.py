"""The torch data set over a prepared store: what a sampling gives, the same in every process."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from transunet.data.sampling import Sampling
from transunet.data.store import Store
from transunet.errors import ConfigError
from transunet.training.augmentation import SliceAugmentation
from transunet.training.sampler import SampleKey


class Samples(Dataset[dict[str, Any]]):
    """Samples of some cases of a store, cut, augmented and at the network's size.

    A sample is asked for by its key. All randomness comes from the seed and the key, so that a
    sample depends on no worker, order or process. What nobody labelled is left out.

    Args:
        store: a prepared store.
        cases: names of its cases, such as `store.splits[0].train`.
        sampling: what makes samples of the cases' volumes.
        augment: applied to a slice at its own size, before resizing.
        seed: of all randomness.

    Raises:
        ConfigError: when there are no cases, one is not in the store, or nobody labelled a voxel.
    """

    def __init__(
        self,
        store: Store,
        cases: Sequence[str],
        sampling: Sampling,
        augment: SliceAugmentation | None = None,
        seed: int = 1234,
    ) -> None:
        if not cases:
            raise ConfigError(f"No cases of the store {store.path} were chosen; give at least one.")
        self.store = store
        self.cases = tuple(cases)
        self.sampling = sampling
        self.augment = augment
        self.seed = seed
        self._numbers = [sampling.samples_in(store.case(name)) for name in self.cases]
        self._ends = np.cumsum([len(numbers) for numbers in self._numbers])
        if not len(self):
            raise ConfigError(
                f"All voxels of {', '.join(self.cases[:8])} in the store {store.path} hold the "
                f"ignored value {store.manifest.ignore}. Choose cases that somebody labelled."
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, key: SampleKey | tuple[int, int]) -> dict[str, Any]:
        """Return the sample of a key, or of (draw, sample).

        Returns:
            `image` float32 (C, *spatial), `label` int64 (*spatial), `case` its name, `number` which
            of its samples. Labels are `store.ignored` where nobody labelled a pixel; with a teacher
            they are (1 + planes, *spatial), as `store.target` has them.
        """
        draw, sample, wanted_class = SampleKey(*key)
        case, number = self.locate(sample)
        rng = np.random.default_rng((self.seed, draw, sample))
        image, label = self.sampling.cut(self.store, case, number, wanted_class, rng)
        if self.augment is not None:
            image, label = self.augment(image, label, rng)
        image, label = self.sampling.fit(image, label)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image)),
            "label": torch.from_numpy(label.astype(np.int64)),
            "case": case,
            "number": number,
        }

    def locate(self, index: int) -> tuple[str, int]:
        """Return the case that `index` stands for, and the number of the sample (slice) in it.

        Raises:
            IndexError: outside 0 .. len - 1.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        which = int(np.searchsorted(self._ends, index, side="right"))
        return self.cases[which], int(self._numbers[which][index - self._ends[which]])

    def with_class(self, index: int) -> NDArray[np.intp]:
        """Return the indices of the samples that hold class `index`."""
        indices: list[NDArray[np.intp]] = []
        for end, numbers, name in zip(self._ends, self._numbers, self.cases, strict=True):
            holding = np.isin(numbers, self.sampling.samples_with(self.store.case(name), index))
            indices.append(end - len(numbers) + np.flatnonzero(holding))
        return np.concatenate(indices)

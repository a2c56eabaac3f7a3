"""The torch data set over a prepared store: a sample per slice, the same in every process."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from transunet.data.resize import nearest, resize
from transunet.data.sampling.slices import sample_at
from transunet.data.store import Store
from transunet.errors import ConfigError
from transunet.training.augmentation import SliceAugmentation


class SliceDataset(Dataset[dict[str, Any]]):
    """Slices of some cases of a store, augmented and resized.

    A sample is asked for by (epoch, index). All randomness comes from the seed, the epoch and the
    index, so that a sample depends on no worker, order or process. Slices of which nobody labelled
    a pixel are left out.

    Args:
        store: a prepared store.
        cases: names of its cases, such as `store.splits[0].train`.
        image_size: height and width of the samples; None keeps each slice's own.
        augment: applied at the slice's own size, before resizing.
        seed: of the augmentation.
        context: neighbours on each side that a sample has with its slice.

    Raises:
        ConfigError: when there are no cases, one is not in the store, or nobody labelled a slice.
    """

    def __init__(
        self,
        store: Store,
        cases: Sequence[str],
        image_size: tuple[int, int] | None,
        augment: SliceAugmentation | None = None,
        seed: int = 1234,
        context: int = 0,
    ) -> None:
        if not cases:
            raise ConfigError(f"No cases of the store {store.path} were chosen; give at least one.")
        self.store = store
        self.cases = tuple(cases)
        self.image_size = image_size
        self.augment = augment
        self.seed = seed
        self.context = context
        labelled = [(case.slices, case.unlabelled) for case in map(store.case, self.cases)]
        self._numbers = [np.setdiff1d(np.arange(slices), none) for slices, none in labelled]
        self._ends = np.cumsum([len(numbers) for numbers in self._numbers])
        if not len(self):
            raise ConfigError(
                f"All voxels of {', '.join(self.cases[:8])} in the store {store.path} hold the "
                f"ignored value {store.manifest.ignore}. Choose cases that somebody labelled."
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """Return the sample (epoch, index).

        Returns:
            `image` float32 (C (2 context + 1), H, W), `label` int64 (H, W), `case` its name,
            `slice` its number in it. Labels are `store.ignored` where nobody labelled a pixel.
        """
        epoch, index = key
        case, number = self.locate(index)
        image = sample_at(self.store.image(case).swapaxes(0, 1), number, self.context)
        label = np.array(self.store.label(case)[number])
        if self.augment is not None:
            rng = np.random.default_rng((self.seed, epoch, index))
            image, label = self.augment(image, label, rng)
        if self.image_size is not None:
            # "kept": the reference's resizing sets a last row to background for some sizes, a fault
            # of scipy's.
            image = resize(image, self.image_size, order=3, edge="kept")
            label = nearest(label, self.image_size, edge="kept")
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image)),
            "label": torch.from_numpy(label.astype(np.int64)),
            "case": case,
            "slice": number,
        }

    def locate(self, index: int) -> tuple[str, int]:
        """Return the case and the slice in it that `index` stands for.

        Raises:
            IndexError: outside 0 .. len - 1.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)}")
        which = int(np.searchsorted(self._ends, index, side="right"))
        return self.cases[which], int(self._numbers[which][index - self._ends[which]])

    def with_class(self, index: int) -> NDArray[np.intp]:
        """Return the indices of the slices that hold class `index`."""
        indices: list[NDArray[np.intp]] = []
        for end, numbers, name in zip(self._ends, self._numbers, self.cases, strict=True):
            holding = np.isin(numbers, self.store.case(name).slices_with.get(index, ()))
            indices.append(end - len(numbers) + np.flatnonzero(holding))
        return np.concatenate(indices)

"""The torch data set over a prepared store: a sample per slice, the same in every process."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from transunet.data.resize import nearest, resize
from transunet.data.store import Store, StoredCase
from transunet.errors import ConfigError
from transunet.training.paper_augmentation import Augmentation


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

    Raises:
        ConfigError: when there are no cases, one is not in the store, or nobody labelled a slice.
    """

    def __init__(
        self,
        store: Store,
        cases: Sequence[str],
        image_size: tuple[int, int] | None,
        augment: Augmentation | None = None,
        seed: int = 1234,
    ) -> None:
        if not cases:
            raise ConfigError(f"No cases of the store {store.path} were chosen; give at least one.")
        self.store = store
        self.cases = tuple(cases)
        self.image_size = image_size
        self.augment = augment
        self.seed = seed
        self._numbers = [_labelled_slices(store.case(name)) for name in self.cases]
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
            `image` float32 (C, H, W), `label` int64 (H, W), `case` its name, `slice` its number in
            the case. Labels are `store.ignored` where nobody labelled a pixel.
        """
        epoch, index = key
        case, number = self.locate(index)
        image = np.array(self.store.image(case)[number])
        label = np.array(self.store.label(case)[number])
        if self.augment is not None:
            rng = np.random.default_rng((self.seed, epoch, index))
            image, label = self.augment(image, label, rng)
        image, label = self._resized(image, label)
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

    def with_class(self, index: int | None = None) -> NDArray[np.intp]:
        """Return the indices of slices that hold class `index` (None: any but the background)."""
        found: list[NDArray[np.intp]] = []
        for end, numbers, name in zip(self._ends, self._numbers, self.cases, strict=True):
            holding = self.store.case(name).slices_with
            wanted = holding.values() if index is None else [holding.get(index, ())]
            held = np.isin(numbers, [number for slices in wanted for number in slices])
            found.append(end - len(numbers) + np.flatnonzero(held))
        return np.concatenate(found)

    def _resized(
        self, image: NDArray[np.float32], label: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        if self.image_size is None:
            return image, label
        # "kept": the reference's resizing sets a last row to background for some sizes, a fault of
        # scipy's.
        return (
            resize(image, self.image_size, order=3, edge="kept"),
            nearest(label, self.image_size, edge="kept"),
        )


def _labelled_slices(case: StoredCase) -> NDArray[np.intp]:
    return np.setdiff1d(np.arange(case.slices), case.unlabelled)

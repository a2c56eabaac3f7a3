"""A working volume as its planes, each with its neighbours: what a 2D network takes."""

from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt

from transunet.data.resize import nearest, resize
from transunet.settings import Configuration

if TYPE_CHECKING:
    from transunet.data.store import Store, StoredCase


class Slices(Configuration):
    """Every plane of a working volume is a sample, with as many neighbours as are wanted.

    With neighbours a network of two dimensions sees what lies above and below (2.5D): of each
    channel the planes below, the plane itself and those above, in this order, as channels of their
    own. At the ends of the volume its last plane is repeated.

    Raises:
        ConfigError: for a size that is not positive, or fewer than no neighbours.
    """

    kind: Literal["slices"] = "slices"
    size: tuple[PositiveInt, PositiveInt]
    """Height and width in pixels that each plane is resized to for the network."""
    context: NonNegativeInt = 0
    """Neighbours on each side."""

    def input_channels(self, channels: int) -> int:
        """Return the channels that a network takes of a volume's `channels`."""
        return channels * (2 * self.context + 1)

    def samples_in(self, case: "StoredCase") -> NDArray[np.intp]:
        """Return the planes of a case from which there is something to learn."""
        return np.setdiff1d(np.arange(case.slices), case.unlabelled)

    def samples_with(self, case: "StoredCase", index: int) -> NDArray[np.intp]:
        """Return those of `samples_in` that hold class `index`."""
        numbers = self.samples_in(case)
        return numbers[np.isin(numbers, case.slices_with.get(index, ()))]

    def cut(
        self, store: "Store", name: str, number: int, wanted_class: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Return the sample (C (2 context + 1), H, W) of a plane and its label (H, W), copies.

        With a teacher the label is (1 + planes, H, W), as `Store.target` has it.

        Args:
            store: holds the case.
            name: the case's.
            number: of the plane.
            wanted_class: the class that the sample was drawn for, which decides nothing more.
            rng: likewise.
        """
        image = sample_at(store.image(name).swapaxes(0, 1), number, self.context)
        return image, np.array(store.target(name)[..., number, :, :])

    def fit(
        self, image: NDArray[np.float32], label: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Return a sample and its label at the network's size."""
        # "kept": the reference's resizing sets a last row to background for some sizes, a fault of
        # scipy's.
        resized = resize(image, self.size, order=3, edge="kept")
        return resized, nearest(label, self.size, edge="kept")


class Planes(Protocol):
    """A volume's planes (D, C, H, W): an array, or what makes them when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Their number, channels, rows and columns."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, part: slice, /) -> NDArray[Any]:
        """Some of them."""


def sample_at(planes: Planes, index: int, context: int) -> NDArray[Any]:
    """Return the sample (C (2 context + 1), H, W) of the plane `index`, a copy."""
    around, chosen = neighbourhoods(slice(index, index + 1), len(planes), context)
    sample: NDArray[Any] = stack_neighbours(planes[around], chosen)[0]
    return sample


def neighbourhoods(part: slice, count: int, context: int) -> tuple[slice, NDArray[np.intp]]:
    """Return which planes the samples of the planes `part` are made of.

    Args:
        part: the planes that the samples are for, from start to stop.
        count: planes in the volume.
        context: neighbours on each side.

    Returns:
        The planes to read; and (B, 2 context + 1), for each sample its planes among those.
    """
    first, last = max(part.start - context, 0), min(part.stop + context, count)
    wanted = np.arange(part.start, part.stop)[:, None] + np.arange(-context, context + 1)
    return slice(first, last), np.clip(wanted, 0, count - 1) - first


def stack_neighbours(planes: Any, chosen: NDArray[np.intp]) -> Any:
    """Return samples (B, C N, H, W) of planes (D, C, H, W) and those chosen for each, (B, N).

    Of an array an array, of a tensor a tensor where it lies.
    """
    if isinstance(planes, np.ndarray):
        picked: Any = planes[chosen]
    else:
        import torch

        # Picked by slices: for an index the device would have to have done all that it has to do.
        picked = torch.stack([planes[index] for index in chosen.ravel().tolist()])
        picked = picked.unflatten(0, chosen.shape)
    stacked = picked.swapaxes(1, 2)  # (B, C, N, H, W)
    return stacked.reshape(len(chosen), -1, *planes.shape[2:])

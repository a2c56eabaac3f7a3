"""Where the network looks: attention of its layers and heads, and their roll-out, on a volume.

A TransUNet segments slice by slice, so a token sees its own slice and no other.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transunet.attention.rollout import Choice, Head, Layer, checked_choice, chosen
from transunet.attention.token_grid import TokenGrid
from transunet.backends.pytorch import evaluating
from transunet.data.preprocessing import Preprocessing
from transunet.data.resize import resize
from transunet.data.volume import Volume
from transunet.device import choose_device
from transunet.inference.slice_inference import Progress
from transunet.inference.volume_slices import VolumeSlices
from transunet.models.transunet2d.network import TransUNet

_MOST_BYTES = 256 * 2**20
"""Of one batch's attention probabilities, as far as a single slice's are not more."""
_MOST_SLICES = 8

At = Sequence[int] | Volume | None
"""Whose attention: of the token that contains a voxel; of the tokens that a mask on the volume's
grid covers, each by its share of the mask; or of all tokens alike (None)."""


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """What one layer and head attend to, token by token."""

    layer: Layer
    head: Head
    tokens: NDArray[np.float32]
    """(S, rows, columns), as multiples of what a token would get if all got the same: 1 is no
    preference. 0 in slices without a token that was asked about."""
    grid: TokenGrid

    def on(self, volume: Volume) -> Volume:
        """Return the map as float32 (1, X, Y, Z) on the grid of the volume it was made from."""
        return self.grid.volume(self.tokens, volume)

    def slice_of(self, index: int) -> Volume:
        """Return the map of one slice, numbered as in `tokens`, as a volume of that slice alone."""
        return self.grid.slice_volume(self.tokens[index], index)


class AttentionView:
    """Shows what a network attends to in volumes.

    Args:
        model: the network; it computes in evaluation mode.
        preprocessing: how volumes become slices, from the model's bundle.
        device: where the model computes; the best one there is if not given.

    Raises:
        ConfigError: for a device that is not here.
    """

    def __init__(
        self,
        model: TransUNet,
        preprocessing: Preprocessing,
        device: str | torch.device | None = None,
    ) -> None:
        self.place = device if isinstance(device, torch.device) else choose_device(device)
        self.model = model.to(self.place)
        self.preprocessing = preprocessing
        # Measuring a volume's intensities reads all of it: once, not for every voxel clicked at.
        self._known: WeakKeyDictionary[Volume, VolumeSlices] = WeakKeyDictionary()

    def grid_of(self, volume: Volume) -> TokenGrid:
        """Return where the network's tokens lie in `volume`."""
        config = self.model.config
        return TokenGrid(volume.grid, self.preprocessing, config.image_size, config.patch_size)

    def slice_at(
        self, volume: Volume, voxel: tuple[int, int, int], layer: Layer, head: Head
    ) -> Volume:
        """Return where the token that contains `voxel` looks, as the volume's slice through it.

        Args:
            volume: the image, as for predicting.
            voxel: indices into the volume's own array.
            layer: as the state dict numbers them, from 0; or "rollout".
            head: from 0; or "mean" (with "rollout", only that).

        Returns:
            float32 (1, X, Y, Z) with a single slice, which lies exactly on the volume's: the
            attention divided by the most attended token's, so from 0 to 1, bilinear between tokens.

        Raises:
            ConfigError: for a voxel, layer or head that there is not.
            DataError: for an image that cannot be segmented.
        """
        grid = self.grid_of(volume)
        index, _, _ = grid.place(voxel)
        (found,) = self.maps(volume, [(layer, head)], at=voxel)
        tokens = found.tokens[index]
        return grid.slice_volume(tokens / tokens.max(), index)

    def maps(
        self,
        volume: Volume,
        choices: Sequence[Choice],
        at: At = None,
        *,
        slices: Collection[int] | None = None,
        progress: Progress | None = None,
    ) -> list[AttentionMap]:
        """Return what each choice of layer and head attends to, from a single run of the network.

        Of each slice the mean of the attention of the tokens asked about (`at`) is taken. Memory:
        one number per token and choice, and the probabilities of one batch of slices.

        Args:
            volume: the image, as for predicting.
            choices: layers and heads.
            at: whose attention; see `At`.
            slices: the slices to look at; others stay 0.
            progress: called with the slices done and the slices in all.

        Raises:
            ConfigError: for a layer, head or voxel that there is not.
            GeometryError: for a mask on another grid than the volume's.
            DataError: for an image that cannot be segmented.
        """
        choices = [checked_choice(*choice, self.model.config) for choice in choices]
        grid = self.grid_of(volume)
        queries = _queries(grid, at)
        todo = [index for index in range(len(queries)) if queries[index].any()]
        todo = todo if slices is None else [index for index in todo if index in slices]
        tokens = np.zeros((len(choices), *grid.shape), np.float32)
        for part, maps in self._attention(volume, todo, progress):
            asked = torch.from_numpy(queries[part]).to(self.place)[:, None]  # (B, 1, N)
            for out, matrix in zip(tokens, chosen(maps, choices), strict=True):
                received = (asked @ matrix)[:, 0] * matrix.shape[-1]
                out[part] = received.reshape(len(part), grid.rows, grid.columns).cpu().numpy()
        return [
            AttentionMap(layer, head, values, grid)
            for (layer, head), values in zip(choices, tokens, strict=True)
        ]

    def _attention(
        self, volume: Volume, todo: Sequence[int], progress: Progress | None
    ) -> Iterator[tuple[list[int], tuple[Tensor, ...]]]:
        """Yield the slices of each batch and every layer's probabilities (B, heads, N, N)."""
        slices = self._slabs(volume)
        size = self.model.config.image_size
        for start in range(0, len(todo), self._batch):
            part = list(todo[start : start + self._batch])
            images = np.concatenate([slices[index : index + 1] for index in part])
            yield part, self._probabilities(resize(images, size, order=3, edge="kept"))
            if progress is not None:
                progress(start + len(part), len(todo))

    @torch.inference_mode()
    def _probabilities(self, images: NDArray[np.float32]) -> tuple[Tensor, ...]:
        with evaluating(self.model):
            _, maps = self.model(torch.from_numpy(images).to(self.place), return_attention=True)
        return tuple(one.float() for one in maps)

    @property
    def _batch(self) -> int:
        config = self.model.config
        tokens = config.grid[0] * config.grid[1]
        each = 4 * config.num_layers * config.num_heads * tokens**2
        return max(1, min(_MOST_SLICES, _MOST_BYTES // each))

    def _slabs(self, volume: Volume) -> VolumeSlices:
        if volume not in self._known:
            self._known[volume] = VolumeSlices(volume, self.preprocessing)
        return self._known[volume]


def _queries(grid: TokenGrid, at: At) -> NDArray[np.float32]:
    """The weight of every token of every slice, (S, N); rows sum to 1 or are 0."""
    slices, rows, columns = grid.shape
    if at is None:
        return np.full((slices, rows * columns), 1 / (rows * columns), np.float32)
    if isinstance(at, Volume):
        return grid.shares(at)
    index, row, column = grid.place(at)
    found = np.zeros((slices, rows * columns), np.float32)
    found[index, row * columns + column] = 1
    return found

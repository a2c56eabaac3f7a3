"""Where the network looks: attention of its layers and heads, and their roll-out, on a volume.

A TransUNet segments slice by slice, so a token sees its own slice and no other. One of volumes
segments patch by patch: `transunet.attention.patch_attention` puts their maps together.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from transunet.attention.patch_attention import attention_planes
from transunet.attention.rollout import Head, Layer, LayerHead, check_layer_head, select_matrices
from transunet.attention.token_grid import TokenGrid
from transunet.backends.pytorch import evaluating
from transunet.data.preprocessing import Preprocessing
from transunet.data.resize import resize
from transunet.data.sampling import Sampling
from transunet.data.sampling.patches import Patches
from transunet.data.sampling.slices import sample_at
from transunet.data.volume import Volume
from transunet.device import choose_device
from transunet.inference.slice_inference import Progress, VolumeSlices
from transunet.models.segmentation_network import SegmentationNetwork

_MOST_BYTES = 256 * 2**20
"""Of one batch's attention probabilities, as far as a single slice's are not more."""
_MOST_SLICES = 8

Query = Sequence[int] | Volume | None
"""Whose attention: of the token that contains a voxel; of the tokens that a mask on the volume's
grid covers, each by its share of the mask; or of all tokens alike (None)."""


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """What one layer and head attend to, token by token."""

    layer: Layer
    head: Head
    tokens: NDArray[np.float32]
    """(S, rows, columns), as multiples of what a token would get if all got the same: 1 is no
    preference. 0 in slices without a token that was asked about. Of patches, whose tokens lie
    anywhere, the volume's own voxels: 0 where no patch reaches that has such a token."""
    grid: TokenGrid

    @property
    def name(self) -> str:
        """Such as `rollout`, `layer03_mean` or `layer03_head11`."""
        if self.layer == "rollout":
            return "rollout"
        head = "mean" if self.head == "mean" else f"head{self.head:02d}"
        return f"layer{self.layer:02d}_{head}"

    def on(self, volume: Volume) -> Volume:
        """Return the map as float32 (1, X, Y, Z) on the grid of the volume it was made from."""
        return self.grid.to_volume(self.tokens, volume)

    def slice_of(self, index: int) -> Volume:
        """Return the map of one slice, numbered as in `tokens`, as a volume of that slice alone."""
        return self.grid.slice_to_volume(self.tokens[index], index)


class AttentionView:
    """Shows what a network attends to in volumes.

    Args:
        model: the network; it computes in evaluation mode.
        preprocessing: how volumes become slices, from the model's bundle.
        device: where the model computes; the best one there is if not given.
        context: neighbours on each side that the model sees with each slice.
        sampling: how the model takes volumes, from its bundle; it brings its own context. If not
            given, slices, or of a model of volumes patches as `Patches` has them.

    Raises:
        ConfigError: for a device that is not here.
    """

    def __init__(
        self,
        model: SegmentationNetwork,
        preprocessing: Preprocessing,
        device: str | torch.device | None = None,
        *,
        context: int = 0,
        sampling: Sampling | None = None,
    ) -> None:
        self.device = choose_device(device)
        self.model = model.to(self.device)
        if sampling is None and model.config.axes == 3:
            sampling = Patches(size=model.config.image_size)
        self.preprocessing = preprocessing
        self.context = sampling.context if sampling else context
        self.patches = sampling if isinstance(sampling, Patches) else None
        # Measuring a volume's intensities reads all of it: once, not for every voxel clicked at.
        self._slices: WeakKeyDictionary[Volume, VolumeSlices] = WeakKeyDictionary()

    def grid_of(self, volume: Volume) -> TokenGrid:
        """Return where the network's tokens lie in `volume`; of patches, its own voxels."""
        config = self.model.config
        if self.patches:
            size = self.preprocessing.native_shape(volume)[1:]
            return TokenGrid(volume.grid, self.preprocessing, size, (1, 1))
        return TokenGrid(volume.grid, self.preprocessing, config.image_size, config.stride)

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
        index, _, _ = grid.token_at(voxel)
        (attention,) = self.maps(volume, [(layer, head)], at=voxel, slices=[index])
        tokens = attention.tokens[index]
        # A patch's tokens may look at other slices only.
        most = max(float(tokens.max()), float(np.finfo(np.float32).tiny))
        return grid.slice_to_volume(tokens / most, index)

    def maps(
        self,
        volume: Volume,
        choices: Sequence[LayerHead],
        at: Query = None,
        *,
        slices: Collection[int] | None = None,
        progress: Progress | None = None,
    ) -> list[AttentionMap]:
        """Return what each choice of layer and head attends to, from a single run of the network.

        Of each slice the mean of the attention of the tokens asked about (`at`) is taken. Memory:
        one number per token (of patches, per voxel) and choice, and the probabilities of one batch.

        Args:
            volume: the image, as for predicting.
            choices: layers and heads.
            at: whose attention; see `Query`.
            slices: the slices to look at; others stay 0.
            progress: called with the slices or patches done, and those in all.

        Raises:
            ConfigError: for a layer, head or voxel that there is not, or a network without any.
            GeometryError: for a mask on another grid than the volume's.
            DataError: for an image that cannot be segmented.
        """
        config = self.model.config
        choices = [check_layer_head(layer, head, config) for layer, head in choices]
        grid = self.grid_of(volume)
        if self.patches:
            asked = None
            if isinstance(at, Volume):
                asked = grid.slices_of(at)
            elif at is not None:
                asked = np.zeros(grid.shape, np.bool_)
                asked[grid.token_at(at)] = True
            found = attention_planes(
                self.model, self.device, self.planes_of(volume), self.patches, choices,
                grid.shape, asked, slices, progress,
            )  # fmt: skip
            voxels = np.zeros((len(choices), *grid.shape), np.float32)
            start = 0
            for block in found:
                kept = [i for i in range(len(block)) if slices is None or start + i in slices]
                voxels[:, [start + i for i in kept]] = block[kept].swapaxes(0, 1)
                start += len(block)
            return _maps(choices, voxels, grid)
        queries = _token_weights(grid, at)
        wanted = [
            index
            for index in range(len(queries))
            if queries[index].any() and (slices is None or index in slices)
        ]
        tokens = np.zeros((len(choices), *grid.shape), np.float32)
        planes = self.planes_of(volume)
        for start in range(0, len(wanted), self._batch_size):
            part = wanted[start : start + self._batch_size]
            images = np.stack([sample_at(planes, i, self.context) for i in part])
            images = resize(images, config.image_size, order=3, edge="kept")
            with torch.inference_mode(), evaluating(self.model):
                batch = torch.from_numpy(images).to(self.device)
                _, probabilities = self.model(batch, return_attention=True)
            weights = torch.from_numpy(queries[part]).to(self.device)[:, None]  # (B, 1, N)
            matrices = select_matrices([layer.float() for layer in probabilities], choices)
            for out, matrix in zip(tokens, matrices, strict=True):
                received = (weights @ matrix)[:, 0] * matrix.shape[-1]
                out[part] = received.reshape(len(part), grid.rows, grid.columns).cpu().numpy()
            if progress is not None:
                progress(start + len(part), len(wanted))
        return _maps(choices, tokens, grid)

    def planes_of(self, volume: Volume) -> VolumeSlices:
        """Return the planes that the network sees of `volume`, measured once."""
        if volume not in self._slices:
            self._slices[volume] = VolumeSlices(volume, self.preprocessing)
        return self._slices[volume]

    @property
    def _batch_size(self) -> int:
        config = self.model.config
        each = 4 * config.layers * config.heads * config.tokens**2
        return max(1, min(_MOST_SLICES, _MOST_BYTES // each))


def _maps(
    choices: Sequence[LayerHead], tokens: NDArray[np.float32], grid: TokenGrid
) -> list[AttentionMap]:
    return [
        AttentionMap(layer, head, values, grid)
        for (layer, head), values in zip(choices, tokens, strict=True)
    ]


def _token_weights(grid: TokenGrid, at: Query) -> NDArray[np.float32]:
    """The weight of every token of every slice, (S, N); rows sum to 1 or are 0."""
    slices, rows, columns = grid.shape
    if at is None:
        return np.full((slices, rows * columns), 1 / (rows * columns), np.float32)
    if isinstance(at, Volume):
        return grid.token_shares(at)
    index, row, column = grid.token_at(at)
    weights = np.zeros((slices, rows * columns), np.float32)
    weights[index, row * columns + column] = 1
    return weights

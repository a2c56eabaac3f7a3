"""What a network that takes patches looks at, assembled over the whole volume.

A patch sees itself and no more of the volume. So its maps are averaged where patches overlap, with
the weights of prediction; and where something is asked about, also by what it weighs in each patch.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from transunet.attention.rollout import LayerHead, select_matrices
from transunet.attention.token_grid import TokenGrid
from transunet.backends.pytorch import evaluating
from transunet.data.resize import zoom_matrix
from transunet.data.sampling.patches import Patches
from transunet.data.sampling.slices import Planes
from transunet.data.volume import Volume
from transunet.inference.logits import as_array
from transunet.inference.patch_inference import averaged_planes, resized_planes
from transunet.inference.slice_inference import Progress

if TYPE_CHECKING:
    from transunet.models.segmentation_network import SegmentationNetwork
    from transunet.models.transunet3d.network import TransUNet3D


@dataclass(frozen=True, eq=False)
class _Asking:
    """Planes (D, C + 2, H, W): a working volume's, whose voxels are asked about, and where."""

    planes: Planes
    asked: NDArray[np.float32]
    """(D, H, W)."""
    wanted: NDArray[np.bool_]
    """(D,)."""

    @property
    def shape(self) -> tuple[int, ...]:
        depth, channels, *size = self.planes.shape
        return depth, channels + 2, *size

    def __len__(self) -> int:
        return len(self.planes)

    def __getitem__(self, part: slice) -> NDArray[np.float32]:
        asked = self.asked[part, None]
        wanted = np.broadcast_to(self.wanted[part, None, None, None], asked.shape)
        return np.concatenate([self.planes[part], asked, wanted.astype(np.float32)], axis=1)


def attention_planes(
    model: "SegmentationNetwork",
    device: torch.device,
    planes: Planes,
    sampling: Patches,
    choices: Sequence[LayerHead],
    shape: tuple[int, int, int],
    asked: NDArray[np.bool_] | None = None,
    slices: Collection[int] | None = None,
    progress: Progress | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Yield what each layer and head attends to in a volume, (B, choices, H, W) of some planes.

    The unit is what each token of a patch would get if all got the same. A patch counts as much as
    the voxels asked about weigh in it (`Patches.weights`); where no patch reaches that has any of
    them, maps are 0.

    Args:
        model: the network; it computes in evaluation mode.
        device: where it is.
        planes: the working volume's (D, C, H, W).
        sampling: size, overlap and padding of the patches.
        choices: layers and heads that there are.
        shape: (D, H, W) of the volume's own grid, on which maps come.
        asked: the voxels whose tokens' attention is wanted, (D, H, W) of the own grid, each token
            by its share of them; all voxels alike if not given.
        slices: planes of the own grid that are wanted; patches that none of them needs are passed
            over, and maps are 0 there.
        progress: called with the patches done and the patches in all.
    """
    depth, channels, *size = planes.shape
    counts = np.ones((depth, *size), np.float32)
    if asked is not None:
        counts[:] = 0
        working = [
            np.rint(indices * ((new - 1) / max(old - 1, 1))).astype(np.intp)
            for indices, old, new in zip(asked.nonzero(), shape, counts.shape, strict=True)
        ]
        np.add.at(counts, tuple(working), 1)
    needed = np.ones(depth, np.bool_)
    if slices is not None:
        matrix = zoom_matrix(depth, shape[0], 1, "kept") if depth != shape[0] else np.eye(depth)
        needed = (matrix[list(slices)] != 0).any(axis=0)
    stride = model.config.stride
    weights = torch.from_numpy(sampling.weights()).to(device)

    @torch.inference_mode()
    def compute(patches: NDArray[np.float32]) -> Tensor:
        x = torch.from_numpy(patches).to(device)
        images, counts, wanted = x[:, :channels], x[:, channels, None], x[:, -1, None]
        out = x.new_zeros(len(x), len(choices) + 1, *sampling.size)
        here = (counts.flatten(1).any(1) & wanted.flatten(1).any(1)).nonzero()[:, 0]
        if not len(here):
            return out
        with evaluating(model):
            _, maps = model(images[here], return_attention=True)
        tokens = F.avg_pool3d(counts[here], stride)
        shares = tokens.flatten(2) / tokens.sum((2, 3, 4))[..., None]  # (B, 1, N)
        importance = (counts[here, 0] * weights).sum((1, 2, 3), keepdim=True) / weights.sum()
        matrices = select_matrices([layer.float() for layer in maps], choices)
        for index, matrix in enumerate(matrices):
            received = (shares @ matrix) * matrix.shape[-1]
            grid = received.view(len(here), 1, *tokens.shape[2:])
            out[here, index] = (
                importance * F.interpolate(grid, sampling.size, mode="trilinear")[:, 0]
            )
        out[here, -1] = importance
        return out

    def means() -> Iterator[NDArray[np.float32]]:
        asking = _Asking(planes, counts, needed)
        for some in averaged_planes(compute, asking, sampling, 1, progress):
            values = as_array(some)
            importance = np.maximum(values[:, -1:], np.finfo(np.float32).tiny)
            yield np.asarray(values[:, :-1] / importance, dtype=np.float32)

    for some in resized_planes(means(), depth, shape):
        yield as_array(some)


@dataclass(frozen=True, eq=False)
class QueryMask:
    """What one query of a transformer decoder sees in a volume."""

    number: int
    """From 0, as the state dict numbers them."""
    label: str
    """The class that it gives to what is in its mask, or "no object"."""
    share: float
    """How sure it is of that, from 0 to 1: the mean over what is in its mask."""
    values: NDArray[np.float16]
    """(D, H, W) of the volume's own grid: how likely a voxel is in the mask, from 0 to 1."""
    grid: TokenGrid

    @property
    def name(self) -> str:
        """Such as `query07`."""
        return f"query{self.number:02d}"

    def on(self, volume: Volume) -> Volume:
        """Return the mask as float32 (1, X, Y, Z) on the grid of the volume it was made from."""
        return self.grid.to_volume(self.values.astype(np.float32), volume)

    def slice_of(self, index: int) -> Volume:
        """Return one slice of the mask as a volume of that slice alone."""
        return self.grid.slice_to_volume(self.values[index].astype(np.float32), index)


def query_masks(
    model: "TransUNet3D",
    device: torch.device,
    planes: Planes,
    sampling: Patches,
    labels: Sequence[str],
    grid: TokenGrid,
    progress: Progress | None = None,
) -> list[QueryMask]:
    """Return every query's mask, averaged over patches as probabilities are, and its class.

    A query may give other classes to what it finds in other patches: told is the one that most of
    its mask gets. Memory: two bytes per voxel and query.

    Args:
        model: a network with queries; it computes in evaluation mode.
        device: where it is.
        planes: the working volume's (D, C, H, W).
        sampling: size, overlap and padding of the patches.
        labels: the classes' names.
        grid: the volume's own voxels, as `AttentionView.grid_of` gives them for patches.
        progress: called with the patches done and the patches in all.
    """
    names = [*labels, "no object"]
    queries = model.config.num_queries
    seen = torch.zeros(queries, len(names), device=device)
    weights = torch.from_numpy(sampling.weights()).to(device)

    @torch.inference_mode()
    def compute(patches: NDArray[np.float32]) -> Tensor:
        with evaluating(model):
            prediction = model.query_prediction(torch.from_numpy(patches).to(device))
        masks = prediction.masks.sigmoid()
        inside = (masks * weights).sum((2, 3, 4))
        seen.add_((inside[..., None] * prediction.logits.softmax(-1)).sum(0))
        return masks

    values = np.empty((queries, *grid.shape), np.float16)
    start = 0
    averaged = averaged_planes(compute, planes, sampling, 1, progress)
    for some in resized_planes(averaged, len(planes), grid.shape):
        values[:, start : start + len(some)] = as_array(some).swapaxes(0, 1)
        start += len(some)
    shares = (seen / seen.sum(1, keepdim=True)).cpu().numpy()
    return [
        QueryMask(number, names[of_query.argmax()], float(of_query.max()), values[number], grid)
        for number, of_query in enumerate(shares)
    ]

"""Correcting a label map by clicks: only the samples that hold them are computed anew.

Of slices each plane with a click, whole; of patches one around a click, of which the inner half is
taken over, as it is that decides where patches overlap by half; to the end where the volume ends.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from transunet.backends.pytorch import evaluating
from transunet.data.click_maps import PlacedClick, draw_guidance
from transunet.data.preprocessing import Preprocessing
from transunet.data.regions import Region
from transunet.data.resize import nearest, resize, zoom_matrix
from transunet.data.sampling import Sampling
from transunet.data.sampling.patches import Patches
from transunet.data.sampling.slices import Slices, neighbourhoods, stack_neighbours
from transunet.data.volume import Volume
from transunet.inference.logits import enlarge, label_map_of, label_type, probabilities_of
from transunet.inference.slice_inference import VolumeSlices
from transunet.models.segmentation_network import SegmentationNetwork

Change = tuple[tuple[slice, slice, slice], NDArray[Any]]
"""Planes, rows and columns of a volume at its own spacing, and their labels (d, h, w)."""


@dataclass(frozen=True)
class Corrector:
    """A network that follows clicks, and how volumes meet it."""

    model: SegmentationNetwork
    """On `device`."""
    device: str
    preprocessing: Preprocessing
    sampling: Sampling
    structures: tuple[int, ...]
    """The labels that are written for what the network tells apart, in its order."""
    regions: tuple[Region, ...]

    def correct(
        self,
        volume: Volume,
        slices: VolumeSlices,
        previous: Volume,
        clicks: Sequence[tuple[Sequence[int], int]],
        applied: int,
    ) -> Volume:
        """Return `previous` with what the network makes of new clicks.

        Args:
            volume: the image.
            slices: of it.
            previous: a label map on its grid.
            clicks: all that were given: a voxel of the image, and the label there, 0 for none.
            applied: how many of them, from the first, `previous` shows already.
        """
        to_planes = np.linalg.inv(volume.reoriented(self.preprocessing.orientation).affine)
        placed = []
        for voxel, label in clicks:
            at = np.rint(to_planes @ volume.affine @ (*voxel, 1))[:3].astype(int)
            placed.append((tuple(at.tolist()), self.structures.index(label) + 1 if label else 0))
        highest = max(*self.structures, int(previous.array.max()))
        corrected = previous.with_array(previous.array[:1].astype(label_type(highest)))
        planes = self.preprocessing.oriented(corrected)[0]  # a view of what is returned
        if isinstance(self.sampling, Patches):
            changes = self._patches(slices, planes, placed, applied, self.sampling)
        else:
            changes = self._planes(slices, planes, placed, applied, self.sampling)
        for part, labels in changes:
            planes[part] = labels
        return corrected

    def _planes(
        self,
        slices: VolumeSlices,
        label_map: NDArray[Any],
        clicks: Sequence[PlacedClick],
        applied: int,
        sampling: Slices,
    ) -> Iterator[Change]:
        """Yield each plane with a new click, labelled anew."""
        sides = label_map.shape[1:]
        for plane in sorted({voxel[0] for voxel, _ in clicks[applied:]}):
            around, chosen = neighbourhoods(slice(plane, plane + 1), len(slices), sampling.context)
            sample = stack_neighbours(resize(slices[around], sampling.size, edge="kept"), chosen)
            here = [
                (_at_size(voxel[1:], sides, sampling.size), position)
                for voxel, position in clicks
                if voxel[0] == plane
            ]
            so_far = nearest(label_map[plane], sampling.size, edge="kept")
            logits = enlarge(self._logits(sample, so_far, here), slices.shape[2:4])
            found = label_map_of(logits, self._written, 0)
            part = slice(plane, plane + 1), slice(0, sides[0]), slice(0, sides[1])
            yield part, nearest(found, sides, edge="kept")

    def _patches(
        self,
        slices: VolumeSlices,
        label_map: NDArray[Any],
        clicks: Sequence[PlacedClick],
        applied: int,
        sampling: Patches,
    ) -> Iterator[Change]:
        """Yield the inner halves of patches around new clicks.

        A click that lies in an earlier one's is computed with that one.
        """
        depth, _, height, width = slices.shape
        shape, sides = (depth, height, width), label_map.shape
        placed = [(_at_size(voxel, sides, shape), position) for voxel, position in clicks]
        waiting = [voxel for voxel, _ in placed[applied:]]
        while waiting:
            start = sampling.around(waiting[0], shape)
            inner = [
                (0 if at <= 0 else at + side // 4, n if at + side >= n else at + side - side // 4)
                for at, side, n in zip(start, sampling.size, shape, strict=True)
            ]
            waiting = [voxel for voxel in waiting if not _lies_in(voxel, inner)]
            first = max(start[0], 0)
            slab = slices[first : min(start[0] + sampling.size[0], depth)].swapaxes(0, 1)
            image = sampling.read(slab, (start[0] - first, *start[1:]), sampling.padding)
            so_far = _patch_of(label_map, start, sampling.size, shape)
            here = [
                (tuple(at - low for at, low in zip(voxel, start, strict=True)), position)
                for voxel, position in placed
            ]
            logits = self._logits(image[None], so_far, here).cpu().numpy()
            values: Any = probabilities_of(logits, bool(self.regions))
            part = []
            for axis, (low, high) in enumerate(inner):
                # As prediction resizes probabilities, of the rows that need nothing outside.
                matrix = zoom_matrix(shape[axis], sides[axis], 1, "kept")
                (rows,) = np.nonzero(~matrix[:, :low].any(1) & ~matrix[:, high:].any(1))
                part.append(slice(int(rows[0]), int(rows[-1]) + 1))
                own = np.moveaxis(values, axis + 2, -1)
                own = own[..., low - start[axis] : high - start[axis]]
                values = np.moveaxis(own @ matrix[part[-1], low:high].T, -1, axis + 2)
            yield (part[0], part[1], part[2]), label_map_of(values, self._written, 0.5)[0]

    @property
    def _written(self) -> tuple[int, ...]:
        """The label of each region; none of classes."""
        return self.structures if self.regions else ()

    @torch.inference_mode()
    def _logits(
        self, sample: NDArray[np.float32], labels: NDArray[Any], clicks: Sequence[PlacedClick]
    ) -> torch.Tensor:
        """Return the logits (1, classes, *spatial) of a sample (1, C, *spatial)."""
        so_far = labels
        if self.regions:
            so_far = np.zeros_like(labels)
            for position, label in enumerate(self.structures, 1):
                so_far[labels == label] = position
        guidance = draw_guidance(so_far, clicks, len(self.structures))[None]
        images, said = (torch.from_numpy(part).to(self.device) for part in (sample, guidance))
        with evaluating(self.model):
            return self.model(images, guidance=said).float()  # type: ignore[no-any-return]


def _at_size(voxel: Sequence[int], sides: Sequence[int], size: Sequence[int]) -> tuple[int, ...]:
    """Return where a voxel lies when `sides` are resized to `size`, corners on corners."""
    return tuple(
        round(at * (new - 1) / max(old - 1, 1))
        for at, old, new in zip(voxel, sides, size, strict=True)
    )


def _lies_in(voxel: Sequence[int], box: Sequence[tuple[int, int]]) -> bool:
    return all(low <= at < high for at, (low, high) in zip(voxel, box, strict=True))


def _patch_of(
    label_map: NDArray[Any], start: Sequence[int], size: Sequence[int], shape: Sequence[int]
) -> NDArray[Any]:
    """Return a patch of a label map that is resized to `shape`, the nearest voxels; 0 outside."""
    patch = np.zeros(tuple(size), label_map.dtype)
    picked, there = [], []
    for at, side, new, old in zip(start, size, shape, label_map.shape, strict=True):
        low, high = max(at, 0), min(at + side, new)
        there.append(slice(low - at, high - at))
        picked.append(np.rint(np.arange(low, high) * (old - 1) / max(new - 1, 1)).astype(int))
    patch[tuple(there)] = label_map[np.ix_(*picked)]
    return patch

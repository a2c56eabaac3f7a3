"""Patch inference: overlapping patches of a volume go through a 3D network and become labels.

Where patches overlap, their probabilities are averaged with Gaussian weights, since a network knows
most about a patch's middle. Everything here that is averaged is averaged as probabilities, windows
as mirror images and the members of an ensemble, so that it does not matter which is done first;
the logarithms of scores that a network with queries gives, which have no lower end, could not be
averaged as they are. Memory is bounded by a patch's depth: patches come plane by plane, and planes
that no later patch reaches are labelled, or brought to the volume's own grid first, and let go.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from transunet.backends.protocol import Network, uploaded
from transunet.data.resize import matrix_beside, zoom_matrix
from transunet.data.sampling.patches import Patches, Position
from transunet.data.sampling.slices import Planes
from transunet.inference.constant_samples import OncePerConstant
from transunet.inference.logits import concatenate, enlarge, pieces, probabilities_of, zeros
from transunet.inference.prefetch import prefetch
from transunet.inference.slice_inference import Progress

if TYPE_CHECKING:
    from transunet.backends.protocol import Logits

_AT_ONCE = 8
"""Planes that are labelled together."""


def blended_planes(
    network: Network,
    planes: Planes,
    sampling: Patches,
    batch_size: int = 1,
    progress: Progress | None = None,
    regions: bool = False,
) -> "Iterator[Logits]":
    """Yield the probabilities of a working volume, some planes (B, classes, H, W) at a time.

    Args:
        network: what gives the logits of patches.
        planes: the working volume's planes (D, C, H, W): an array, or what makes them when they are
            asked for.
        sampling: size, overlap and padding of the patches.
        batch_size: patches that go through at once.
        progress: called with the patches done and the patches in all.
        regions: whether the network tells regions apart, and not classes.
    """
    return averaged_planes(
        lambda images: probabilities_of(network(uploaded(network, images)), regions),
        planes,
        sampling,
        batch_size,
        progress,
    )


def averaged_planes(
    compute: "Callable[[NDArray[np.float32]], Logits]",
    planes: Planes,
    sampling: Patches,
    batch_size: int = 1,
    progress: Progress | None = None,
) -> "Iterator[Logits]":
    """Yield what patches give, averaged where they overlap, some planes (B, K, H, W) at a time.

    No more planes than a patch is deep are held, and patches of air are computed once
    (`OncePerConstant`).

    Args:
        compute: from patches (B, C, d, h, w) to what is averaged, (B, K, d, h, w).
        planes: (D, C, H, W).
        sampling: size, overlap and padding of the patches.
        batch_size: patches that go through at once.
        progress: called with the patches done and the patches in all.
    """
    length, _, *size = planes.shape
    positions = sampling.positions((length, *size))
    total: Any = None  # (planes, classes, H, W), of the planes from `first` on
    weight: Any = None  # (planes, H, W)
    patch_weights: Any = None
    first = done = 0
    compute = OncePerConstant(compute)
    with closing(prefetch(_batches(_windows(planes, sampling, positions), batch_size))) as batches:
        for places, patches in batches:
            for position, values in zip(places, compute(patches), strict=True):
                if total is None:
                    held = min(sampling.size[0], length)
                    total = zeros((held, len(values), *size), values)
                    weight = zeros((held, *size), values)
                    patch_weights = sampling.weights()
                    if not isinstance(values, np.ndarray):
                        patch_weights = values.new_tensor(patch_weights)
                # Planes before this patch are finished: no later one begins above it.
                step = max(position[0], 0) - first
                if step:
                    yield from _finished(total[:step], weight[:step])
                    for plane in range(len(total)):
                        kept = plane + step < len(total)
                        total[plane] = total[plane + step] if kept else 0
                        weight[plane] = weight[plane + step] if kept else 0
                    first += step
                there, inside = [], []
                ends = first + len(total), *size
                for start, side, end in zip(position, sampling.size, ends, strict=True):
                    low, high = max(start, 0), min(start + side, end)
                    there.append(slice(low, high))
                    inside.append(slice(low - start, high - start))
                depths = slice(there[0].start - first, there[0].stop - first)
                weights = patch_weights[*inside]
                part = total[depths, :, *there[1:]]
                part += (values[:, *inside] * weights).swapaxes(0, 1)
                part = weight[depths, *there[1:]]
                part += weights
                done += 1
                if progress is not None:
                    progress(done, len(positions))
    yield from _finished(total[: length - first], weight[: length - first])


def resized_planes(
    planes: "Iterable[Logits]", length: int, shape: tuple[int, int, int]
) -> "Iterator[Logits]":
    """Yield the planes of a volume resized with linear interpolation, a few at a time.

    What comes out is `resize(order=1, edge="kept")` of the whole volume, of which only neighbouring
    planes are held.

    Args:
        planes: some planes (B, classes, H, W) at a time.
        length: how many they are.
        shape: (D, H, W) that they become.
    """
    size = shape[1:]
    if length == shape[0]:
        for some in planes:
            for plane in pieces(some):
                yield enlarge(plane, size)
        return
    matrix = zoom_matrix(length, shape[0], 1, "kept")
    lowest = (matrix != 0).argmax(axis=1)
    highest = length - 1 - (matrix != 0)[:, ::-1].argmax(axis=1)
    held: Any = None  # the planes from `first` on
    first = made = 0
    for some in planes:
        held = some if held is None else concatenate([held, some])
        while made < len(matrix) and highest[made] < first + len(held):
            ready = int(np.searchsorted(highest, first + len(held)))
            part = slice(made, min(made + _AT_ONCE, ready))
            low, high = lowest[part.start], highest[part.stop - 1] + 1
            between: Any = held[low - first : high - first].reshape(high - low, -1)
            if isinstance(held, np.ndarray):
                mixed = np.ascontiguousarray(matrix[part, low:high]) @ between
            else:
                rows = matrix_beside(held, length, shape[0], 1, "kept")[part, low:high].contiguous()
                if held.device.type == "cpu":  # which needs no doubles, see `resize_tensor`
                    rows = rows.float()
                mixed = (rows @ between.to(rows.dtype)).float()
            for plane in pieces(mixed.reshape(len(mixed), *held.shape[1:])):
                yield enlarge(plane, size)
            made = part.stop
        unused = (int(lowest[made]) if made < len(matrix) else first + len(held)) - first
        held, first = held[min(unused, len(held)) :], first + min(unused, len(held))


def _windows(
    planes: Planes, sampling: Patches, positions: Sequence[Position]
) -> Iterator[tuple[Position, NDArray[np.float32]]]:
    """Yield the patches at `positions`, which come plane by plane; planes are made once."""
    slab: NDArray[np.float32] | None = None  # (C, planes, H, W), from `first` on
    first = end = 0
    for position in positions:
        low = max(position[0], 0)
        high = min(position[0] + sampling.size[0], len(planes))
        if slab is None:
            slab = planes[low:high].swapaxes(0, 1)
        elif high > end:
            slab = np.concatenate([slab[:, low - first :], planes[end:high].swapaxes(0, 1)], axis=1)
        first, end = low, high
        yield position, sampling.read(slab, (position[0] - first, *position[1:]), sampling.padding)


def _batches(
    windows: Iterable[tuple[Position, NDArray[np.float32]]], size: int
) -> Iterator[tuple[list[Position], NDArray[np.float32]]]:
    windows = iter(windows)
    while batch := list(islice(windows, size)):
        yield [position for position, _ in batch], np.stack([patch for _, patch in batch])


def _finished(total: Any, weight: Any) -> "Iterator[Logits]":
    for start in range(0, len(total), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        yield total[part] / weight[part][:, None]

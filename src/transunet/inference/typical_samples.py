"""Slices or patches of a volume that are worth a look: spread over it, and not empty."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from transunet.data.resize import resize
from transunet.data.sampling import Sampling
from transunet.data.sampling.patches import Patches
from transunet.data.sampling.slices import Planes, sample_at

SLICES = 64
"""Slices that show how large a network's activations get; more change labels no further
(docs/how-to/export.md)."""
PATCHES = 16
"""Patches that do, which have more voxels each."""
_CANDIDATES = 4
"""Slices or patches that are looked at for each one that is taken."""

Value = TypeVar("Value")
Place = int | tuple[int, ...]
"""Where a sample lies: the number of a slice, the first voxel of a patch."""


def usual_count(sampling: Sampling) -> int:
    """Return how many samples are enough."""
    return PATCHES if isinstance(sampling, Patches) else SLICES


def typical_samples(
    planes: Planes, sampling: Sampling, most: int, numbers: Sequence[int] | None = None
) -> list[tuple[Place, NDArray[np.float32]]]:
    """Return up to `most` samples, each with where it lies, (C, *spatial) at the network's size.

    Args:
        planes: of a working volume.
        sampling: how the network takes it.
        most: how many.
        numbers: of the slices to choose from; all if not given.
    """
    images: list[tuple[Place, NDArray[np.float32]]]
    if isinstance(sampling, Patches):
        array = planes[0 : len(planes)].swapaxes(0, 1)
        places = evenly_chosen(sampling.positions(array.shape[1:]), _CANDIDATES * most)
        images = [(place, sampling.read(array, place, sampling.padding)) for place in places]
    else:
        chosen = evenly_chosen(
            range(len(planes)) if numbers is None else numbers, _CANDIDATES * most
        )
        images = [(number, sample_at(planes, number, sampling.context)) for number in chosen]
    contrast = [float(image.std()) for _, image in images]
    # Those whose contrast is far below the others' are empty.
    least = max(float(np.median(contrast)) / 2, float(np.finfo(np.float32).tiny))
    kept = [image for image, own in zip(images, contrast, strict=True) if own >= least]
    return [
        (place, resize(image, sampling.size, order=3, edge="kept"))
        for place, image in evenly_chosen(kept, most)
    ]


def evenly_chosen(values: Sequence[Value], most: int) -> list[Value]:
    """Return up to `most` of `values`, spread evenly: the middle of as many equal parts."""
    count = min(len(values), most)
    return [values[int((i + 0.5) * len(values) / count)] for i in range(count)]

"""After the network: keeping each structure's largest piece, and how large structures are."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

from transunet.data.regions import Region
from transunet.data.volume import Volume


def keep_largest(labels: NDArray[Any], classes: Collection[int]) -> None:
    """Keep only the largest connected piece of each of `classes`, in `labels` itself.

    Voxels that share a face, an edge or a corner are connected (26 neighbours). Of pieces of one
    size the first in the array stays; what goes becomes background.

    Args:
        labels: (X, Y, Z) unsigned.
        classes: class indices; those that do not occur are passed over.
    """
    boxes = find_objects(labels.astype(np.int32) if labels.dtype.itemsize > 2 else labels)
    for index in classes:
        if 1 <= index <= len(boxes) and boxes[index - 1] is not None:
            _keep_largest_piece(labels[boxes[index - 1]], index)


def keep_largest_regions(
    labels: NDArray[Any], chosen: Iterable[Region], regions: Sequence[Region]
) -> None:
    """Keep only the largest connected piece of each of the `chosen` regions, in `labels` itself.

    What goes becomes the smallest region around it that is left, or background.

    Args:
        labels: (X, Y, Z) unsigned.
        chosen: some of `regions`.
        regions: all, in the order in which they were written.
    """
    for region in chosen:
        inside = region.mask(labels)
        kept = inside.astype(np.uint8)
        keep_largest(kept, (1,))
        around = [r for r in regions if not set(r.members) <= set(region.members)]
        for value in region.members:
            others = [
                r.label for r in around if value in r.members and r.label not in region.members
            ]
            labels[inside & (kept == 0) & (labels == value)] = others[-1] if others else 0


def pieces_of(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Number the connected pieces (26 neighbours) of a mask from 1; return them and their sizes.

    Both begin with 0, for what is not in the mask.
    """
    pieces, count = label(mask, structure=np.ones((3,) * mask.ndim))
    sizes = np.zeros(count + 1, np.int64)
    for plane in pieces:
        sizes += np.bincount(plane.ravel(), minlength=count + 1)
    return pieces, sizes


def _keep_largest_piece(labels: NDArray[Any], index: int) -> None:
    """Plane by plane, and for one structure at a time: the numbered pieces are large."""
    pieces, sizes = pieces_of(labels == index)
    largest = int(sizes[1:].argmax()) + 1
    for plane, kept in zip(pieces, labels, strict=True):
        kept[(plane > 0) & (plane != largest)] = 0


def measure_structures(
    labels: Volume,
    image: Volume,
    names: Mapping[int, str],
    axis: int,
    regions: Sequence[Region] = (),
) -> dict[str, Any]:
    """Return voxels, millilitres, slices and mean intensity of every structure.

    Args:
        labels: the label map, on the image's grid.
        image: the image in its own units.
        names: class index -> name; the background is left out.
        axis: the array axis along which slices are counted.
        regions: to be measured instead of single labels.

    Returns:
        Name -> `voxels`, `volume_ml`, `slices` (with at least one voxel) and `mean_intensity`, a
        number per channel; None where there is no voxel.
    """
    count = max(names) + 1
    structures = {region.name: region.members for region in regions} or {
        name: (index,) for index, name in names.items() if index
    }
    belongs = np.zeros((len(structures), count), np.int64)
    for row, members in zip(belongs, structures.values(), strict=True):
        row[list(members)] = 1
    voxels, sums = np.zeros(count, np.int64), np.zeros((image.channels, count))
    slices = np.zeros(len(structures), np.int64)
    # Plane by plane: weighting counts needs double precision, which is not taken whole.
    label_planes = np.moveaxis(labels.array[0], axis, 0)
    image_planes = np.moveaxis(image.array, 1 + axis, 0)
    for label_plane, image_plane in zip(label_planes, image_planes, strict=True):
        classes = label_plane.ravel()
        counts = np.bincount(classes, minlength=count)
        voxels += counts
        slices += belongs @ counts > 0
        for channel, pixels in enumerate(image_plane):
            sums[channel] += np.bincount(classes, pixels.ravel(), count)
    voxels, sums = belongs @ voxels, sums @ belongs.T
    return {
        name: {
            "voxels": int(voxels[index]),
            "volume_ml": float(voxels[index] * labels.voxel_ml),
            "slices": int(slices[index]),
            "mean_intensity": (sums[:, index] / voxels[index]).tolist() if voxels[index] else None,
        }
        for index, name in enumerate(structures)
    }

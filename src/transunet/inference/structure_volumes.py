"""How large each structure of a label map is, and how bright the image is there."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from transunet.data.volume import Volume


def measure_structures(
    labels: Volume, image: Volume, names: Mapping[int, str], axis: int
) -> dict[str, Any]:
    """Return voxels, millilitres, slices and mean intensity of every structure.

    Args:
        labels: the label map, on the image's grid.
        image: the image in its own units.
        names: class index -> name; the background is left out.
        axis: the array axis along which slices are counted.

    Returns:
        Name -> `voxels`, `volume_ml`, `slices` (with at least one voxel) and `mean_intensity`, a
        number per channel; None where there is no voxel.
    """
    count = max(names) + 1
    voxels, sums = np.zeros(count, np.int64), np.zeros((image.channels, count))
    slices = np.zeros(count, np.int64)
    # Plane by plane: weighting counts needs double precision, which is not taken whole.
    label_planes = np.moveaxis(labels.array[0], axis, 0)
    image_planes = np.moveaxis(image.array, 1 + axis, 0)
    for label_plane, image_plane in zip(label_planes, image_planes, strict=True):
        classes = label_plane.ravel()
        counts = np.bincount(classes, minlength=count)
        voxels += counts
        slices += counts > 0
        for channel, pixels in enumerate(image_plane):
            sums[channel] += np.bincount(classes, pixels.ravel(), count)
    millilitres = abs(np.linalg.det(labels.affine[:3, :3])) / 1000
    return {
        name: {
            "voxels": int(voxels[index]),
            "volume_ml": float(voxels[index] * millilitres),
            "slices": int(slices[index]),
            "mean_intensity": (sums[:, index] / voxels[index]).tolist() if voxels[index] else None,
        }
        for index, name in names.items()
        if index
    }

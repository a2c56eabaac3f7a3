"""What is done to a finished label map: keeping each structure's largest piece."""

from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from transunet.errors import ConfigError


def keep_largest(labels: NDArray[Any], classes: Collection[int]) -> NDArray[Any]:
    """Return `labels` with only the largest connected piece of each of `classes`.

    Voxels that share a face, an edge or a corner are connected (26 neighbours). Of pieces of one
    size the first in the array stays; what goes becomes background.

    Args:
        labels: (X, Y, Z) unsigned.
        classes: class indices; those that do not occur are passed over.
    """
    from scipy.ndimage import find_objects, label

    out = labels.copy()
    boxes = find_objects(labels.astype(np.int32) if labels.dtype.itemsize > 2 else labels)
    for index in classes:
        if not 1 <= index <= len(boxes) or boxes[index - 1] is None:
            continue
        inside = out[boxes[index - 1]]
        pieces, count = label(inside == index, structure=np.ones((3,) * labels.ndim))
        if count > 1:
            sizes = np.bincount(pieces.ravel())
            largest = int(sizes[1:].argmax()) + 1
            inside[(pieces > 0) & (pieces != largest)] = 0
    return out


def classes_named(names: Collection[str], labels: Mapping[int, str]) -> tuple[int, ...]:
    """Return the class indices of structures by name or number; "all" means every one.

    Raises:
        ConfigError: for a name that is not in `labels`.
    """
    structures = {index: name for index, name in labels.items() if index}
    if "all" in names:
        return tuple(structures)
    numbers = {name: index for index, name in structures.items()}
    numbers |= {str(index): index for index in structures if str(index) not in numbers}
    unknown = [name for name in names if name not in numbers]
    if unknown:
        raise ConfigError(
            f"The bundle has no structure {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(structures.values())}."
        )
    return tuple(sorted({numbers[name] for name in names}))


Names = Collection[str] | Literal["all"]

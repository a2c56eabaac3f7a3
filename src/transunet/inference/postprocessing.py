"""After the network: keeping each structure's largest connected piece."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

from transunet.data.classes import plain_name
from transunet.errors import ConfigError


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


def _keep_largest_piece(labels: NDArray[Any], index: int) -> None:
    """Plane by plane, and for one structure at a time: the numbered pieces are large."""
    pieces, count = label(labels == index, structure=np.ones((3,) * labels.ndim))
    sizes = np.zeros(count + 1, np.int64)
    for plane in pieces:
        sizes += np.bincount(plane.ravel(), minlength=count + 1)
    largest = int(sizes[1:].argmax()) + 1
    for plane, kept in zip(pieces, labels, strict=True):
        kept[(plane > 0) & (plane != largest)] = 0


def classes_named(names: Collection[str], labels: Mapping[int, str]) -> tuple[int, ...]:
    """Return the class indices of structures by name or number; "all" means every one.

    Capital and small letters are alike, and spaces and underscores, but where names differ in
    nothing else.

    Raises:
        ConfigError: for a name that is not in `labels`.
    """
    structures = {index: name for index, name in labels.items() if index}
    if "all" in names:
        return tuple(structures)
    exact = {str(index): index for index in structures}
    exact |= {name: index for index, name in structures.items()}
    spellings = Counter(map(plain_name, structures.values()))
    plain = {plain_name(n): i for i, n in structures.items() if spellings[plain_name(n)] == 1}
    chosen = {name: exact.get(name) or plain.get(plain_name(name)) for name in names}
    unknown = [name for name, index in chosen.items() if index is None]
    if unknown:
        raise ConfigError(
            f"The bundle has no structure {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(structures.values())}."
        )
    return tuple(sorted({index for index in chosen.values() if index is not None}))

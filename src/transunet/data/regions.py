"""Regions: classes that overlap, such as BraTS's whole tumour, tumour core and enhancing tumour.

A label map has one value per voxel; a region is all voxels of some values. A network tells each
region apart by itself, and they are written one after the other, the later over the earlier.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from transunet.settings import Configuration


class Region(Configuration):
    """One class of several that overlap."""

    name: str
    members: tuple[PositiveInt, ...]
    """The label values that make it up."""
    label: PositiveInt
    """The value that is written where it is found; regions further down a list overwrite it."""

    def mask(self, labels: NDArray[Any]) -> NDArray[np.bool_]:
        """Return where a label map holds it."""
        return inside(labels, self.members)


def structures_in(labels: Mapping[int, str], regions: Sequence[Region]) -> dict[int, str]:
    """Return number -> name of what a network finds: classes, or regions by what is written."""
    structures = {region.label: region.name for region in regions} or dict(labels)
    return {number: name for number, name in structures.items() if number}


def inside(labels: NDArray[Any], members: Sequence[int]) -> NDArray[np.bool_]:
    """Return where a label map holds one of `members`."""
    # To compare is faster than to look up.
    return labels == members[0] if len(members) == 1 else np.isin(labels, members)


def members_of_structures(
    labels: Mapping[int, str], regions: Sequence[Region]
) -> dict[int, tuple[int, ...]]:
    """Return number, as of `structures_in` -> the label values that make the structure up."""
    members = {region.label: region.members for region in regions}
    return members or {number: (number,) for number in labels if number}


def described(regions: Sequence[Region]) -> str:
    """Return in a sentence what is told apart and written."""
    each = (f"{r.name} ({', '.join(map(str, r.members))}) as {r.label}" for r in regions)
    return f"Learned as regions, written one over the other: {'; '.join(each)}."


def ordered_regions(members: Mapping[str, Sequence[int]], order: Any) -> tuple[Region, ...]:
    """Return regions as they are written, from nnU-Net's `regions_class_order`.

    Args:
        members: name -> label values, in the order of the data set's 'labels'.
        order: what is written for each.

    Raises:
        ValueError: when the order contradicts them.
    """
    names = ", ".join(members)
    if not isinstance(order, list) or not all(type(label) is int for label in order):
        raise ValueError(f"it must list numbers, one for each of {names}; found {order!r:.100}")
    if len(order) != len(members):
        raise ValueError(
            f"it has {len(order)} labels for the {len(members)} regions {names}; expected one each"
        )
    known = sorted({value for values in members.values() for value in values})
    if unknown := [label for label in order if label not in known]:
        raise ValueError(
            f"it has the label {unknown[0]}, which no region holds; they hold "
            f"{', '.join(map(str, known))}"
        )
    regions = tuple(
        Region(name=name, members=tuple(values), label=label)
        for (name, values), label in zip(members.items(), order, strict=True)
    )
    check_regions(regions)
    return regions


def check_regions(regions: Sequence[Region]) -> None:
    """Make sure that a label map can hold each of `regions`, written in their order.

    Raises:
        ValueError: when one is written as what it does not hold, or lost under a later one.
    """
    for index, region in enumerate(regions):
        if region.label not in region.members:
            raise ValueError(
                f"{region.name!r} is written as {region.label} and holds "
                f"{', '.join(map(str, region.members))}; expected one of these (labels are given "
                "in the order in which the regions are listed)"
            )
        for later in regions[index + 1 :]:
            if region.label in later.members:
                raise ValueError(
                    f"{region.name!r} is written as {region.label}, which {later.name!r} holds "
                    "too and overwrites; expected the larger region first, and a label that no "
                    "later region holds"
                )

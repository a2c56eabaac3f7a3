"""How a network is told of clicks: the guidance, which lies on a sample as its image does.

A label map is meant by positions here: 0 the background, and from 1 on the structures in their
order, which for classes are their numbers, and for regions the order in which they are written.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

RADIUS = 3
"""Voxels of the sample that a click reaches: in a plane it is a disk of 29 pixels."""

PlacedClick = tuple[tuple[int, ...], int]
"""The voxel in a sample, and which position of a label map is there by the click."""


def draw_guidance(
    label_map: NDArray[Any], clicks: Sequence[PlacedClick], structures: int
) -> NDArray[np.float32]:
    """Return the guidance (2 structures + 1, *spatial) of a sample, of zeros and ones.

    First each structure of the label map so far, then the clicks: those that remove, and those for
    each structure, every click a disk (a ball) of `RADIUS`.

    Args:
        label_map: (*spatial), what is known so far.
        clicks: voxels may lie outside.
        structures: how many there are.
    """
    guidance = np.zeros((2 * structures + 1, *label_map.shape), np.float32)
    for structure in range(structures):
        guidance[structure] = label_map == structure + 1
    for voxel, position in clicks:
        draw_click(guidance[structures + position], voxel)
    return guidance


def draw_click(click_map: NDArray[np.float32], voxel: Sequence[int]) -> None:
    """Set the disk (ball) around `voxel` in a map (*spatial) to 1, as far as it lies inside."""
    box = tuple(
        slice(max(0, at - RADIUS), max(0, min(side, at + RADIUS + 1)))
        for at, side in zip(voxel, click_map.shape, strict=True)
    )
    offsets = np.ogrid[box]
    squares = [(offset - at) ** 2 for offset, at in zip(offsets, voxel, strict=True)]
    click_map[box][np.broadcast_to(sum(squares), click_map[box].shape) <= RADIUS**2] = 1


def largest_error(
    found: NDArray[Any], wanted: NDArray[Any], counted: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.bool_], int] | None:
    """Return the largest connected piece in which two label maps differ, and what is wanted there.

    None where they are alike. It is where a person would look first, and click.

    Args:
        found: label map (*spatial).
        wanted: the reference.
        counted: where differences count; everywhere if not given.
    """
    wrong = found != wanted
    if counted is not None:
        wrong &= counted
    largest, size = None, 0
    for position in np.unique(wanted[wrong]).tolist():
        pieces, _ = ndimage.label(wrong & (wanted == position))
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        if sizes.max() > size:
            size, largest = int(sizes.max()), (pieces == sizes.argmax(), position)
    return largest


def middle_of(piece: NDArray[np.bool_], rng: np.random.Generator | None = None) -> tuple[int, ...]:
    """Return the voxel of a piece that lies deepest in it; with `rng` any of the deeper half.

    The image's border counts as the piece's.
    """
    (box,) = ndimage.find_objects(piece.astype(np.uint8))
    depth = ndimage.distance_transform_edt(np.pad(piece[box], 1))
    deep = np.argwhere(depth == depth.max() if rng is None else depth > depth.max() / 2)
    inside = deep[0] if rng is None else deep[rng.integers(len(deep))]
    return tuple(int(at) - 1 + part.start for at, part in zip(inside, box, strict=True))

"""Outlines of masks that run along the pixels' edges."""

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

_MOST_EDGES = 20_000
"""A mask with a longer outline (noise, as a rule) is drawn coarser, so that pages stay small."""

Point = tuple[int, int]


def loops(mask: NDArray[np.bool_]) -> list[list[Point]]:
    """Return the closed outlines of `mask` (H, W) as the corners (x, y) of polygons, in pixels.

    The last corner is joined to the first one. Holes are loops of their own, of opposite turn.
    """
    scale = 1
    while len(edges := _edges(mask)) > _MOST_EDGES:
        mask, scale = mask[::2, ::2], scale * 2
    following: dict[Point, list[Point]] = defaultdict(list)
    for x, y, dx, dy in edges:
        following[x, y].append((x + dx, y + dy))
    closed = []
    for start in list(following):
        while following[start]:
            # As many edges leave a point as enter it, so that each loop closes.
            loop = [start]
            while following[loop[-1]]:
                loop.append(following[loop[-1]].pop())
            points = loop[:-1]
            neighbours = zip(points[-1:] + points[:-1], points, loop[1:], strict=True)
            closed.append(
                [
                    (x * scale, y * scale)
                    for before, (x, y), after in neighbours
                    # Points in the middle of straight runs are left out.
                    if not before[0] == x == after[0] and not before[1] == y == after[1]
                ]
            )
    return closed


def _edges(mask: NDArray[np.bool_]) -> list[list[int]]:
    """Edges between inside and outside as [x, y, dx, dy], with the inside to the right."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    # The neighbour on each side, where the pixel's edge there starts, and which way it runs.
    sides = [
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (0, 1)),
        (padded[2:, 1:-1], (1, 1), (-1, 0)),
        (padded[1:-1, :-2], (0, 1), (0, -1)),
    ]
    parts = []
    for neighbour, start, direction in sides:
        pixels = np.argwhere(inside & ~neighbour)[:, ::-1] + start
        parts.append(np.hstack([pixels, np.broadcast_to(direction, pixels.shape)]))
    edges: list[list[int]] = np.concatenate(parts).tolist()
    return edges

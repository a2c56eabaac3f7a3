"""Position embeddings follow the grid of tokens, which has as many axes as the image."""

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, ...]
"""Tokens along each axis: (rows, columns), or (planes, rows, columns)."""

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def resize_positions(positions: Tensor, grid: Grid, new_grid: Grid) -> Tensor:
    """Resize position embeddings (1, N, D), N the product of `grid`, to `new_grid`.

    Linear along every axis with the corner tokens aligned, which is what the reference computes
    with `scipy.ndimage.zoom(order=1)` when it loads weights of another size.
    """
    image = positions.transpose(1, 2).reshape(1, -1, *grid)  # (1, D, *grid)
    image = F.interpolate(image, size=new_grid, mode=_LINEAR[len(grid)], align_corners=True)
    return image.flatten(2).transpose(1, 2)


class GridCache:
    """Resizes position embeddings once per grid and remembers the result while it is valid.

    What is remembered depends on the parameter's values, so it is dropped when the parameter is
    replaced, moved or written to; while gradients are recorded nothing is remembered.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._stamp: tuple[object, ...] = ()
        self._resized: dict[Grid, Tensor] = {}

    def at(self, positions: Tensor, grid: Grid) -> Tensor:
        """Return `positions` (1, N, D) for the token grid `grid`."""
        if grid == self.grid:
            return positions
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return resize_positions(positions, self.grid, grid)
        version = 0 if positions.is_inference() else positions._version
        stamp = (positions.data_ptr(), version, positions.dtype, positions.device)
        if stamp != self._stamp:
            self._stamp, self._resized = stamp, {}
        if grid not in self._resized:
            self._resized[grid] = resize_positions(positions, self.grid, grid)
        return self._resized[grid]

    def __deepcopy__(self, memo: object) -> "GridCache":
        return GridCache(self.grid)

    def __reduce__(self) -> tuple[type["GridCache"], tuple[Grid]]:
        return GridCache, (self.grid,)

"""Position embeddings follow the grid of tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_positions(positions: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Resize position embeddings (1, rows * columns, D) from `grid` to `new_grid`.

    Linear in both directions with the corner tokens aligned, which is what the reference computes
    with `scipy.ndimage.zoom(order=1)` when it loads weights of another size.
    """
    rows, columns = grid
    image = positions.transpose(1, 2).reshape(1, -1, rows, columns)  # (1, D, rows, columns)
    image = F.interpolate(image, size=new_grid, mode="bilinear", align_corners=True)
    return image.flatten(2).transpose(1, 2)


class GridCache:
    """Resizes position embeddings once per grid and remembers the result while it is valid.

    What is remembered depends on the parameter's values, so it is dropped when the parameter is
    replaced, moved or written to; while gradients are recorded nothing is remembered.
    """

    def __init__(self, grid: tuple[int, int]) -> None:
        self.grid = grid
        self._stamp: tuple[object, ...] = ()
        self._known: dict[tuple[int, int], Tensor] = {}

    def at(self, positions: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return `positions` (1, N, D) for the token grid `grid` (rows, columns)."""
        if grid == self.grid:
            return positions
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return resize_positions(positions, self.grid, grid)
        self._forget_unless_same(positions)
        if grid not in self._known:
            self._known[grid] = resize_positions(positions, self.grid, grid)
        return self._known[grid]

    def _forget_unless_same(self, positions: Tensor) -> None:
        version = 0 if positions.is_inference() else positions._version
        stamp = (positions.data_ptr(), version, positions.dtype, positions.device)
        if stamp != self._stamp:
            self._stamp, self._known = stamp, {}

    def __deepcopy__(self, memo: object) -> "GridCache":
        return GridCache(self.grid)

    def __reduce__(self) -> tuple[type["GridCache"], tuple[tuple[int, int]]]:
        return GridCache, (self.grid,)

"""Where the network's tokens lie in a volume: from voxels to tokens, and from tokens to voxels."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from transunet.data.preprocessing import Preprocessing
from transunet.data.volume import Grid, Volume, orientation_change, same_grid
from transunet.errors import ConfigError, GeometryError


class TokenGrid:
    """The tokens of a volume's slices, each slice resized to the network's size as for predicting.

    Values of a volume's own voxels are such tokens, too: of slices of their own size, and stride 1.

    Args:
        grid: where the volume's voxels lie.
        preprocessing: how it is cut into slices.
        image_size: height and width that each slice is resized to, corner on corner.
        stride: height and width in pixels, after resizing, of what a token stands for.
    """

    def __init__(
        self,
        grid: Grid,
        preprocessing: Preprocessing,
        image_size: tuple[int, ...],
        stride: tuple[int, ...],
    ) -> None:
        self.grid, self.preprocessing = grid, preprocessing
        self._image_size, self._stride = image_size, stride
        self.rows, self.columns = (
            side // step for side, step in zip(image_size, stride, strict=True)
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, and rows and columns of tokens in each."""
        return self.preprocessing.native_shape(self.grid)[0], self.rows, self.columns

    @property
    def slice_axis(self) -> int:
        """The axis of the volume's own array that runs across the slices."""
        return self.preprocessing.plane_axis(self.grid)

    def token_at(self, voxel: Sequence[int]) -> tuple[int, int, int]:
        """Return the slice, and the row and column of the token that contains `voxel`.

        Args:
            voxel: indices into the three axes of the volume's own array.

        Raises:
            ConfigError: for a voxel that the volume does not have.
        """
        shape = self.grid.spatial_shape
        if len(voxel) != 3 or not all(0 <= v < n for v, n in zip(voxel, shape, strict=False)):
            ends = " x ".join(f"0..{size - 1}" for size in shape)
            raise ConfigError(
                f"{self.grid.name} has no voxel {tuple(voxel)}; expected three indices within "
                f"{ends}."
            )
        oriented = [0, 0, 0]
        change = orientation_change(self.grid.affine, self.preprocessing.orientation)
        for index, size, (axis, flip) in zip(voxel, shape, change, strict=True):
            oriented[int(axis)] = int(index) if flip > 0 else size - 1 - int(index)
        slice_index = oriented.pop(0)
        row, column = (
            int(tokens[index])
            for index, tokens in zip(oriented, self._tokens_of_pixels, strict=True)
        )
        return slice_index, row, column

    def token_shares(self, mask: Volume) -> NDArray[np.float32]:
        """Return how a mask's voxels are shared out among each slice's tokens, (S, N).

        Rows sum to 1, or are 0 where a slice has none of the mask.

        Args:
            mask: as for `slices_of`.

        Raises:
            GeometryError: for a mask on another grid.
        """
        slices = self.slices_of(mask).astype(np.float32)
        rows, columns = (
            np.eye(count, dtype=np.float32)[:, tokens]
            for count, tokens in zip(self.shape[1:], self._tokens_of_pixels, strict=True)
        )
        counts = (rows @ slices @ columns.T).reshape(len(slices), -1)
        return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))

    def slices_of(self, mask: Volume) -> NDArray[np.bool_]:
        """Return where a mask is, slice by slice, (S, H, W).

        Args:
            mask: (1, X, Y, Z) on the volume's grid; what is not 0 counts.

        Raises:
            GeometryError: for a mask on another grid.
        """
        mask = mask.on_grid(self.grid) or mask
        difference = same_grid(mask, self.grid)
        if difference:
            raise GeometryError(
                f"{mask.name} does not lie on the grid of {self.grid.name}: {difference}."
            )
        return np.asarray(self.preprocessing.oriented(mask)[0] != 0)

    def to_slices(self, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return values of tokens (S, rows, columns) at the slices' own size, (S, H, W).

        Bilinear between the tokens' centres and constant outside them.
        """
        if self._stride == (1, 1) and self._image_size == tokens.shape[1:]:
            return tokens
        rows, columns = self._interpolations
        return np.asarray(rows @ tokens @ columns.T, dtype=np.float32)

    def to_volume(self, tokens: NDArray[np.float32], like: Volume) -> Volume:
        """Return values of all tokens (S, rows, columns) as float32 on the very grid of `like`."""
        array = self.preprocessing.unoriented(self.to_slices(tokens)[None], self.grid)
        return like.with_array(np.ascontiguousarray(array))

    def slice_to_volume(self, tokens: NDArray[np.float32], index: int) -> Volume:
        """Return values of one slice's tokens (rows, columns) as a volume of that slice alone.

        Args:
            tokens: (rows, columns).
            index: the slice, as `token_at` numbers them.
        """
        array = self.preprocessing.unoriented(self.to_slices(tokens[None])[None], self.grid)
        affine = self.grid.affine.copy()
        affine[:3, 3] += affine[:3, self.slice_axis] * self.stored_index(index)
        return Volume(np.ascontiguousarray(array), affine, self.grid.name)

    def stored_index(self, index: int) -> int:
        """Return where the slice `index` lies along `slice_axis` of the volume's own array.

        Given that, it returns the slice's index: turning a number round twice changes nothing.
        """
        change = orientation_change(self.grid.affine, self.preprocessing.orientation)
        flipped = change[self.slice_axis, 1] < 0
        return self.grid.spatial_shape[self.slice_axis] - 1 - index if flipped else index

    @cached_property
    def _positions(self) -> list[NDArray[np.float64]]:
        """Where a slice's rows, and its columns, lie in the network's image: end on end."""
        return [
            np.linspace(0, side - 1, size) if size > 1 else np.array([(side - 1) / 2])
            for size, side in zip(
                self.preprocessing.native_shape(self.grid)[1:], self._image_size, strict=True
            )
        ]

    @cached_property
    def _tokens_of_pixels(self) -> list[NDArray[np.intp]]:
        """The row of tokens that each row of pixels lies in, and the same of columns."""
        return [
            np.clip(np.floor((position + 0.5) / step), 0, count - 1).astype(np.intp)
            for position, step, count in zip(
                self._positions, self._stride, self.shape[1:], strict=True
            )
        ]

    @cached_property
    def _interpolations(self) -> list[NDArray[np.float32]]:
        """For rows and for columns, (pixels, tokens): the weight of each token at each pixel."""
        matrices = []
        for position, step, count in zip(
            self._positions, self._stride, self.shape[1:], strict=True
        ):
            last = count - 1
            at_token = np.clip((position - (step - 1) / 2) / step, 0, last)
            below = np.minimum(np.floor(at_token).astype(np.intp), max(last - 1, 0))
            above = np.minimum(below + 1, last)
            matrix = np.zeros((len(position), count), np.float32)
            pixels = np.arange(len(position))
            matrix[pixels, below] += 1 - (at_token - below)
            matrix[pixels, above] += at_token - below
            matrices.append(matrix)
        return matrices

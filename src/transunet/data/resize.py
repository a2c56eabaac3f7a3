"""Resizing exactly as `scipy.ndimage.zoom` does, as a small matrix product per axis.

Zooming is linear and works one axis after the other, so for each pair of lengths it is one small
matrix: scipy's own zoom of the identity. That of linear interpolation has two numbers in each row,
and is multiplied in bands.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from transunet.errors import ConfigError

if TYPE_CHECKING:
    import torch

Edge = Literal["scipy", "kept"]
"""What becomes of an axis's last sample. For some pairs of lengths (512 -> 224 is one) rounding
puts scipy's last sample just outside the image, and it comes out as 0: "scipy" repeats that, "kept"
takes the image's last sample."""

_LEAST = 1e-20
_ROWS = (
    32  # of a matrix at once: products that OpenBLAS computes in one thread, which need not wait
)


def resize(
    array: NDArray[np.floating[Any]],
    size: tuple[int, ...],
    order: int | Sequence[int] = 3,
    edge: Edge = "scipy",
) -> NDArray[np.float32]:
    """Resize the last axes, as many as `size` has, with splines of `order`.

    Args:
        array: (..., H, W) or (..., D, H, W), floating point.
        size: The new lengths of the last axes.
        order: 0 nearest, 1 linear, 3 cubic; of all axes, or of each.
        edge: see `Edge`.

    Returns:
        (..., *size) float32, `scipy.ndimage.zoom` of every image within 1e-6 of its range.

    Raises:
        ConfigError: for another order or an empty size.
    """
    orders = [order] * len(size) if isinstance(order, int) else order
    if not set(orders) <= {0, 1, 3} or min(size) < 1:
        raise ConfigError(
            f"Cannot resize to {size} with order {order}: sizes start at 1, orders are 0, 1 and 3."
        )
    image = np.asarray(array, dtype=np.float32)
    for axis, (length, new) in enumerate(zip(image.shape[-len(size) :], size, strict=True)):
        if length == new:
            continue
        before, after = image.shape[: axis - len(size)], image.shape[axis - len(size) :][1:]
        image = image.reshape(*before, length, -1) if after else image
        out = np.empty((*before, new, *image.shape[len(before) + 1 :]), np.float32)
        for rows, columns, band in _bands(length, new, orders[axis], edge):
            if after:
                np.matmul(band, image[..., columns, :], out=out[..., rows, :])
            else:
                np.matmul(image[..., columns], band.T, out=out[..., rows])
        image = out.reshape(*before, new, *after)
    return np.ascontiguousarray(image)


def resize_tensor(image: Any, size: tuple[int, ...], order: int = 3, edge: Edge = "scipy") -> Any:
    """Return `resize` of a tensor, float32, on the device where it lies.

    Its products are of doubles: of float32 a GPU keeps ten bits of each factor where TF32 is
    allowed, which is a setting of the whole process.
    """
    wide = image
    for axis, new in enumerate(size, start=-len(size)):
        if image.shape[axis] != new:
            matrix = matrix_beside(image, image.shape[axis], new, order, edge)
            wide = (wide.to(matrix.dtype).movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return wide.float().contiguous()


def matrix_beside(tensor: Any, length: int, new: int, order: int, edge: Edge) -> Any:
    """Return `zoom_matrix` on the device of `tensor`, in doubles; in float32 where it has none."""
    return _matrix_on(tensor.device, length, new, order, edge)


@lru_cache(maxsize=16)
def _matrix_on(device: "torch.device", length: int, new: int, order: int, edge: Edge) -> Any:
    import torch

    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.tensor(zoom_matrix(length, new, order, edge), dtype=dtype, device=device)


def nearest(labels: NDArray[Any], size: tuple[int, ...], edge: Edge = "scipy") -> NDArray[Any]:
    """Resize the last axes of a label map by picking the nearest pixel (zoom of order 0).

    `labels` are (..., H, W) or (..., D, H, W) of any dtype, which is kept.
    """
    if labels.shape[-len(size) :] == tuple(size):
        return labels
    out = labels
    for axis, new in zip(range(-len(size), 0), size, strict=True):
        if labels.shape[axis] == new:
            continue
        picked, inside = _indices(labels.shape[axis], new, edge)
        out = out.take(picked, axis=axis)
        if not inside.all():
            out = out * inside.astype(labels.dtype).reshape(-1, *(1,) * (-axis - 1))
    return out


def resize_labels(labels: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    """Resize a label map by class: each voxel gets the class that weighs most there.

    Each class's indicator is resized with linear interpolation, which keeps surfaces smooth where
    picking the nearest voxel makes stairs. Of equal weights the highest class wins; and a class
    that weighs something but most nowhere keeps the voxel where it weighs most.

    Args:
        labels: of as many axes as `size`, unsigned; the dtype is kept.
        size: the new lengths of the axes.
    """
    if labels.shape == tuple(size):
        return labels
    heaviest = np.full(size, -1, np.float32)
    out = np.zeros(size, labels.dtype)
    peaks = {}
    for index in np.unique(labels).tolist():
        weight = resize((labels == index).astype(np.float32), size, order=1, edge="kept")
        # Sums of the same few products in another order are equal but for their last bits.
        wins = weight >= heaviest - 1e-6
        np.copyto(out, index, where=wins)
        np.copyto(heaviest, weight, where=wins)
        peak = int(weight.argmax())
        if weight.flat[peak] > 0:
            peaks[index] = peak
    kept = set(np.unique(out).tolist())
    for index, peak in peaks.items():
        if index and index not in kept:
            out.flat[peak] = index
    return out


@lru_cache(maxsize=512)
def zoom_matrix(length: int, new: int, order: int, edge: Edge) -> NDArray[np.float32]:
    """Return what `resize` multiplies an axis by, (new, length) float32, not to be written to."""
    matrix = np.ascontiguousarray(_zoom_of_identity(length, new, order, edge), dtype=np.float32)
    # A cubic spline looks along all of an axis, with each voxel a quarter as much. What shows in no
    # sum is left out: with numbers below 1e-38 a product takes a hundred times as long.
    matrix[np.abs(matrix) < _LEAST] = 0
    matrix.setflags(write=False)
    return matrix


@lru_cache(maxsize=512)
def _bands(
    length: int, new: int, order: int, edge: Edge
) -> tuple[tuple[slice, slice, NDArray[np.float32]], ...]:
    """Some rows of `zoom_matrix` at a time, which columns are not 0 in them, and both's numbers."""
    matrix = zoom_matrix(length, new, order, edge)
    if order != 1:  # a sum of many, which in bands would be rounded in another order
        return ((slice(0, new), slice(0, length), matrix),)
    bands = []
    for start in range(0, new, _ROWS):
        rows = slice(start, start + _ROWS)
        used = np.flatnonzero(matrix[rows].any(axis=0))
        columns = slice(int(used[0]), int(used[-1]) + 1)
        bands.append((rows, columns, matrix[rows, columns]))
    return tuple(bands)


@lru_cache(maxsize=512)
def _indices(length: int, new: int, edge: Edge) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Which pixel each new one takes, and whether scipy finds it inside the image."""
    matrix = _zoom_of_identity(length, new, 0, edge)
    return matrix.argmax(axis=1), matrix.max(axis=1) > 0.5


def _zoom_of_identity(length: int, new: int, order: int, edge: Edge) -> NDArray[np.float64]:
    # Imported here: scipy.ndimage takes a tenth of a second, and only resizing needs it.
    from scipy.ndimage import zoom

    # Mirroring equals scipy's default everywhere but outside the image.
    mode = "constant" if edge == "scipy" else "mirror"
    out: NDArray[np.float64] = zoom(np.eye(length), (new / length, 1), order=order, mode=mode)
    return out

"""A volume: voxels and the affine that says where they lie, never apart."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, Self

import numpy as np
from nibabel import orientations as _nibabel_orientations
from numpy.typing import NDArray

from transunet.data.checks.problems import Problem
from transunet.data.text import counted, extents
from transunet.errors import GeometryError, TransUNetError

Array = NDArray[Any]
orientations: Any = _nibabel_orientations  # its functions carry no types

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""ITK and DICOM count left, posterior and superior as positive; here it is right and anterior."""
CORNER_TOLERANCE = 0.1
"""How far apart the corners of two grids that count as one may lie, in voxels (smallest edge)."""
_ONE_WAY = str.maketrans("LPI", "RAS")  # directions -> those of the same three axes
_SAME_EDGES = 0.01  # a difference of edges that is worth naming


@dataclass(frozen=True, eq=False)
class Doubt:
    """What a header leaves open about where its voxels lie."""

    affines: tuple[Array, ...]
    """(4, 4) each, as `Grid.affine`: what other programs may take the header to say."""
    problem: Problem | None = None
    """The warning about a header that contradicts itself."""
    placeless: bool = False
    """Whether the header says nothing of directions and origin: an affine was guessed."""


class Axes:
    """What an affine tells of the axes of an array."""

    affine: Array
    """(4, 4) float64, voxel indices -> millimetres in RAS."""

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel in millimetres, one per array axis."""
        x, y, z = (float(v) for v in np.linalg.norm(self.affine[:3, :3], axis=0))
        return x, y, z

    @property
    def voxel_ml(self) -> float:
        """A voxel's volume in millilitres; edges need not stand at right angles."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000

    @cached_property
    def orientation(self) -> str:
        """Where each array axis points, such as "RAS" (right, anterior, superior)."""
        return "".join(orientations.aff2axcodes(self.affine))

    def axes_in(self, codes: str) -> tuple[int, int, int]:
        """Return which array axis runs along each axis of the orientation `codes`."""
        along = orientation_change(self.affine, codes)[:, 0].astype(int)
        x, y, z = (int(np.flatnonzero(along == axis)[0]) for axis in range(3))
        return x, y, z


@dataclass(frozen=True, eq=False)
class Grid(Axes):
    """Where a volume's voxels lie: what a header tells without reading the voxels.

    Raises:
        GeometryError: for an affine that is not 4 x 4, finite and invertible, or a shape that is
            not three sizes.
    """

    spatial_shape: tuple[int, int, int]
    affine: Array
    """(4, 4) float64, voxel indices -> millimetres in RAS."""
    name: str = "volume"
    doubt: Doubt | None = None
    """Set where the header can be read in another way."""

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            found = f"the affine is not a 4 x 4 matrix of finite numbers: {affine.tolist()}"
            raise _damaged("affine", self.name, found, "Repair the file's header")
        if not is_regular(affine):
            edges = np.linalg.norm(affine[:3, :3], axis=0).tolist()
            found = f"the affine is singular: voxels of edges {edges} mm have no volume"
            remedy = "Repair spacing and directions in the file's header"
            raise _damaged("affine", self.name, found, remedy)
        if len(self.spatial_shape) != 3 or min(self.spatial_shape) < 1:
            shape = extents(self.spatial_shape)
            found = f"expected three sizes of at least one voxel, found {shape}"
            raise _damaged("shape", self.name, found, "Check how the file was written")


@dataclass(frozen=True, eq=False)
class Volume(Axes):
    """An image or a label map on its grid.

    A label map is a volume with one channel and an unsigned integer array.

    Raises:
        GeometryError: when the array is not (C, X, Y, Z), has an empty axis, or the affine is not
            invertible.
    """

    array: Array
    """(C, X, Y, Z)."""
    affine: Array
    """(4, 4) float64, voxel indices -> millimetres in RAS."""
    name: str = "volume"
    """The case or file, for errors."""
    header: Any = None
    """What the format's reader wants its writer to see again."""
    doubt: Doubt | None = None
    """As `Grid.doubt`."""
    label_names: Mapping[int, str] | None = None
    """What the values of a predicted label map are called; NIfTI files keep it."""

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or self.array.size == 0:
            shape = extents(self.array.shape)
            found = f"expected an array of channels and three axes, found {shape}"
            raise _damaged("shape", self.name, found, "Check how the file was written")
        object.__setattr__(self, "affine", self.grid.affine)

    def __repr__(self) -> str:
        told = [
            f"{extents(self.spatial_shape)} voxels of {extents(self.spacing_mm, '.4g')} mm",
            self.orientation,
            f"{counted(self.channels, 'channel')} of {self.array.dtype}",
            *(f"{value} {name}" for value, name in (self.label_names or {}).items() if value),
        ]
        return f"Volume({self.name}: {', '.join(told)})"

    @cached_property
    def grid(self) -> Grid:
        """The voxels' places without their values."""
        return Grid(self.spatial_shape, self.affine, self.name, self.doubt)

    @property
    def spatial_shape(self) -> tuple[int, int, int]:
        """Voxels along each of the three axes."""
        _, x, y, z = self.array.shape
        return x, y, z

    @property
    def channels(self) -> int:
        """How many channels the array has."""
        return int(self.array.shape[0])

    @property
    def white(self) -> float | None:
        """The number of full brightness in a picture; None for what is none, or has none."""
        return getattr(self.header, "white", None)

    def with_array(self, array: Array) -> Self:
        """Return a volume on the same grid with other voxels.

        Args:
            array: (C, X, Y, Z) with any number of channels.

        Raises:
            GeometryError: when `array` does not fit the grid.
        """
        if array.ndim != 4 or array.shape[1:] != self.array.shape[1:]:
            raise GeometryError(
                f"{self.name}: an array of shape {extents(array.shape)} does not fit the grid; "
                f"expected channels x {extents(self.spatial_shape)}."
            )
        return replace(self, array=array)

    def reoriented(self, codes: str = "RAS") -> Self:
        """Return the same volume with its axes permuted and flipped to run along `codes`.

        Nothing is resampled; the array is a view where numpy can make one.

        Raises:
            GeometryError: when `codes` does not name three different directions.
        """
        return self._reordered(orientation_change(self.affine, codes))

    def on_grid(self, grid: "Grid | Volume") -> Self | None:
        """Return the same voxels in the order of `grid`, or None where that takes resampling.

        Axes that are swapped or run the other way are put right, such as LPS for RAS.
        """
        if same_grid(self, grid) is None:
            return self
        for affine, other in product(_affines(self), _affines(grid)):
            change = np.asarray(orientations.io_orientation(np.linalg.inv(other) @ affine))
            ordered = replace(self, affine=affine, doubt=None)._reordered(change)
            if same_grid(ordered, Grid(grid.spatial_shape, other)) is None:
                return replace(ordered, affine=grid.affine, doubt=grid.doubt)
        return None

    def _reordered(self, change: Array) -> Self:
        """Permute and flip the axes as nibabel's (3, 2) orientation array says."""
        moved = orientations.inv_ornt_aff(change, self.spatial_shape)
        doubt = self.doubt and replace(
            self.doubt, affines=tuple(affine @ moved for affine in self.doubt.affines)
        )
        array = apply_orientation(self.array, change)
        return replace(self, array=array, affine=self.affine @ moved, doubt=doubt)


def orientation_change(affine: Array, codes: str) -> Array:
    """Return nibabel's (3, 2) orientation array that turns axes of `affine` into those of `codes`.

    Raises:
        GeometryError: when `codes` does not name three different directions.
    """
    return np.asarray(
        orientations.ornt_transform(orientations.io_orientation(affine), _orientation(codes))
    )


def orientation_back(affine: Array, codes: str) -> Array:
    """Return the inverse of `orientation_change(affine, codes)`."""
    return np.asarray(
        orientations.ornt_transform(_orientation(codes), orientations.io_orientation(affine))
    )


def apply_orientation(array: Array, change: Array) -> Array:
    """Permute and flip the last three axes of a (C, X, Y, Z) array."""
    channels_last = np.moveaxis(array, 0, -1)
    return np.moveaxis(orientations.apply_orientation(channels_last, change), -1, 0)


def same_grid(a: Volume | Grid, b: Volume | Grid) -> str | None:
    """Return None when two volumes lie on the same grid, else what differs.

    The same shape, and every corner of the one within `CORNER_TOLERANCE` voxels of the other's:
    rounding in headers passes, a flipped, shifted or rescaled grid does not. Where one's header
    leaves doubt, it is enough that it can be read as the other's.
    """
    if a.spatial_shape != b.spatial_shape:
        return f"the shapes differ: {extents(a.spatial_shape)} and {extents(b.spatial_shape)}"
    tolerance = CORNER_TOLERANCE * min(*a.spacing_mm, *b.spacing_mm)
    apart = corner_distance(a, b)
    if apart <= tolerance:
        return None
    readings = ([Grid(x.spatial_shape, affine) for affine in _affines(x)] for x in (a, b))
    if min(corner_distance(*pair) for pair in product(*readings)) <= tolerance:
        return None
    if a.orientation != b.orientation:
        if np.allclose(sorted(a.spacing_mm), sorted(b.spacing_mm), rtol=_SAME_EDGES):
            return f"the orientations differ: {a.orientation} and {b.orientation}"
        first, second = (extents(x.spacing_mm, ".4g") for x in (a, b))
        return f"the voxel sizes differ: {first} mm and {second} mm"
    return (
        f"the affines differ: a corner lies {apart:.4g} mm apart (tolerance {CORNER_TOLERANCE} "
        f"voxel = {tolerance:.4g} mm)"
    )


def _affines(volume: Volume | Grid) -> list[Array]:
    """Its affine, and those that its header leaves in doubt."""
    others = volume.doubt.affines if volume.doubt else ()
    return [volume.affine, *filter(is_regular, others)]


def corner_distance(a: Volume | Grid, b: Volume | Grid) -> float:
    """Return how many mm the corners of two grids lie apart, the largest of the eight."""
    corners = []
    for grid in (a, b):
        ends = product(*((0, size - 1) for size in grid.spatial_shape))
        indices = np.array([(*end, 1) for end in ends], dtype=np.float64)
        corners.append((indices @ grid.affine.T)[:, :3])
    return float(np.linalg.norm(corners[0] - corners[1], axis=1).max())


def _orientation(codes: str) -> Array:
    if len(codes) != 3 or sorted(codes.translate(_ONE_WAY)) != ["A", "R", "S"]:
        raise GeometryError(
            f"The orientation {codes!r} does not name three directions; expected one of R/L, one "
            "of A/P and one of S/I, such as 'RAS'."
        )
    return np.asarray(orientations.axcodes2ornt(codes))


def is_regular(affine: Array | None) -> bool:
    """Whether `affine` is 4 x 4, finite, and gives voxels a volume; None is not."""
    if affine is None or affine.shape != (4, 4) or not np.isfinite(affine).all():
        return False
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    # Relative to the edges, so that microns and metres are judged alike.
    return bool(edges.min() > 0 and abs(np.linalg.det(affine[:3, :3] / edges)) >= 1e-6)


def _damaged(kind: str, name: str, found: str, remedy: str) -> TransUNetError:
    return Problem(kind, name, found, remedy, geometry=True).error()

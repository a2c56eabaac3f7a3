"""Volumes to working volumes, and label maps back: orientation, intensities, spacing.

It travels in the bundle, so that predicting does what training did.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from scipy import ndimage

from transunet.data.formats import smallest_unsigned
from transunet.data.resize import nearest, resize, resize_labels
from transunet.data.text import counted, extents
from transunet.data.volume import (
    Grid,
    Volume,
    apply_orientation,
    orientation_back,
    orientation_change,
)
from transunet.errors import ConfigError, DataError, GeometryError
from transunet.settings import Configuration

PHOTOGRAPH_CHANNELS = frozenset(
    {"r", "g", "b", "red", "green", "blue", "grey", "gray", "rgb", "rgb_to_0_1"}
)

_WHITES = (255.0, 65535.0)  # the numbers of full brightness: of 8 bits and of 16


ANISOTROPIC = 3.0
"""Voxels are this many times longer along an axis across which planes are not mixed."""
LARGEST = 2**31
"""Voxels of the largest working volume that resampling may make of a smaller one: 8 GiB."""

Normalisation = Literal["clip", "zscore", "range", "foreground", "nonzero"]


class Scale(NamedTuple):
    """Mean and standard deviation of a channel in one volume."""

    mean: float
    deviation: float
    """1 where all voxels are the same."""


class Channel(Configuration):
    """How the intensities of one channel are normalised."""

    name: str = "image"
    normalisation: Normalisation = "zscore"
    """clip: `low`..`high` to [0, 1], the rest clipped; zscore: mean 0 and deviation 1 per volume;
    range: divided by `high`; foreground: clipped to `low`..`high`, then less `mean` and divided by
    `deviation`, what the data set's foreground has; nonzero: as zscore, of the voxels that are not
    0 or that such voxels enclose in their plane, while those around stay 0."""
    low: float = 0.0
    high: float = 1.0
    mean: float = 0.0
    deviation: float = 1.0

    @model_validator(mode="after")
    def _window(self) -> Self:
        if not self.per_volume and self.high <= self.low:
            raise ValueError(f"high={self.high} must be above low={self.low}")
        if self.deviation <= 0:
            raise ValueError(f"deviation={self.deviation} must be above 0")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what only "foreground" has: files of before stay the same, byte for byte."""
        values: dict[str, Any] = serialise(self)
        if self.normalisation != "foreground":
            del values["mean"], values["deviation"]
        return values

    @property
    def per_volume(self) -> bool:
        """Whether each volume is brought to its own mean and deviation, whatever its scale."""
        return self.normalisation in ("zscore", "nonzero")

    @property
    def window(self) -> tuple[float, float] | None:
        """The intensities that all images are clipped to; None where none are."""
        return (self.low, self.high) if self.normalisation in ("clip", "foreground") else None

    def for_white(self, white: float | None) -> Self:
        """Return the channel for a picture whose white is this: 255 with 8 bits, 65535 with 16.

        So a bundle (or a data set) of pictures with 8 bits takes one with 16, and the reverse.
        """
        photograph = self.normalisation == "range" and self.high in _WHITES
        return self.replace(high=white) if white and photograph else self

    def measure(self, parts: Sequence[NDArray[Any]]) -> Scale | None:
        """Return what normalising needs to know of all voxels; None where it needs nothing.

        Args:
            parts: the channel's planes, in as many pieces as suits the caller.
        """
        if not self.per_volume:
            return None
        if self.normalisation == "nonzero":
            parts = [plane[tissue_in(plane)] for part in parts for plane in part]
        # In double precision: the mean of many large numbers is not safe in single.
        count = sum(part.size for part in parts) or 1
        mean = sum(float(part.sum(dtype=np.float64)) for part in parts) / count
        squares = sum(float(np.square(part.astype(np.float64) - mean).sum()) for part in parts)
        return Scale(mean, float(np.sqrt(squares / count)) or 1.0)

    def normalise(self, values: NDArray[Any], scale: Scale | None = None) -> NDArray[np.float32]:
        """Return voxels of one channel (at least one axis), normalised, float32.

        Args:
            values: all of them, or some.
            scale: what `measure` said of all of them; None if these are all.
        """
        out = np.empty(values.shape, np.float32)
        if self.normalisation in ("clip", "range"):
            for index, part in enumerate(values):  # as below: of integers numpy makes doubles
                if self.normalisation == "clip":
                    clipped = np.clip(part, self.low, self.high) - self.low
                    out[index] = clipped / (self.high - self.low)
                else:
                    out[index] = part / self.high
            return out
        if self.normalisation == "foreground":
            scale = Scale(self.mean, self.deviation)
        scale = scale or self.measure([values])
        assert scale is not None
        for index, part in enumerate(values):  # one slice at a time in double precision
            clipped = np.clip(part, *self.window) if self.window else part
            out[index] = (clipped.astype(np.float64) - scale.mean) / scale.deviation
            if self.normalisation == "nonzero":
                out[index][~tissue_in(part)] = 0
        return out


class Preprocessing(Configuration):
    """From a volume to the working volume that a network sees samples of, and label maps back.

    A working volume is (C, D, H, W): channels, planes, rows, columns.

    Raises:
        ConfigError: for settings that cannot work.
    """

    channels: tuple[Channel, ...] = Field(default=(Channel(),), min_length=1)
    orientation: str = "SRA"
    """The directions in which planes, rows and columns follow each other: "SRA", axial planes from
    the feet up, rows from left to right, columns from back to front."""
    spacing_mm: tuple[float | None, float | None, float | None] | None = None
    """From plane to plane, row to row, column to column; None keeps each volume's own. Where planes
    are resampled too, working volumes are for networks of three axes: labels are resampled by
    class, and an axis along which voxels are far longer than along the others by itself."""

    @classmethod
    def of_format_1(cls, values: Mapping[str, Any]) -> Self:
        """Return what bundles, runs and stores of format 1 mean, which name an axis to cut along.

        Args:
            values: its fields: `orientation`, `slice_axis` in it, `spacing_mm` within the slices.
        """
        values = dict(values)
        axis = values.pop("slice_axis", 2)
        values["orientation"] = planes_first(values.get("orientation", "RAS"), axis)
        if values.get("spacing_mm") is not None:
            values["spacing_mm"] = (None, *values["spacing_mm"])
        return cls(**values)

    @field_validator("orientation")
    @classmethod
    def _directions(cls, value: str) -> str:
        try:
            orientation_change(np.eye(4), value)
        except GeometryError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("spacing_mm")
    @classmethod
    def _positive(cls, value: tuple[float | None, ...] | None) -> tuple[float | None, ...] | None:
        if value is not None and any(edge is not None and edge <= 0 for edge in value):
            raise ValueError(f"spacing_mm={value} must be positive")
        return value

    def to_working(
        self, volume: Volume, scales: Sequence[Scale | None] | None = None
    ) -> NDArray[np.float32]:
        """Return the normalised working volume, (C, D, H, W) float32.

        Args:
            volume: a whole one, or some of its planes.
            scales: of some planes, each channel's `measure` of the whole.

        Raises:
            DataError: when the volume has another number of channels, or would be resampled to an
                absurd size.
        """
        if volume.channels != len(self.channels):
            names = ", ".join(channel.name for channel in self.channels)
            raise DataError(
                f"{volume.name}: it has {counted(volume.channels, 'channel')}; expected "
                f"{len(self.channels)} ({names}). Give one file per channel, in this order; of a "
                "series over time, one volume."
            )
        oriented = self.oriented(volume)
        out = np.empty(oriented.shape, np.float32)
        white = volume.white
        for index, channel in enumerate(self.channels):
            channel = channel.for_white(white)
            out[index] = channel.normalise(oriented[index], scales[index] if scales else None)
        shape = self.working_shape(volume)
        if shape == oriented.shape[1:]:
            return out
        orders = [3, 3, 3]
        coarse = self._coarse_axis(volume)
        if coarse is not None:  # a spline through planes that lie far apart overshoots between them
            orders[coarse] = 1
        return resize(out, shape, order=orders, edge="kept")

    def labels_to_working(self, volume: Volume) -> NDArray[Any]:
        """Return a label map as a working volume, (D, H, W) uint8 (uint16 above 255)."""
        oriented = smallest_unsigned(self.oriented(volume)[0])
        shape = self.working_shape(volume)
        if self.of_volumes:
            return resize_labels(oriented, shape)
        return np.ascontiguousarray(nearest(oriented, shape, edge="kept"))

    def from_working(self, labels: NDArray[Any], like: Volume) -> Volume:
        """Return the labels of a working volume as a label map on `like`'s own grid.

        Args:
            labels: (D, H, W), unsigned; at the working spacing, or at the volume's own already.
            like: The volume that `to_working` made it of.

        Raises:
            GeometryError: when they are not as many planes, and as large, as those of `like`.
        """
        expected, shape = self.working_shape(like), self.native_shape(like)
        if labels.shape not in (expected, shape):
            raise GeometryError(
                f"{like.name}: labels of shape {labels.shape} do not fit; expected {expected}."
            )
        native = (
            resize_labels(labels, shape) if self.of_volumes else nearest(labels, shape, edge="kept")
        )
        array = smallest_unsigned(self.unoriented(native[None], like))
        return like.with_array(np.ascontiguousarray(array))

    @property
    def of_volumes(self) -> bool:
        """Whether volumes are resampled along all axes, as for networks of three."""
        return self.spacing_mm is not None and self.spacing_mm[0] is not None

    @property
    def is_cropped(self) -> bool:
        """Whether a store leaves out what is 0 in all channels around a volume.

        It is 0 in the working volume, too, as is what patches see outside a volume: a network sees
        the same at the border of what is kept as in the whole volume, so that prediction, which
        takes the whole one, need not crop.
        """
        nonzero = all(channel.normalisation == "nonzero" for channel in self.channels)
        return self.of_volumes and nonzero

    def _coarse_axis(self, volume: Volume) -> int | None:
        """The axis that is resampled by itself: voxels are far longer there, or shall be."""
        if not self.of_volumes:
            return None
        own = coarse_axis(self.working_spacing_mm(volume, resampled=False))
        return coarse_axis(self.working_spacing_mm(volume)) if own is None else own

    def oriented(self, volume: Volume) -> NDArray[Any]:
        """Return `volume`'s voxels as planes, rows and columns, (C, D, H, W): a view."""
        return volume.reoriented(self.orientation).array

    def unoriented(self, array: NDArray[Any], like: Volume | Grid) -> NDArray[Any]:
        """Return (C, D, H, W), as `oriented` gives it, as `like`'s (C, X, Y, Z): a view."""
        return apply_orientation(array, orientation_back(like.affine, self.orientation))

    def native_shape(self, volume: Volume | Grid) -> tuple[int, int, int]:
        """Planes, rows and columns of `volume` before it is resampled."""
        planes, rows, columns = (
            volume.spatial_shape[axis] for axis in volume.axes_in(self.orientation)
        )
        return planes, rows, columns

    def working_shape(self, volume: Volume | Grid) -> tuple[int, int, int]:
        """Planes, rows and columns of the working volume."""
        shape = self.native_shape(volume)
        if self.spacing_mm is None:
            return shape
        native_mm = self.working_spacing_mm(volume, resampled=False)
        planes, rows, columns = (
            n if wanted is None else max(1, round(n * has / wanted))
            for n, has, wanted in zip(shape, native_mm, self.spacing_mm, strict=True)
        )
        if planes * rows * columns > max(LARGEST, prod(shape)):
            has, wanted, own = (extents(n, ".4g") for n in (native_mm, self.spacing_mm, shape))
            raise DataError(
                f"{getattr(volume, 'name', 'A volume')}: resampled from {has} mm to {wanted} mm, "
                f"its {own} voxels would become {planes} x {rows} x {columns}, "
                f"{4 * planes * rows * columns / 2**30:,.0f} GiB; expected at most "
                f"{4 * LARGEST / 2**30:.0f} GiB. Choose a coarser spacing, or correct the voxel "
                "size in the file if it is wrong."
            )
        return planes, rows, columns

    def working_spacing_mm(
        self, volume: Volume | Grid, resampled: bool = True
    ) -> tuple[float, float, float]:
        """Distance in mm from plane to plane, row to row and column to column."""
        spacing = volume.spacing_mm
        native_mm = [spacing[axis] for axis in volume.axes_in(self.orientation)]
        if resampled and self.spacing_mm is not None:
            # What the rounding to whole voxels made of the wanted spacing.
            native, working = self.native_shape(volume), self.working_shape(volume)
            native_mm = [
                edge if wanted is None else edge * n / new
                for edge, wanted, n, new in zip(
                    native_mm, self.spacing_mm, native, working, strict=True
                )
            ]
        planes, rows, columns = native_mm
        return planes, rows, columns

    def plane_axis(self, volume: Volume | Grid) -> int:
        """The axis of `volume`'s own array that runs across the planes."""
        return volume.axes_in(self.orientation)[0]


def tissue_in(plane: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where a plane (H, W) is not 0, or enclosed by what is not.

    A ventricle that a scan shows as 0 is as dark as tissue gets, and not without intensity as the
    air is that was set to 0 around a head. nnU-Net fills such holes of the whole volume; here it is
    done plane by plane, so that some planes of a volume give what all do.
    """
    zeros, _ = ndimage.label(np.pad(plane == 0, 1, constant_values=True))
    return np.asarray(zeros != zeros[0, 0])[1:-1, 1:-1]


def coarse_axis(spacing_mm: Sequence[float], times: float = ANISOTROPIC) -> int | None:
    """Return the axis along which voxels are more than `times` as long as along each of the others.

    None where there is none, also where voxels are long along two axes: then the planes across
    either are no pictures by themselves. Volumes are resampled along such an axis by itself, and
    augmentation mixes no planes across it. (nnU-Net resamples so by the same three times.)

    Args:
        spacing_mm: from voxel to voxel along each axis.
        times: how many.
    """
    axis = int(np.argmax(spacing_mm))
    return axis if spacing_mm[axis] > times * max(np.delete(spacing_mm, axis)) else None


def planes_first(orientation: str, axis: int) -> str:
    """Return `orientation`, such as "RAS", with the axis across the planes in front: 2 is "SRA".

    Raises:
        ConfigError: when it does not name three directions.
    """
    try:
        orientation_change(np.eye(4), orientation)
    except GeometryError as error:
        raise ConfigError(str(error)) from None
    return orientation[axis : axis + 1] + orientation[:axis] + orientation[axis + 1 :]

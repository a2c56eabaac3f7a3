"""Volumes to slices and label slices back to volumes: orientation, intensities, slice axis.

It travels in the bundle, so that predicting does what training did.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from transunet.data.formats import raster, smallest_unsigned
from transunet.data.resize import nearest, resize
from transunet.data.volume import (
    Grid,
    Volume,
    apply_orientation,
    orientation_back,
    orientation_change,
)
from transunet.errors import DataError, GeometryError
from transunet.settings import Configuration

PHOTOGRAPH_CHANNELS = frozenset(
    {"r", "g", "b", "red", "green", "blue", "grey", "gray", "rgb", "rgb_to_0_1"}
)


class Scale(NamedTuple):
    """Mean and standard deviation of a channel in one volume."""

    mean: float
    deviation: float
    """1 where all voxels are the same."""


class Channel(Configuration):
    """How the intensities of one channel are normalised."""

    name: str = "image"
    normalisation: Literal["clip", "zscore", "range"] = "zscore"
    """clip: `low`..`high` to [0, 1], the rest clipped; zscore: mean 0 and deviation 1 per volume;
    range: divided by `high`."""
    low: float = 0.0
    high: float = 1.0

    @model_validator(mode="after")
    def _window(self) -> Self:
        if self.normalisation != "zscore" and self.high <= self.low:
            raise ValueError(f"high={self.high} must be above low={self.low}")
        return self

    def for_white(self, white: float | None) -> Self:
        """Return the channel for a picture whose white is this: 255 with 8 bits, 65535 with 16.

        So a bundle (or a data set) of pictures with 8 bits takes one with 16, and the reverse.
        """
        photograph = self.normalisation == "range" and self.high in raster.WHITES
        return self.replace(high=white) if white and photograph else self

    def measure(self, parts: Sequence[NDArray[Any]]) -> Scale | None:
        """Return what normalising needs to know of all voxels; None where it needs nothing.

        Args:
            parts: the channel's voxels, in as many pieces as suits the caller.
        """
        if self.normalisation != "zscore":
            return None
        # In double precision: the mean of many large numbers is not safe in single.
        count = sum(part.size for part in parts)
        mean = sum(float(part.sum(dtype=np.float64)) for part in parts) / count
        squares = sum(float(np.square(part.astype(np.float64) - mean).sum()) for part in parts)
        return Scale(mean, float(np.sqrt(squares / count)) or 1.0)

    def normalise(self, values: NDArray[Any], scale: Scale | None = None) -> NDArray[np.float32]:
        """Return voxels of one channel (at least one axis), normalised, float32.

        Args:
            values: all of them, or some.
            scale: what `measure` said of all of them; None if these are all.
        """
        if self.normalisation == "clip":
            clipped = np.clip(values, self.low, self.high) - self.low
            return np.asarray(clipped / (self.high - self.low), dtype=np.float32)
        if self.normalisation == "range":
            return np.asarray(values / self.high, dtype=np.float32)
        scale = scale or self.measure([values])
        assert scale is not None
        out = np.empty(values.shape, np.float32)
        for index, part in enumerate(values):  # one slice at a time in double precision
            out[index] = (part.astype(np.float64) - scale.mean) / scale.deviation
        return out


class Preprocessing(Configuration):
    """From a volume to slices for the network, and from label slices back to the volume's own grid.

    Raises:
        ConfigError: for settings that cannot work.
    """

    channels: tuple[Channel, ...] = Field(default=(Channel(),), min_length=1)
    orientation: str = "RAS"
    """The directions that the axes are permuted and flipped to before cutting."""
    slice_axis: int = Field(default=2, ge=0, le=2)
    """The axis, after reorienting, that slices are cut along: 2 gives axial slices in RAS."""
    spacing_mm: tuple[float, float] | None = None
    """In-plane spacing (rows, columns) that slices are resampled to; None keeps each volume's."""

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
    def _positive(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and min(value) <= 0:
            raise ValueError(f"spacing_mm={value} must be positive")
        return value

    def to_slices(
        self, volume: Volume, scales: Sequence[Scale | None] | None = None
    ) -> NDArray[np.float32]:
        """Return the volume as normalised slices, (S, C, H, W) float32.

        Args:
            volume: a whole one, or a slab of it.
            scales: of a slab, each channel's `measure` of the whole.

        Raises:
            DataError: when the volume has another number of channels.
        """
        if volume.channels != len(self.channels):
            names = ", ".join(channel.name for channel in self.channels)
            raise DataError(
                f"{volume.name}: it has {volume.channels} channels; expected {len(self.channels)} "
                f"({names}). Give one file per channel, in this order; of a series over time, one "
                "volume."
            )
        slices = self.cut(volume)
        out = np.empty(slices.shape, np.float32)
        white = raster.white_of(volume)
        for index, channel in enumerate(self.channels):
            channel = channel.for_white(white)
            out[:, index] = channel.normalise(slices[:, index], scales[index] if scales else None)
        size = self.slice_size(volume)
        return out if size == tuple(out.shape[-2:]) else resize(out, size, order=3, edge="kept")

    def labels_to_slices(self, volume: Volume) -> NDArray[Any]:
        """Return a label map as slices, (S, H, W) uint8 (uint16 above 255)."""
        slices = self.cut(volume)[:, 0]
        return np.ascontiguousarray(
            nearest(smallest_unsigned(slices), self.slice_size(volume), edge="kept")
        )

    def from_slices(self, labels: NDArray[Any], like: Volume) -> Volume:
        """Return label slices, cut as `to_slices(like)` cuts, as a label map on `like`'s own grid.

        Args:
            labels: (S, H, W), unsigned.
            like: The volume that was cut.

        Raises:
            GeometryError: when the slices are not as many and as large as those of `like`.
        """
        expected = (self.slice_count(like), *self.slice_size(like))
        if labels.shape != expected:
            raise GeometryError(
                f"{like.name}: label slices of shape {labels.shape} do not fit; expected "
                f"{expected}."
            )
        native = nearest(labels, self.native_size(like), edge="kept")
        return like.with_array(np.ascontiguousarray(smallest_unsigned(self.uncut(native, like))))

    def cut(self, volume: Volume) -> NDArray[Any]:
        """Return `volume`'s voxels as its slices at their own size, (S, C, H, W): a view."""
        oriented = volume.reoriented(self.orientation).array
        return np.moveaxis(oriented, 1 + self.slice_axis, 0)

    def uncut(self, slices: NDArray[Any], like: Volume | Grid) -> NDArray[Any]:
        """Return slices (S, H, W), as `cut` gives them, as `like`'s (1, X, Y, Z): a view."""
        oriented = np.moveaxis(slices[None], 1, 1 + self.slice_axis)
        return apply_orientation(oriented, orientation_back(like.affine, self.orientation))

    def slice_count(self, volume: Volume | Grid) -> int:
        """How many slices `volume` is cut into."""
        return volume.spatial_shape[self.stored_axis(volume)]

    def native_size(self, volume: Volume | Grid) -> tuple[int, int]:
        """Height and width in pixels of `volume`'s slices before they are resampled."""
        _, rows, columns = self._axes(volume)
        return volume.spatial_shape[rows], volume.spatial_shape[columns]

    def slice_size(self, volume: Volume | Grid) -> tuple[int, int]:
        """Height and width in pixels of `volume`'s slices."""
        size = self.native_size(volume)
        if self.spacing_mm is None:
            return size
        native = self.slice_spacing(volume, resampled=False)[1:]
        height, width = (
            max(1, round(n * has / wants))
            for n, has, wants in zip(size, native, self.spacing_mm, strict=True)
        )
        return height, width

    def slice_spacing(
        self, volume: Volume | Grid, resampled: bool = True
    ) -> tuple[float, float, float]:
        """Distance in mm from slice to slice, row to row and column to column."""
        spacing = _grid(volume).spacing_mm
        between, row, column = (spacing[axis] for axis in self._axes(volume))
        if resampled and self.spacing_mm is not None:
            # What the rounding to whole pixels made of the wanted spacing.
            native, size = self.native_size(volume), self.slice_size(volume)
            row, column = row * native[0] / size[0], column * native[1] / size[1]
        return between, row, column

    def stored_axis(self, volume: Volume | Grid) -> int:
        """The axis of `volume`'s own array that runs across the slices."""
        return self._axes(volume)[0]

    def _axes(self, volume: Volume | Grid) -> tuple[int, int, int]:
        """The array axes that run across the slices, down their rows and along their columns."""
        axes = list(_grid(volume).axes_in(self.orientation))
        across = axes.pop(self.slice_axis)
        return across, axes[0], axes[1]


def _grid(volume: Volume | Grid) -> Grid:
    return volume.grid if isinstance(volume, Volume) else volume

"""Images worsened on purpose, so that predictions of every quality exist to learn from."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

from transunet.data.volume import Volume

GRADES = 5
Array = NDArray[np.float32]


def worsen(volume: Volume, kind: str, grade: int, random: np.random.Generator) -> Volume:
    """Return `volume` with one fault, which is plain to see from grade 3 on.

    Args:
        volume: an image; its grid's shape stays.
        kind: one of `FAULTS`.
        grade: 1 to 5.
        random: where noise and fields are drawn from.
    """
    return FAULTS[kind](volume, grade, random)


def _noise(volume: Volume, grade: int, random: np.random.Generator) -> Volume:
    """Gaussian, of 4 % of the intensities' range per grade."""

    def change(channel: Array, low: float, width: float) -> Array:
        noise = random.normal(0, 0.04 * grade * width, channel.shape)
        return np.asarray(channel + noise, np.float32)

    return _changed(volume, change)


def _bias_field(volume: Volume, grade: int, random: np.random.Generator) -> Volume:
    """A smooth field, up to 20 % brighter here and darker there per grade."""

    def change(channel: Array, low: float, width: float) -> Array:
        coarse = random.uniform(-1, 1, tuple(min(3, side) for side in channel.shape))
        factors = [side / few for side, few in zip(channel.shape, coarse.shape, strict=True)]
        field = zoom(coarse, factors, order=1, grid_mode=True, mode="nearest")
        return np.asarray(low + (channel - low) * np.exp(0.2 * grade * field), np.float32)

    return _changed(volume, change)


def _low_resolution(volume: Volume, grade: int, random: np.random.Generator) -> Volume:
    """A blur of 0.6 of the finest voxel per grade, as wide along every axis."""
    spacing = np.array(volume.spacing_mm)
    sigma = 0.6 * grade * spacing.min() / spacing

    def change(channel: Array, low: float, width: float) -> Array:
        return np.asarray(gaussian_filter(channel, sigma), np.float32)

    return _changed(volume, change)


def _wrong_window(volume: Volume, grade: int, random: np.random.Generator) -> Volume:
    """What is below and above is cut, 8 % of the range per grade, and the rest bent by a gamma."""
    gamma = 1.2**grade if random.random() < 0.5 else 1.2**-grade

    def change(channel: Array, low: float, width: float) -> Array:
        cut = 0.08 * grade
        share = np.clip((channel - low) / width, cut, 1 - cut)
        return np.asarray(low + width * ((share - cut) / (1 - 2 * cut)) ** gamma, np.float32)

    return _changed(volume, change)


def _shifted_spacing(volume: Volume, grade: int, random: np.random.Generator) -> Volume:
    """A header that says voxels are 15 % larger than they are per grade, or smaller."""
    factor = (1 + 0.15 * grade) ** random.choice([-1, 1])
    affine = volume.affine.copy()
    affine[:3, :3] *= factor
    return replace(volume, affine=affine)


FAULTS: Mapping[str, Callable[[Volume, int, np.random.Generator], Volume]] = MappingProxyType(
    {
        "noise": _noise,
        "bias field": _bias_field,
        "low resolution": _low_resolution,
        "wrong window": _wrong_window,
        "shifted spacing": _shifted_spacing,
    }
)


def _changed(volume: Volume, change: Callable[[Array, float, float], Array]) -> Volume:
    """Change each channel, whose intensities lie, but for 1 %, between `low` and `low + width`."""
    channels = []
    for channel in np.asarray(volume.array, np.float32):
        low, high = np.percentile(channel[:: max(1, channel.shape[0] // 64)], [0.5, 99.5])
        channels.append(change(channel, float(low), max(float(high - low), 1e-6)))
    return volume.with_array(np.stack(channels).astype(np.float32))

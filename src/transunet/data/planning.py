"""What is taken where nobody says otherwise, each value with the reason for it.

Channels and slice axis are decided here before a store is made, the image size after it. What
fits into memory is measured in training, where there is a network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from transunet.data.cases import DataSet
from transunet.data.fingerprint import Fingerprint
from transunet.data.preprocessing import PHOTOGRAPH_CHANNELS, Channel, Preprocessing, planes_first
from transunet.data.volume import Grid

Value = TypeVar("Value")

CT_WINDOW = (-125.0, 275.0)
"""Hounsfield units that the paper keeps, for soft tissue of the abdomen."""
ANISOTROPY = 2.0
"""The scanner sliced along an axis whose spacing is more than this many times the others'."""
LEAST, MOST, STEP = 64, 512, 32
"""Image sizes in pixels: the least that leaves the transformer a grid, the most, the steps."""
PAPER_SIZE = 224
ENOUGH = 8
"""Slices per batch below which a smaller image is preferred: the Dice loss needs several."""


@dataclass(frozen=True)
class Derived(Generic[Value]):
    """A value and why it is the default."""

    value: Value
    reason: str


def preprocessing_for(dataset: DataSet, grids: Sequence[Grid] = ()) -> Preprocessing:
    """Choose the normalisation by modality and the slice axis by spacing.

    Args:
        dataset: its channels name the modality.
        grids: grids of its images (`formats.read_grid`), for the slice axis; without them slices
            are axial.
    """
    channels = tuple(channel_for(name, dataset.intensity_range) for name in dataset.channels)
    slice_axis = 2
    if grids:
        in_ras = [[grid.spacing_mm[axis] for axis in grid.axes_in("RAS")] for grid in grids]
        spacing = np.median(in_ras, axis=0)
        coarse = [a for a in (2, 1, 0) if spacing[a] > ANISOTROPY * np.delete(spacing, a).max()]
        slice_axis = coarse[0] if coarse else 2
    return Preprocessing(channels=channels, orientation=planes_first("RAS", slice_axis))


def channel_for(name: str, intensity_range: tuple[float, float] | None = None) -> Channel:
    """Choose the normalisation of a channel: a known range, CT, a photograph's colour, or other."""
    if intensity_range is not None:
        return Channel(name=name, normalisation="range", high=intensity_range[1])
    if name.lower() in {"ct", "cbct"}:
        return Channel(name=name, normalisation="clip", low=CT_WINDOW[0], high=CT_WINDOW[1])
    if name.lower() in PHOTOGRAPH_CHANNELS:
        return Channel(name=name, normalisation="range", high=255.0)
    return Channel(name=name, normalisation="zscore")


def normalisation_of(preprocessing: Preprocessing) -> Derived[tuple[str, ...]]:
    """Return what happens to each channel's intensities, in words, and why."""
    reasons = {
        "clip": "CT counts in Hounsfield units; the paper's window for soft tissue",
        "range": "the range of the values is known",
        "zscore": "no absolute scale is known, so each volume is brought to its own",
    }
    channels = preprocessing.channels
    why = dict.fromkeys(reasons[channel.normalisation] for channel in channels)
    return Derived(tuple(describe(channel) for channel in channels), "; ".join(why))


def describe(channel: Channel) -> str:
    """Say in a few words what happens to a channel's intensities."""
    if channel.normalisation == "clip":
        return f"{channel.name}: {channel.low:g}..{channel.high:g} to 0..1, clipped"
    if channel.normalisation == "range":
        return f"{channel.name}: divided by {channel.high:g}"
    return f"{channel.name}: mean 0 and deviation 1 per volume"


def orientation_of(preprocessing: Preprocessing, fingerprint: Fingerprint) -> Derived[str]:
    """Return the directions of planes, rows and columns, and why it is they."""
    spacing = " x ".join(f"{edge:.3g}" for edge in fingerprint.spacing_mm["median"])
    return Derived(
        preprocessing.orientation,
        f"slices, rows and columns lie {spacing} mm apart (median); axial, unless another axis is "
        f"more than {ANISOTROPY:g} times coarser",
    )


def image_sides(fingerprint: Fingerprint) -> Derived[tuple[int, ...]]:
    """Return sides in pixels of the (square) images that suit a data set, and why.

    The first is the median slice's longer side; those after it, down to the paper's, are for a
    memory that has no room for `ENOUGH` slices of it.
    """
    _, rows, columns = fingerprint.size["median"]
    side = min(MOST, max(LEAST, -(-max(rows, columns) // STEP) * STEP))
    sides = tuple(range(side, min(side, PAPER_SIZE) - 1, -STEP))
    return Derived(sides, f"the median slice has {rows} x {columns} pixels")

"""What is taken where nobody says otherwise, and why: preprocessing, image size, batch.

All of it is decided here: the preprocessing from the images' headers before a store is made, sizes
from its fingerprint after it. What fits into memory is measured in training, where there is a
network.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil, prod
from typing import Protocol

import numpy as np

from transunet.data.cases import Case, DataSet
from transunet.data.fingerprint import Fingerprint
from transunet.data.formats import read_grid
from transunet.data.preprocessing import (
    PHOTOGRAPH_CHANNELS,
    Channel,
    Normalisation,
    Preprocessing,
    planes_first,
)
from transunet.data.volume import Grid
from transunet.errors import ConfigError, DataError, GeometryError

CT_WINDOW = (-125.0, 275.0)
"""Hounsfield units that the paper keeps, for soft tissue of the abdomen."""
ANISOTROPY = 2.0
"""The scanner sliced along an axis whose spacing is more than this many times the others'."""
LEAST, MOST, STEP = 64, 512, 32
"""Image sizes in pixels: the least that leaves the transformer a grid, the most, the steps."""
PAPER_SIZE = 224
"""Below this, memory does not make an image smaller."""
ENOUGH = 8
"""Slices per batch below which a smaller image is preferred: the Dice loss needs several."""
BATCH = 24
"""Slices per step that `auto` stands for: the paper's, since the learning rate belongs to it."""

PATCH_MEMORY = 8 << 30
"""Bytes for which patches are planned at most, as the published plans are: beyond, patches only
become slower."""
_PATCHES = 2  # per step, at least: what a larger patch must leave room for
_BATCH_SHARE = 0.05  # of the data set's voxels that a step sees at most

_GRIDS = 500  # cases whose headers decide on the slice axis


@dataclass(frozen=True)
class Decision:
    """A value that was taken, as it is told."""

    name: str
    value: str
    reason: str
    option: str
    """What a user changes it with."""


def grids_of(cases: Sequence[Case]) -> list[Grid]:
    """Read the grids of (at most 500, evenly chosen) cases from their headers."""
    grids = []
    for case in cases[:: -(-len(cases) // _GRIDS)]:
        with suppress(DataError, GeometryError):  # reading the case will tell what is wrong with it
            grids.append(read_grid(case.images[0]))
    return grids


def preprocessing_for(
    dataset: DataSet,
    grids: Sequence[Grid] = (),
    *,
    normalisation: Normalisation | None = None,
    window: tuple[float, float] | None = None,
    orientation: str = "RAS",
    slice_axis: int | None = None,
) -> Preprocessing:
    """Choose the normalisation by modality and the slice axis by spacing, where they are not given.

    Args:
        dataset: its channels name the modality.
        grids: of its images, from `grids_of`; without them slices are axial.
        normalisation: of every channel.
        window: lowest and highest intensity; alone it means "clip".
        orientation: what the axes are turned to.
        slice_axis: the axis of `orientation` that runs across the slices.

    Raises:
        ConfigError: for another normalisation than the modality's that has no window.
    """
    if window and not normalisation:
        normalisation = "clip"
    channels = []
    for name in dataset.channels:
        channel = channel_for(name, dataset.intensity_range)
        if window or normalisation not in (None, channel.normalisation):
            if normalisation != "zscore" and not window:
                raise ConfigError(
                    f"--normalisation {normalisation} needs --window LOW HIGH, such as -125 275."
                )
            low, high = window or (0.0, 1.0)
            channel = channel.replace(normalisation=normalisation, low=low, high=high)
        channels.append(channel)
    if slice_axis is None:
        slice_axis = 2
        if grids:
            in_ras = [[grid.spacing_mm[axis] for axis in grid.axes_in("RAS")] for grid in grids]
            spacing = np.median(in_ras, axis=0)
            coarse = [a for a in (2, 1, 0) if spacing[a] > ANISOTROPY * np.delete(spacing, a).max()]
            slice_axis = coarse[0] if coarse else 2
    return Preprocessing(
        channels=tuple(channels), orientation=planes_first(orientation, slice_axis)
    )


def channel_for(name: str, intensity_range: tuple[float, float] | None = None) -> Channel:
    """Choose the normalisation of a channel: a known range, CT, a photograph's colour, or other."""
    if intensity_range is not None:
        return Channel(name=name, normalisation="range", high=intensity_range[1])
    if name.lower() in {"ct", "cbct"}:
        return Channel(name=name, normalisation="clip", low=CT_WINDOW[0], high=CT_WINDOW[1])
    if name.lower() in PHOTOGRAPH_CHANNELS:
        return Channel(name=name, normalisation="range", high=255.0)
    return Channel(name=name, normalisation="zscore")


def preprocessing_like(
    bundled: Preprocessing, dataset: DataSet, grids: Sequence[Grid]
) -> Preprocessing:
    """Prepare a data set as the data of the bundle were that training begins from.

    But for channels that are of another kind, and for pictures that would be cut into lines.
    """
    own = preprocessing_for(dataset, grids)
    if any(min(bundled.native_shape(grid)[1:]) == 1 for grid in grids):  # pictures, cut on edge
        bundled = bundled.replace(orientation=own.orientation)
    return bundled.replace(channels=channels_like(bundled.channels, own.channels))


def channels_like(bundled: Sequence[Channel], own: Sequence[Channel]) -> tuple[Channel, ...]:
    """Return `own`, normalised as their counterparts in the bundle: by name, else by position."""
    by_name = {channel.name.casefold(): channel for channel in bundled}
    channels = []
    for index, channel in enumerate(own):
        namesake = by_name.get(channel.name.casefold())
        other = namesake or (bundled[index] if len(own) == len(bundled) else None)
        if (
            other is None
            # What range the files' values lie in is a fact about them, whatever others had.
            or "range" in (channel.normalisation, other.normalisation)
            or (namesake is None and other.normalisation != channel.normalisation)
        ):
            channels.append(channel)
        else:
            channels.append(other.replace(name=channel.name))
    return tuple(channels)


def image_sides(fingerprint: Fingerprint, patch: int = 1) -> tuple[int, ...]:
    """Return sides in pixels of the (square) images that suit a data set, in whole patches.

    The first is the median slice's longer side; those after it, down to the paper's, are for a
    memory that has no room for `ENOUGH` slices of it.
    """
    side = min(MOST, max(LEAST, ceil(max(fingerprint.size["median"][1:]) / STEP) * STEP))
    sides = range(side, min(side, PAPER_SIZE) - 1, -STEP)
    return tuple(ceil(side / patch) * patch for side in sides)


class PooledPatch(Protocol):
    """What of a 3D network follows from a patch: `models.transunet3d.config.TrunkPlan`."""

    @property
    def image_size(self) -> tuple[int, ...]:
        """The patch, rounded up to what the poolings divide."""

    @property
    def poolings(self) -> tuple[tuple[int, ...], ...]:
        """Stride of each downsampling along each axis."""

    @property
    def kernels(self) -> tuple[tuple[int, ...], ...]:
        """Kernel of each stage."""


@dataclass(frozen=True)
class PatchPlan:
    """Patches that suit a data set, a network and a memory, with the reasons."""

    size: tuple[int, int, int]
    """Planes, rows and columns in voxels."""
    poolings: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    batch_size: int
    """Patches per step."""
    bytes: float
    """What a step is expected to take."""
    decisions: tuple[Decision, ...]
    """Size, poolings and batch size, as they are told."""


def planned_patches(
    fingerprint: Fingerprint,
    rule: Callable[[tuple[int, ...], tuple[float, ...]], PooledPatch],
    step_bytes: Callable[[PooledPatch, int], float],
    memory: float = PATCH_MEMORY,
    poolings: int = 1,
) -> PatchPlan:
    """Choose the patch, its poolings, and how many of them make a step.

    The patch is the median working volume, made smaller along whichever axis it covers most of
    until a step of two fits, as nnU-Net does it (Isensee et al. 2021). Where memory is left, more
    patches make a step, up to a twentieth of the data set's voxels.

    Args:
        fingerprint: of the working volumes.
        rule: what poolings and kernels a patch in voxels of some spacing gets: `plan_trunk`.
        step_bytes: what a step on so many patches takes: `training_bytes` of the network.
        memory: bytes that there are; of more than `PATCH_MEMORY` no more is used.
        poolings: the fewest that the network can do with: 3 where it has queries.

    Raises:
        ConfigError: for volumes that cannot be pooled so often, or when not even the smallest
            patch fits.
    """
    median, spacing = fingerprint.size["median"], fingerprint.spacing_mm["median"]
    limit = min(memory, PATCH_MEMORY)
    plan = rule(median, spacing)
    sizes = " x ".join(map(str, median))
    if len(plan.poolings) < poolings:
        side = 2 ** (poolings + 2)
        raise ConfigError(
            f"The median working volume has {sizes} voxels (planes, rows, columns), too few for "
            f"{poolings} poolings: the network needs about {side} along two axes or more. Prepare "
            "with a finer --spacing and --plane-spacing, or choose a --model without queries, such "
            "as TransUNet3D-encoder-S, or a 2D one."
        )
    while step_bytes(plan, _PATCHES) > limit:
        strides = [prod(steps) for steps in zip(*plan.poolings, strict=True)]
        covered = [side / length for side, length in zip(plan.image_size, median, strict=True)]
        # An axis that is not pooled any more, or of which little is left, stays as it is.
        axes = [
            axis
            for axis in range(3)
            if strides[axis] > 1 and plan.image_size[axis] > 2 * strides[axis]
        ]
        smaller = list(plan.image_size)
        if axes:
            longest = max(axes, key=lambda axis: (covered[axis], plan.image_size[axis]))
            smaller[longest] -= strides[longest]
        following = rule(tuple(smaller), spacing)
        if (
            not axes
            or len(following.poolings) < poolings
            or prod(following.image_size) >= prod(plan.image_size)
        ):
            raise ConfigError(
                f"Not even patches of {' x '.join(map(str, plan.image_size))} voxels can be "
                f"trained on in {limit / 2**30:.3g} GiB of memory: two of them take "
                f"{step_bytes(plan, _PATCHES) / 2**30:.3g} GiB. Choose a smaller --model, or a "
                "machine with more memory."
            )
        plan = following
    planes, rows, columns = plan.image_size
    voxels = fingerprint.cases * prod(median)
    most = max(_PATCHES, int(_BATCH_SHARE * voxels / prod(plan.image_size)))
    batch = next(n for n in range(most, 0, -1) if n == _PATCHES or step_bytes(plan, n) <= limit)
    used = step_bytes(plan, batch)
    share = min(1.0, prod(plan.image_size) / prod(median))
    whole = all(side >= length for side, length in zip(plan.image_size, median, strict=True))
    by_axis = zip(*plan.poolings, strict=True)
    halvings = " x ".join(str(sum(step > 1 for step in steps)) for steps in by_axis)
    why_batch = f"two or more, as {limit / 2**30:.3g} GiB allow"
    if batch == most > _PATCHES:
        why_batch = f"{_BATCH_SHARE:.0%} of the data set's voxels"
    return PatchPlan(
        (planes, rows, columns),
        plan.poolings,
        plan.kernels,
        batch,
        used,
        (
            Decision(
                "patch size",
                f"{planes} x {rows} x {columns}",
                (
                    f"the median working volume, {sizes}, rounded up to what the poolings divide"
                    if whole
                    else f"{share:.0%} of the median working volume, {sizes}: the most that "
                    f"{limit / 2**30:.3g} GiB allow, in its proportions"
                ),
                "train --image-size",
            ),
            Decision(
                "poolings",
                f"{len(plan.poolings)} ({halvings} halvings along planes, rows, columns)",
                "an axis is halved while 4 voxels remain, together with those of like resolution",
                "train --image-size",
            ),
            Decision(
                "batch size",
                str(batch),
                f"{why_batch}; a step takes about {used / 2**30:.2g} GiB",
                "train --batch-size",
            ),
        ),
    )


def describe(channel: Channel) -> str:
    """Say in a few words what happens to a channel's intensities."""
    if channel.normalisation == "clip":
        return f"{channel.name}: {channel.low:g}..{channel.high:g} to 0..1, clipped"
    if channel.normalisation == "range":
        return f"{channel.name}: divided by {channel.high:g}"
    return f"{channel.name}: mean 0 and deviation 1 per volume"


def decisions(
    preprocessing: Preprocessing,
    fingerprint: Fingerprint,
    *,
    recipe: str,
    image_size: int,
    batch_size: int,
) -> list[Decision]:
    """Say all that was taken for a prepared data set, and why.

    Args:
        preprocessing: what it was prepared with.
        fingerprint: what it is like.
        recipe: the name of the recipe that training takes if none is given.
        image_size: that one's, in pixels.
        batch_size: that one's, in slices.
    """
    reasons = []
    for channel in preprocessing.channels:
        if channel.normalisation == "range":
            reasons.append("the range of the values is known")
        elif channel.normalisation == "zscore":
            reasons.append("no absolute scale is known, so each volume is brought to its own")
        elif (channel.low, channel.high) == CT_WINDOW:
            reasons.append("CT counts in Hounsfield units; the paper's window for soft tissue")
        else:
            reasons.append("the window that was asked for")
    planes, rows, columns = list(preprocessing.orientation)
    apart = " x ".join(f"{edge:.3g}" for edge in fingerprint.spacing_mm["median"])
    in_plane = "as it is"
    if preprocessing.spacing_mm:
        edges = preprocessing.spacing_mm[1:]
        in_plane = " x ".join("own" if edge is None else f"{edge:g}" for edge in edges)
    sides = image_sides(fingerprint)
    less = ", less where memory is short" if sides[1:] else ""
    _, height, width = fingerprint.size["median"]
    of_recipe = f"the default recipe's ({recipe}); auto and --recipe modern"
    return [
        Decision(
            "normalisation",
            ", ".join(map(describe, preprocessing.channels)),
            "; ".join(dict.fromkeys(reasons)),
            "--modality, --normalisation, --window",
        ),
        Decision(
            "slices along",
            f"{planes}, rows along {rows}, columns along {columns}",
            f"slices, rows and columns lie {apart} mm apart (median); axial, unless another axis "
            f"is more than {ANISOTROPY:g} times coarser",
            "--slice-axis, --orientation",
        ),
        Decision(
            "in-plane mm", in_plane, "slices keep their own unless told otherwise", "--spacing"
        ),
        Decision(
            "image size",
            str(image_size),
            f"{of_recipe} take {sides[0]}{less}: the median slice has {height} x {width} pixels",
            "train --image-size",
        ),
        Decision(
            "batch size",
            str(batch_size),
            f"{of_recipe} compute it in as many pieces as memory asks",
            "train --batch-size",
        ),
    ]

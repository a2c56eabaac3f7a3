"""What is taken where nobody says otherwise, and why: preprocessing, image size, batch.

All of it is decided here: the preprocessing from the images' headers before a store is made, sizes
from its fingerprint after it. What fits into memory is measured in training, where there is a
network.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil, prod
from typing import Protocol, TypeVar

import numpy as np

from transunet.data.cases import Case, DataSet
from transunet.data.fingerprint import (
    CaseFingerprint,
    Fingerprint,
    foreground_of,
    foreground_percentiles,
)
from transunet.data.formats import read_grid
from transunet.data.preprocessing import (
    PHOTOGRAPH_CHANNELS,
    Channel,
    Normalisation,
    Preprocessing,
    coarse_axis,
    planes_first,
)
from transunet.data.text import extents
from transunet.data.volume import Grid
from transunet.errors import ConfigError, DataError, GeometryError

CT_WINDOW = (-125.0, 275.0)
"""Hounsfield units that the paper keeps, for soft tissue of the abdomen."""
SLICED = 2.0
"""The scanner sliced along an axis whose spacing is more than this many times the others'. Less
than `ANISOTROPIC`, since to slice along it too costs nothing."""
LEAST, MOST, STEP = 64, 512, 32
"""Image sizes in pixels: the least that leaves the transformer a grid, the most, the steps."""
PAPER_SIZE = 224
"""Below this, memory does not make an image smaller."""
ENOUGH = 8
"""Slices per batch below which a smaller image is preferred: the Dice loss needs several."""
BATCH = 24
"""Slices per step that `auto` stands for: the paper's, since the learning rate belongs to it."""

CLIPPED = (0.5, 99.5)
"""Percentiles of a CT's foreground that intensities are clipped to."""
_FINE = 10  # percentile of the coarse axis's spacings that is taken where voxels are long
_EMPTY = 0.25  # share of voxels that are exactly 0 from which on the background counts as such
_SMALL_SHARE = 0.02  # of a volume, below which a patch shows too little of it
_FAR_APART = 5.0
"""Times the pixels' distance, from which planes tell little of each other: of abdominal CTs, where
it is 4 times, 3D networks are published to do better; of cardiac films, 6 to 7 times, they do worse
than slices in docs/explanation/results.md."""
_FEW_PLANES = 16  # below this there is little to see along the axis across the slices, all needed

PATCHES = 2
"""Patches per step that `auto` takes at least: the reference's, for each of its GPUs."""
_SHARE_OF_DATA = 0.05  # of all voxels, above which the patches of a step make the next ones alike

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
            if normalisation == "foreground":
                raise ConfigError(
                    "--normalisation foreground takes mean and deviation from the labelled voxels, "
                    "which are measured for volumes only: add --dimensions 3."
                )
            if normalisation not in ("zscore", "nonzero") and not window:
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
            coarse = coarse_axis(np.median(in_ras, axis=0).tolist(), SLICED)
            slice_axis = 2 if coarse is None else coarse
    return Preprocessing(
        channels=tuple(channels), orientation=planes_first(orientation, slice_axis)
    )


def volume_preprocessing(
    dataset: DataSet,
    grids: Sequence[Grid],
    cases: Sequence[CaseFingerprint],
    *,
    normalisation: Normalisation | None = None,
    window: tuple[float, float] | None = None,
    orientation: str = "RAS",
    slice_axis: int | None = None,
    plane_mm: float | None = None,
    in_plane_mm: tuple[float, float] | None = None,
) -> tuple[Preprocessing, tuple[Decision, ...]]:
    """Choose the preprocessing for networks of three axes, with the reasons.

    The rules are those published for nnU-Net (Isensee et al. 2021).

    Args:
        dataset: its channels name the modality.
        grids: of its images, from `grids_of`.
        cases: measured finely.
        normalisation: of every channel, instead of the modality's.
        window: lowest and highest intensity, instead of the foreground's percentiles.
        orientation: what the axes are turned to.
        slice_axis: the axis of `orientation` that runs across the planes.
        plane_mm: spacing from plane to plane, instead of the one chosen.
        in_plane_mm: likewise from row to row and column to column.

    Raises:
        ConfigError: for a normalisation that lacks what it needs.
    """
    own = preprocessing_for(
        dataset,
        grids,
        normalisation=None if normalisation == "foreground" else normalisation,
        window=None if normalisation == "foreground" else window,
        orientation=orientation,
        slice_axis=slice_axis,
    )
    channels, reasons = _volume_channels(own.channels, cases, normalisation, window)
    spacing = np.array([own.working_spacing_mm(grid) for grid in grids])
    median = np.median(spacing, axis=0) if grids else np.ones(3)
    chosen = median.copy()
    coarse = coarse_axis(median.tolist())
    reason = f"the median of {len(grids)} volumes"
    if coarse is not None:
        others = float(np.delete(median, coarse).max())
        chosen[coarse] = max(np.percentile(spacing[:, coarse], _FINE), others)
        axis = ("planes", "rows", "columns")[coarse]
        reason += (
            f"; but of the distance between {axis}, {median[coarse] / others:.1f} times the "
            f"others', the {_FINE}th percentile, so that no volume loses much: they are resampled "
            "along it by themselves, linearly"
        )
    wanted = (
        plane_mm or float(chosen[0]),
        *(in_plane_mm or (float(chosen[1]), float(chosen[2]))),
    )
    if plane_mm or in_plane_mm:
        reason = "what was asked for" + ("" if plane_mm and in_plane_mm else f"; else {reason}")
    planes, rows, columns = list(own.orientation)
    preprocessing = own.replace(channels=tuple(channels), spacing_mm=wanted)
    return preprocessing, (
        _of_normalisation(channels, reasons),
        Decision(
            "planes along",
            f"{planes}, rows along {rows}, columns along {columns}",
            f"axial, unless another axis is more than {SLICED:g} times coarser",
            "--slice-axis, --orientation",
        ),
        Decision(
            "spacing mm",
            extents(wanted, ".4g"),
            f"{reason}; images with cubic splines, labels by class",
            "--plane-spacing, --spacing",
        ),
    )


def _volume_channels(
    own: Sequence[Channel],
    cases: Sequence[CaseFingerprint],
    normalisation: Normalisation | None,
    window: tuple[float, float] | None,
) -> tuple[list[Channel], list[str]]:
    """Return the channels of `volume_preprocessing`, and why each is as it is."""
    foreground = foreground_of(cases)
    if normalisation == "foreground" and not foreground:
        raise ConfigError("--normalisation foreground needs labelled voxels, and no case has any.")
    empty = 1 - float(np.median([case.nonzero for case in cases]))
    channels, reasons = [], []
    for number, channel in enumerate(own):
        asked = normalisation is not None or window is not None
        is_ct = channel.normalisation == "clip" and not asked
        if foreground and (is_ct or normalisation == "foreground"):
            low, high = window or foreground_percentiles(cases, number, CLIPPED)
            channel = channel.replace(
                normalisation="foreground",
                low=_short(low),
                high=_short(max(high, low + 1e-3)),
                mean=_short(foreground[number].mean),
                deviation=_short(foreground[number].deviation) or 1.0,
            )
            reasons.append(
                "the labelled voxels' mean and deviation, clipped to "
                + ("the window" if window else "their 0.5 and 99.5 percentiles")
                + ("; CT counts in Hounsfield units, the same in every volume" if is_ct else "")
            )
        elif channel.normalisation == "zscore" and not asked and empty >= _EMPTY:
            channel = channel.replace(normalisation="nonzero")
            reasons.append(
                f"no absolute scale is known, and {empty:.0%} of the voxels (median) are exactly "
                "0: they are no tissue, and what lies around the rest is cut off in the store"
            )
        elif asked:
            reasons.append("what was asked for")
        else:
            reasons.append(_reason(channel))
        channels.append(channel)
    return channels, reasons


def recommendation(fingerprint: Fingerprint, patch: Sequence[int] = ()) -> Decision:
    """Say whether a network of two axes, with neighbours or of three suits a data set.

    Args:
        fingerprint: of the working volumes.
        patch: what a network of three axes would see at once, if it is known.
    """
    size, spacing = fingerprint.size["median"], fingerprint.spacing_mm["median"]
    ratio = spacing[0] / max(spacing[1:])
    share = prod(patch) / prod(size) if patch else 1.0
    if size[0] < 4:
        value, reason = "2D", f"{size[0]} planes (median) are no volume to speak of"
    elif ratio > _FAR_APART or size[0] < _FEW_PLANES:
        value = "2D, or 2.5D (--set context=1)"
        reason = (
            f"{size[0]} planes (median), {ratio:.1f} times as far apart as rows and columns: each "
            "tells little of the next; 3D is worth a comparison"
        )
    elif share < _SMALL_SHARE:
        value = "3D, or 2D for the overview"
        reason = (
            f"planes lie {ratio:.1f} times as far apart as rows and columns, but a patch sees only "
            f"{share:.1%} of a volume; a coarser --spacing and --plane-spacing shows more of it"
        )
    else:
        value = "3D"
        reason = (
            f"{size[0]} planes (median), {ratio:.1f} times as far apart as rows and columns: what "
            "lies above and below tells as much as what lies beside"
        )
    return Decision("recommended", value, reason, "train --model")


def _short(number: float) -> float:
    """`number` as a person would write it down."""
    return float(f"{number:.6g}")


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
            or (namesake is None and other.per_volume != channel.per_volume)
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
    def stride(self) -> tuple[int, ...]:
        """Of all of them together."""


Pooled = TypeVar("Pooled", bound=PooledPatch)


def planned_patches(
    fingerprint: Fingerprint,
    rule: Callable[[Sequence[int], Sequence[float]], Pooled],
    fits: Callable[[Pooled], bool],
    poolings: int = 1,
) -> Pooled:
    """Choose the patch that suits a data set, a network and a memory, and its poolings.

    It is the median working volume, as near as the poolings divide it, but no less of an axis with
    few voxels, and padded to twice its length where the network has to pool more often. Until it
    fits it is made smaller along whichever axis it covers most of, as nnU-Net does it (Isensee et
    al. 2021); only axes along which it is less than half as long (in mm) as along another stay as
    they are while that one can give. Where even the smallest does not fit, that one is returned.

    Args:
        fingerprint: of the working volumes.
        rule: what poolings and kernels a patch in voxels of some spacing gets: `plan_trunk`.
        fits: whether a step on such patches can be computed.
        poolings: the fewest that the network can do with: 3 where it has queries.

    Raises:
        ConfigError: for volumes that cannot be pooled so often, padded or not.
    """
    median, spacing = fingerprint.size["median"], fingerprint.spacing_mm["median"]

    # The nearest size that the poolings divide: padding costs as much as what is to be seen.
    steps = rule(median, spacing).stride
    near = [
        max(ceil(n / step) if n < _FEW_PLANES else round(n / step), 1) * step
        for n, step in zip(median, steps, strict=True)
    ]
    plan = rule(near, spacing)
    needed = 2 ** (poolings + 2)
    # Whichever axis lacks least is padded first, and none that is not needed.
    for axis in sorted(range(3), key=lambda axis: -near[axis]):
        if len(plan.poolings) < poolings and 2 * median[axis] >= needed:
            near[axis] = max(near[axis], needed)
            plan = rule(near, spacing)
    if len(plan.poolings) < poolings:
        count, other = "a pooling", "a 2D --model"
        if poolings > 1:
            count = f"{poolings} poolings"
            other = "a --model without queries, such as TransUNet3D-encoder-S, or a 2D one"
        raise ConfigError(
            f"The median working volume has {extents(median)} voxels (planes, rows, "
            f"columns), too few for {count}: the network needs about {needed} along two axes or "
            f"more, half of them padding at most. Train with --image-size {needed} all the same, "
            f"prepare with a finer --spacing and --plane-spacing, or choose {other}."
        )
    plans = [plan]
    while (smaller := _smaller(plans[-1], fingerprint, rule)) and len(smaller.poolings) >= poolings:
        plans.append(smaller)
    # To try one takes up to a second: halve what is left of them instead of going through all.
    return plans[min(bisect_left(plans, True, key=fits), len(plans) - 1)]


def _smaller(
    plan: Pooled,
    fingerprint: Fingerprint,
    rule: Callable[[Sequence[int], Sequence[float]], Pooled],
) -> Pooled | None:
    """Return the next smaller plan of `planned_patches`; None where there is none."""
    median, spacing = fingerprint.size["median"], fingerprint.spacing_mm["median"]
    strides, sides = plan.stride, plan.image_size
    axes = [axis for axis in range(3) if strides[axis] > 1 and sides[axis] > 2 * strides[axis]]
    if not axes:
        return None
    extents = [side * mm for side, mm in zip(sides, spacing, strict=True)]
    axes = [axis for axis in axes if 2 * extents[axis] >= max(extents)] or axes
    longest = max(axes, key=lambda axis: (sides[axis] / median[axis], sides[axis]))
    shorter = list(sides)
    shorter[longest] -= strides[longest]
    following = rule(shorter, spacing)
    return following if prod(following.image_size) < prod(sides) else None


def most_patches(fingerprint: Fingerprint, size: Sequence[int]) -> int:
    """Return how many patches of `size` a step may have before it sees too much of the data.

    That is a twentieth of its voxels, nnU-Net's bound, but 2 patches at least.
    """
    voxels = fingerprint.cases * prod(fingerprint.size["median"])
    return max(PATCHES, int(_SHARE_OF_DATA * voxels / prod(size)))


def patch_decisions(
    fingerprint: Fingerprint,
    size: Sequence[int],
    poolings: Sequence[Sequence[int]],
    batch_size: int,
    model: str,
) -> list[Decision]:
    """Say what patches are taken for a data set, and why.

    Args:
        fingerprint: of the working volumes.
        size: of the patch: planes, rows and columns.
        poolings: stride of each downsampling along each axis.
        batch_size: patches per step.
        model: the network that they are for.
    """
    median = fingerprint.size["median"]
    sizes = extents(median)
    halvings = extents(sum(step > 1 for step in steps) for steps in zip(*poolings, strict=True))
    share = prod(size) / prod(median)
    reason = f"the median working volume, {sizes}, as near as the poolings divide it"
    strides = [prod(steps) for steps in zip(*poolings, strict=True)]
    if any(2 * (a - b) >= step for a, b, step in zip(size, median, strides, strict=True)):
        reason += ", and padded where it is shorter"
    if share < 0.5:
        reason = (
            f"{share:.1%} of the median working volume, {sizes}: what {model} can be trained on "
            "with the memory, or in the time, that there is"
        )
    seen = batch_size * share / fingerprint.cases
    why = f"patches per step, {seen:.2%} of the data set's voxels"
    if batch_size <= PATCHES:
        why += f": {PATCHES} at least, and there is memory, time or data for no more"
    elif batch_size >= most_patches(fingerprint, size):
        why += f", of which it shall see {_SHARE_OF_DATA:.0%} at most"
    else:
        why += ": as many as the memory, or the time for a step, allows"
    return [
        Decision(
            "patch size", "x".join(map(str, size)), reason, "--memory-gib, train --image-size"
        ),
        Decision(
            "poolings",
            f"{len(poolings)} ({halvings} halvings along planes, rows, columns)",
            "an axis is halved while 4 voxels remain, together with those of like resolution",
            "train --image-size",
        ),
        Decision("batch size", str(batch_size), why, "--memory-gib, train --batch-size"),
    ]


def describe(channel: Channel) -> str:
    """Say in a few words what happens to a channel's intensities."""
    if channel.normalisation == "clip":
        return f"{channel.name}: {channel.low:g}..{channel.high:g} to 0..1, clipped"
    if channel.normalisation == "range":
        return f"{channel.name}: divided by {channel.high:g}"
    if channel.normalisation == "foreground":
        window = f"clipped to {channel.low:g}..{channel.high:g}"
        return f"{channel.name}: {window}, less {channel.mean:g}, divided by {channel.deviation:g}"
    of = " of the voxels that are not 0" if channel.normalisation == "nonzero" else ""
    return f"{channel.name}: mean 0 and deviation 1 per volume{of}"


def _reason(channel: Channel) -> str:
    if channel.normalisation == "range":
        return "the range of the values is known"
    if channel.per_volume:
        return "no absolute scale is known, so each volume is brought to its own"
    if (channel.low, channel.high) == CT_WINDOW:
        return "CT counts in Hounsfield units; the paper's window for soft tissue"
    return "the window that was asked for"


def _of_normalisation(channels: Sequence[Channel], reasons: Sequence[str]) -> Decision:
    return Decision(
        "normalisation",
        ", ".join(map(describe, channels)),
        "; ".join(dict.fromkeys(reasons)),
        "--modality, --normalisation, --window",
    )


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
    reasons = [_reason(channel) for channel in preprocessing.channels]
    planes, rows, columns = list(preprocessing.orientation)
    apart = extents(fingerprint.spacing_mm["median"], ".3g")
    in_plane = "as it is"
    if preprocessing.spacing_mm:
        in_plane = extents(preprocessing.spacing_mm[1:], "g")
    sides = image_sides(fingerprint)
    less = ", less where memory is short" if sides[1:] else ""
    _, height, width = fingerprint.size["median"]
    of_recipe = f"the default recipe's ({recipe}); auto and --recipe modern"
    return [
        _of_normalisation(preprocessing.channels, reasons),
        Decision(
            "slices along",
            f"{planes}, rows along {rows}, columns along {columns}",
            f"slices, rows and columns lie {apart} mm apart (median); axial, unless another axis "
            f"is more than {SLICED:g} times coarser",
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

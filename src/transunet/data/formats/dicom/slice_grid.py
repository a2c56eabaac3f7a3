"""Slices to a grid: sorted by position, and refused where they do not make one.

A wrong guess here would move organs by centimetres, so nothing is guessed: a missing slice, two at
one place, uneven steps or a tilted gantry are errors that name the positions.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from transunet.data.checks.problems import Problem
from transunet.data.formats.dicom.frames import Frame
from transunet.data.volume import LPS_TO_RAS

COINCIDENT = 0.02
"""Slices closer than this part of the typical step are at one place."""
GRID_TOLERANCE = 0.1
"""How far a slice may lie from its place on the regular grid, in voxels along each axis: positions
are rounded in headers."""
SAME_MM = 1e-3
"""Positions that differ by less are the same: they are rounded in headers."""
TILT_DEGREES = 0.1
"""Slices are stacked along their normal up to this angle; beyond, the gantry was tilted."""
_SHOWN = 5


def coincident(frames: Sequence[Frame]) -> list[tuple[Frame, Frame]]:
    """Return the neighbours among sorted slices that lie at one place."""
    gaps = np.diff([frame.offset_mm for frame in frames])
    apart = gaps[gaps > 1e-6]
    limit = COINCIDENT * float(np.median(apart)) if apart.size else 1e-6
    return [pair for pair, gap in zip(pairwise(frames), gaps, strict=True) if gap <= limit]


def is_even(frames: Sequence[Frame]) -> bool:
    """Whether sorted slices lie at even steps."""
    offsets = np.array([frame.offset_mm for frame in frames])
    gaps = np.diff(offsets)
    step = float(gaps.mean())
    drift = np.abs(offsets - np.linspace(offsets[0], offsets[-1], len(offsets))).max()
    return bool(max(np.abs(gaps - step).max(), drift) <= GRID_TOLERANCE * step)


def affine_of(frames: Sequence[Frame], name: str) -> NDArray[np.float64]:
    """Return the affine (4, 4), voxel (column, row, slice) -> mm in RAS, of sorted slices.

    The step from slice to slice is that of the positions; the thickness is not looked at, unless
    there is only one slice.

    Raises:
        GeometryError: when the slices do not make a grid.
    """
    first = frames[0]
    if len(frames) == 1:
        return plane_affine(first, first.normal * (first.thickness_mm or 1.0))
    twice = coincident(frames)
    if twice:
        listed = [f"{_mm(a.offset_mm)} ({_file(a)}, {_file(b)})" for a, b in twice]
        found = f"{len(twice)} slices lie where another one does: {_listed(listed)}"
        remedy = "Remove the copies, or export each phase or echo as its own series"
        raise Problem("duplicate-slices", name, found, remedy, geometry=True).error()
    if not is_even(frames):
        raise _uneven(np.array([frame.offset_mm for frame in frames]), name).error()
    positions = np.array([frame.position for frame in frames])
    step = np.asarray((positions[-1] - positions[0]) / (len(frames) - 1))
    along = float(step @ first.normal)
    across = float(np.linalg.norm(step - along * first.normal))
    degrees = float(np.degrees(np.arctan2(across, along)))
    lean = across * (len(frames) - 1)
    if degrees > TILT_DEGREES and lean > GRID_TOLERANCE * min(first.pixel_mm):
        ends = [", ".join(f"{x:.2f}" for x in frame.position) for frame in (first, frames[-1])]
        found = (
            f"the gantry was tilted: the slices are stacked {degrees:.2f} degrees off their "
            f"normal, from ({ends[0]}) to ({ends[1]}) mm"
        )
        remedy = (
            "Resample it to straight slices before, for example with dcm2niix, and predict that"
        )
        raise Problem("tilted", name, found, remedy, geometry=True).error()
    expected = positions[0] + np.arange(len(positions))[:, None] * step
    sideways = np.abs((positions - expected) @ first.directions.T)
    worst = int(sideways.max(axis=1).argmax())
    if (sideways[worst] / first.pixel_mm[::-1]).max() > GRID_TOLERANCE:
        found = (
            f"the slices are shifted against each other: the one at {_mm(frames[worst].offset_mm)} "
            f"({_file(frames[worst])}) by {sideways[worst].max():.4g} mm within its plane"
        )
        remedy = "Resample the series to one grid before"
        raise Problem("shifted-slices", name, found, remedy, geometry=True).error()
    return plane_affine(first, step)


def plane_affine(frame: Frame, step: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the affine (4, 4) in RAS of slices that begin with `frame`, each a `step` further.

    Args:
        frame: the first slice.
        step: (3,) mm in LPS.
    """
    affine = np.eye(4)
    affine[:3, 0] = frame.directions[0] * frame.pixel_mm[1]
    affine[:3, 1] = frame.directions[1] * frame.pixel_mm[0]
    affine[:3, 2], affine[:3, 3] = step, frame.position
    return np.asarray(LPS_TO_RAS @ affine)


def _uneven(offsets: NDArray[np.float64], name: str) -> Problem:
    gaps = np.diff(offsets)
    steps = np.rint(gaps / gaps.min()).astype(int)
    whole = np.abs(gaps / gaps.min() - steps) <= GRID_TOLERANCE * steps

    def between(index: int) -> str:
        return f"between {_mm(offsets[index])} and {_mm(offsets[index + 1])}"

    if whole.all() and steps.max() > 1:
        listed = _listed(
            [f"{steps[i] - 1} {between(i)}" for i in np.flatnonzero(steps > 1).tolist()]
        )
        remedy = "Export the complete series"
        found = f"slices are missing: {listed}"
        return Problem("missing-slices", name, found, remedy, geometry=True)
    typical = float(np.median(gaps))
    odd = sorted(np.argsort(-np.abs(gaps - typical), kind="stable")[:_SHOWN].tolist())
    found = (
        f"the slices are not evenly spaced: steps of {gaps.min():.4g} to {gaps.max():.4g} mm, "
        f"usually {typical:.4g} mm, but {_listed([f'{gaps[i]:.4g} mm {between(i)}' for i in odd])}"
    )
    remedy = "Export an evenly spaced reconstruction, or resample it to one before"
    return Problem("uneven-slices", name, found, remedy, geometry=True)


def _file(frame: Frame) -> str:
    several = "PerFrameFunctionalGroupsSequence" in frame.dataset
    return f"{frame.path.name} frame {frame.index + 1}" if several else frame.path.name


def _mm(place: float) -> str:
    return f"{place:.2f} mm"


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more

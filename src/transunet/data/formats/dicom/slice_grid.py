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
from transunet.errors import TransUNetError

SAME_PLACE = 0.02
"""Slices closer than this part of the typical step are at one place."""

GRID_TOLERANCE = 0.1
"""How far a slice may lie from its place on the regular grid, in voxels along each axis: positions
are rounded in headers."""

TILT_DEGREES = 0.1
"""Slices are stacked along their normal up to this angle; beyond, the gantry was tilted."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_SHOWN = 5


def by_place(frames: Sequence[Frame]) -> list[Frame]:
    """Sort slices of one orientation along their normal."""
    return sorted(frames, key=lambda frame: frame.place)


def same_place(frames: Sequence[Frame]) -> list[tuple[Frame, Frame]]:
    """Return the neighbours among sorted slices that lie at one place."""
    gaps = np.diff([frame.place for frame in frames])
    apart = gaps[gaps > 1e-6]
    limit = SAME_PLACE * float(np.median(apart)) if apart.size else 1e-6
    return [pair for pair, gap in zip(pairwise(frames), gaps, strict=True) if gap <= limit]


def is_even(frames: Sequence[Frame]) -> bool:
    """Whether sorted slices lie at even steps."""
    places = np.array([frame.place for frame in frames])
    gaps = np.diff(places)
    step = float(gaps.mean())
    drift = np.abs(places - np.linspace(places[0], places[-1], len(places))).max()
    return bool(max(np.abs(gaps - step).max(), drift) <= GRID_TOLERANCE * step)


def affine_of(frames: Sequence[Frame], name: str) -> NDArray[np.float64]:
    """Return the affine (4, 4), voxel (column, row, slice) -> mm in RAS, of sorted slices.

    The step from slice to slice is that of the positions; the thickness is not looked at, unless
    there is only one slice.

    Raises:
        GeometryError: when the slices do not make a grid.
    """
    first = frames[0]
    step = _step(frames, name) if len(frames) > 1 else first.normal * (first.thickness_mm or 1.0)
    affine = np.eye(4)
    affine[:3, 0] = first.directions[0] * first.pixel_mm[1]
    affine[:3, 1] = first.directions[1] * first.pixel_mm[0]
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    return LPS_TO_RAS @ affine


def _step(frames: Sequence[Frame], name: str) -> NDArray[np.float64]:
    _check_duplicates(frames, name)
    _check_steps(frames, name)
    positions = np.array([frame.position for frame in frames])
    step = np.asarray((positions[-1] - positions[0]) / (len(frames) - 1))
    _check_tilt(step, frames, name)
    _check_row_up(positions, step, frames, name)
    return step


def _check_duplicates(frames: Sequence[Frame], name: str) -> None:
    twice = same_place(frames)
    if not twice:
        return
    listed = "; ".join(f"{_mm(a.place)} ({_file(a)}, {_file(b)})" for a, b in twice[:_SHOWN])
    found = f"{len(twice)} slices lie where another one does: {listed}{_more(twice)}"
    remedy = "Remove the copies, or export each phase or echo as its own series"
    raise _refused("duplicate-slices", name, found, remedy)


def _check_steps(frames: Sequence[Frame], name: str) -> None:
    if is_even(frames):
        return
    places = np.array([frame.place for frame in frames])
    gaps = np.diff(places)
    steps = gaps / gaps.min()
    whole = np.abs(steps - np.rint(steps)) <= GRID_TOLERANCE * np.rint(steps)
    if whole.all() and np.rint(steps).max() > 1:
        raise _missing(places, np.rint(steps).astype(int), name)
    raise _uneven(places, gaps, name)


def _missing(places: NDArray[np.float64], steps: NDArray[np.int64], name: str) -> TransUNetError:
    holes = np.flatnonzero(steps > 1)
    listed = "; ".join(
        f"{steps[i] - 1} between {_mm(places[i])} and {_mm(places[i + 1])}" for i in holes[:_SHOWN]
    )
    found = f"slices are missing: {listed}{_more(holes)}"
    return _refused("missing-slices", name, found, "Export the complete series")


def _uneven(places: NDArray[np.float64], gaps: NDArray[np.float64], name: str) -> TransUNetError:
    typical = float(np.median(gaps))
    odd = np.argsort(-np.abs(gaps - typical), kind="stable")[:_SHOWN]
    listed = "; ".join(
        f"{gaps[i]:.4g} mm between {_mm(places[i])} and {_mm(places[i + 1])}" for i in sorted(odd)
    )
    found = (
        f"the slices are not evenly spaced: steps of {gaps.min():.4g} to {gaps.max():.4g} mm, "
        f"usually {typical:.4g} mm, but {listed}"
    )
    remedy = "Export an evenly spaced reconstruction, or resample it to one before"
    return _refused("uneven-slices", name, found, remedy)


def _check_tilt(step: NDArray[np.float64], frames: Sequence[Frame], name: str) -> None:
    along = float(step @ frames[0].normal)
    across = float(np.linalg.norm(step - along * frames[0].normal))
    degrees = float(np.degrees(np.arctan2(across, along)))
    shift = across * (len(frames) - 1)
    if degrees <= TILT_DEGREES or shift <= GRID_TOLERANCE * min(frames[0].pixel_mm):
        return
    found = (
        f"the gantry was tilted: the slices are stacked {degrees:.2f} degrees off their normal, "
        f"from {_point(frames[0])} to {_point(frames[-1])} mm"
    )
    remedy = "Resample it to straight slices before, for example with dcm2niix, and predict that"
    raise _refused("tilted", name, found, remedy)


def _check_row_up(
    positions: NDArray[np.float64],
    step: NDArray[np.float64],
    frames: Sequence[Frame],
    name: str,
) -> None:
    """Refuse slices that are shifted sideways against each other."""
    expected = positions[0] + np.arange(len(positions))[:, None] * step
    sideways = np.abs((positions - expected) @ frames[0].directions.T)
    worst = int(sideways.max(axis=1).argmax())
    if (sideways[worst] / frames[0].pixel_mm[::-1]).max() <= GRID_TOLERANCE:
        return
    found = (
        f"the slices are shifted against each other: the one at {_mm(frames[worst].place)} "
        f"({_file(frames[worst])}) by {sideways[worst].max():.4g} mm within its plane"
    )
    raise _refused("shifted-slices", name, found, "Resample the series to one grid before")


def _file(frame: Frame) -> str:
    several = "PerFrameFunctionalGroupsSequence" in frame.dataset
    return f"{frame.path.name} frame {frame.index + 1}" if several else frame.path.name


def _point(frame: Frame) -> str:
    return "(" + ", ".join(f"{x:.2f}" for x in frame.position) + ")"


def _mm(place: float) -> str:
    return f"{place:.2f} mm"


def _more(listed: Sequence[object] | NDArray[np.int64]) -> str:
    return f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""


def _refused(kind: str, name: str, found: str, remedy: str) -> TransUNetError:
    return Problem(kind, name, found, remedy, geometry=True).error()

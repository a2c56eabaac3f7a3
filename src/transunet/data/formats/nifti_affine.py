"""Which affine of a NIfTI header counts, where sform, qform and pixdim contradict each other.

An sform whose voxels have the edges that pixdim says is taken as it stands, to the last bit. The
files of the ACDC challenge have an sform of unit steps beside the true edges in qform and pixdim;
there the rule is ITK's, so that its users (3D Slicer, ITK-SNAP, nnU-Net) find the same voxels here:
pixdim tells the edges; directions and origin are the sform's where it is orthogonal and leads to
the scanner's coordinates, or where it is alone, else the qform's.

One exception: a pixdim of 1 x 1 x 1, or not above zero, is what stays in a header of which a
program set the sform only. Then the sform counts, as the standard has it.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from transunet.data.checks.problems import Problem
from transunet.data.volume import Doubt, Grid, corner_distance, is_regular, same_grid

Affine = NDArray[np.float64]

MM_PER_UNIT = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
"""What NIfTI may measure space in; a file that does not say means millimetres."""

_SCANNER = 1  # NIfTI's code for coordinates of the scanner
_ORTHOGONAL = 1e-4  # ITK's tolerance for the cosine of the angle between two axes
_CHECK = "Check that this is right; if it is not, correct the file's header"


def grid_of(header: Any, pixdim: Sequence[float], name: str) -> Grid:
    """Return where the voxels lie, with its doubt where the header contradicts itself.

    Args:
        header: NIfTI-1, NIfTI-2 or Analyze; nibabel has made its spacings positive.
        pixdim: the three spacings as the file has them, in the header's unit.
        name: the file, for errors and warnings.

    Raises:
        GeometryError: when no affine of it is regular, or a spacing that counts is zero.
    """
    x, y, z = (*map(int, header.get_data_shape()[:3]), 1, 1)[:3]
    shape, unit = (x, y, z), mm_per_unit(header)
    measured = all(0 < edge < inf for n, edge in zip(shape, pixdim, strict=True) if n > 1)
    sform = _in_mm(header.get_sform(), unit) if header.get("sform_code", 0) > 0 else None
    if not measured and not is_regular(sform):
        found = f"its spacing (pixdim) is {list(pixdim)}; expected more than 0"
        raise Problem("affine", name, found, "Repair the file's header", geometry=True).error()
    qform = _qform(header, unit) if measured else None  # it is made of the spacings
    if sform is None and qform is None:  # directions are not known: nibabel guesses, ITK otherwise
        guess = Grid(shape, _in_mm(header.get_best_affine(), unit), name)
        by_itk = np.diag([-1.0, -1, 1, 1]) * (*guess.spacing_mm, 1)
        return replace(guess, doubt=Doubt((by_itk,), placeless=True))
    forms = [form for form in (sform, qform) if form is not None]
    regular = [form for form in forms if is_regular(form)]
    stated = [Grid(shape, form, name) for form in regular or forms]  # singular ones are refused
    if not measured:
        return stated[0]
    edges = np.array([edge if 0 < edge < inf else 1.0 for edge in pixdim]) * unit
    measuring = [replace(grid, affine=_with_edges(grid.affine, edges)) for grid in stated]
    unset = set(pixdim) == {1.0} and is_regular(sform)
    if unset or same_grid(stated[0], measuring[0]) is None:
        used = stated[0]
    else:
        used = measuring[0 if _prefers_sform(header, stated[0]) else -1]
    others = [grid for grid in (*stated, *measuring) if same_grid(used, grid)]
    problem = None
    if sform is not None and (same_grid(stated[0], measuring[0]) or not is_regular(sform)):
        problem = _other_edges(used, sform, edges)
    elif others and header["sform_code"] == header["qform_code"]:
        problem = _other_place(used, others)
    if not others and not problem:
        return used
    return replace(used, doubt=Doubt(tuple(grid.affine for grid in others), problem))


def mm_per_unit(header: Any) -> float:
    """Return how many millimetres the unit of the header's lengths has."""
    try:
        return MM_PER_UNIT[header.get_xyzt_units()[0]]
    except (AttributeError, KeyError):  # an Analyze file, or a unit code that NIfTI does not define
        return 1.0


def _qform(header: Any, unit: float) -> Affine | None:
    """None without a code, or where its quaternion is none: nothing can be read from it then."""
    if not header.get("qform_code", 0) > 0:
        return None
    try:
        return _in_mm(header.get_qform(), unit)
    except (ValueError, HeaderDataError):
        return None


def _in_mm(affine: Affine, unit: float) -> Affine:
    return np.diag([unit, unit, unit, 1.0]) @ affine


def _with_edges(affine: Affine, edges: Affine) -> Affine:
    return affine * (*edges / np.linalg.norm(affine[:3, :3], axis=0), 1)


def _prefers_sform(header: Any, sform: Grid) -> bool:
    """Whether ITK takes the sform's directions and origin before the qform's."""
    directions = _with_edges(sform.affine, np.ones(3))[:3, :3]
    orthogonal = np.allclose(directions.T @ directions, np.eye(3), atol=_ORTHOGONAL)
    return orthogonal and int(header["sform_code"]) == _SCANNER


def _other_edges(used: Grid, sform: Affine, pixdim: Affine) -> Problem:
    singular = "" if is_regular(sform) else " (singular)"
    by_itk = ", as ITK does" if np.allclose(used.spacing_mm, pixdim) else ""
    found = (
        f"its sform has voxels of {_times(np.linalg.norm(sform[:3, :3], axis=0))} mm{singular}, "
        f"its pixdim says {_times(pixdim)} mm; {_times(used.spacing_mm)} mm are taken{by_itk}"
    )
    return Problem("voxel-size", used.name, found, _CHECK, "warning")


def _other_place(used: Grid, others: Sequence[Grid]) -> Problem:
    apart = max(corner_distance(used, other) for other in others)
    found = (
        f"its sform and qform lead to the same coordinates, but place voxels up to {apart:.4g} mm "
        "apart; the sform is taken"
    )
    return Problem("voxel-place", used.name, found, _CHECK, "warning")


def _times(edges: Sequence[float] | Affine) -> str:
    return " x ".join(f"{edge:.5g}" for edge in edges)

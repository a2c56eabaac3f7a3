"""Which affine of a NIfTI header counts, where sform, qform and pixdim contradict each other.

The files of the ACDC challenge have an sform of unit steps beside the true edges in qform and
pixdim. The rule is ITK's, so that its users (3D Slicer, ITK-SNAP, nnU-Net) find the same voxels
here: pixdim tells the edges; directions and origin are the sform's where it is orthogonal and leads
to the scanner's coordinates, or where it is alone, else the qform's. A header that does not
contradict itself keeps its sform to the last bit.

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

from transunet.data.problems import Problem
from transunet.data.volume import Doubt, Grid, corner_distance, is_regular, same_grid

Affine = NDArray[np.float64]

MM_PER_UNIT = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
"""What NIfTI may measure space in; a file that does not say means millimetres."""

_SCANNER = 1  # NIfTI's code for coordinates of the scanner
_ORTHOGONAL = 1e-4  # ITK's tolerance for the cosine of the angle between two axes
_EQUAL_EDGES = 1e-3


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
        return replace(guess, doubt=Doubt((np.diag([-1.0, -1, 1, 1]) * (*guess.spacing_mm, 1),)))
    forms = [form for form in (sform, qform) if form is not None]
    regular = [form for form in forms if is_regular(form)]
    stated = [Grid(shape, form, name) for form in regular or forms]  # singular ones are refused
    if not measured:
        return stated[0]
    edges = np.array([edge if 0 < edge < inf else 1.0 for edge in pixdim]) * unit
    directions = stated[0] if _prefers_sform(header, stated) else stated[-1]
    by_pixdim = replace(directions, affine=_with_edges(directions.affine, edges))
    unset = set(pixdim) == {1.0} and is_regular(sform) and not _equal(stated[0].spacing_mm, edges)
    used = stated[0] if unset or same_grid(stated[0], by_pixdim) is None else by_pixdim
    others = tuple(other.affine for other in (*stated, by_pixdim) if same_grid(used, other))
    if not others and is_regular(sform) == (sform is not None):
        return used
    return replace(used, doubt=Doubt(others, _contradiction(used, sform, edges, others)))


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


def _prefers_sform(header: Any, stated: Sequence[Grid]) -> bool:
    """Whether ITK takes the directions of the first of `stated`, the sform, before the last's."""
    if same_grid(stated[0], stated[-1]) is None:
        return True
    (sform, qform), ones = (stated[0].affine, stated[-1].affine), np.ones(3)
    directions, others = (_with_edges(one, ones)[:3, :3] for one in (sform, qform))
    if not np.allclose(directions.T @ directions, np.eye(3), atol=_ORTHOGONAL):
        return False
    if int(header["sform_code"]) == _SCANNER:
        return True
    # An axis that only runs the other way from the same origin is no difference to ITK.
    parallel = np.allclose(np.abs(directions.T @ others), np.eye(3), atol=_ORTHOGONAL)
    same_edges = _equal(stated[0].spacing_mm, stated[-1].spacing_mm)
    return parallel and same_edges and np.allclose(sform[:3, 3], qform[:3, 3], atol=1e-4)


def _contradiction(
    used: Grid, sform: Affine | None, pixdim: Affine, others: Sequence[Affine]
) -> Problem:
    of_sform = used.spacing_mm if sform is None else np.linalg.norm(sform[:3, :3], axis=0)
    if _equal(of_sform, pixdim) and others:
        apart = max(corner_distance(used, replace(used, affine=other)) for other in others)
        form = "sform" if sform is not None and np.array_equal(used.affine, sform) else "qform"
        found = (
            f"its sform and qform place voxels up to {apart:.4g} mm apart; the {form} is taken, "
            "as ITK does"
        )
    else:
        singular = "" if is_regular(sform) else " (singular)"
        by_itk = ", as ITK does" if _equal(used.spacing_mm, pixdim) else ""
        found = (
            f"its sform has voxels of {_times(of_sform)} mm{singular}, its pixdim says "
            f"{_times(pixdim)} mm; {_times(used.spacing_mm)} mm are taken{by_itk}"
        )
    remedy = "Check that this is right; if it is not, correct the file's header"
    return Problem("voxel-size", used.name, found, remedy, "warning")


def _equal(edges: Sequence[float] | Affine, others: Sequence[float] | Affine) -> bool:
    return bool(np.allclose(edges, others, rtol=_EQUAL_EDGES, atol=0))


def _times(edges: Sequence[float] | Affine) -> str:
    return " x ".join(f"{edge:.5g}" for edge in edges)

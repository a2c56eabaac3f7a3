"""How well a predicted label map agrees with a reference: overlap, surface distance, volume.

The policy for empty structures is part of the numbers, so it stands here and is printed in every
report (`POLICIES`). Two conventions: `honest`, the default, and `official`, which repeats what
the reference TransUNet's evaluation does and exists only to compare with the paper.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import isclose, nan, prod
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from transunet.errors import ConfigError, DataError, GeometryError
from transunet.evaluation.surfaces import Box, bounding_box, surface_distances

Convention = Literal["honest", "official"]
Labels = NDArray[np.integer]
Mask = NDArray[np.bool_]
Figures = tuple[float, float, float, float, float]
"""The first five of `ClassMetrics`."""

POLICIES = MappingProxyType(
    {
        "honest": "Distances in millimetres. A structure that is empty in both the prediction and "
        "the reference is not counted (the count is reported). Empty in only one of them: Dice, "
        "IoU and NSD are 0 and each distance is the image's diagonal.",
        "official": "The convention of the reference TransUNet's evaluation, only for comparison "
        "with the paper: distances in voxels; a predicted structure that the reference does not "
        "have scores Dice 1 and HD95 0; a structure that is not predicted scores Dice 0 and HD95 "
        "0, also when the reference does not have it.",
    }
)
"""Per convention, what every report says about units and empty structures."""

BAD_BELOW = 0.7
"""Dice below which a label map is bad; a bundle asks a person to look where it expects less."""

_PERCENTILE = 95
_MM3_PER_ML = 1000
_ROUNDING = 1e-6  # of a header's affine, in single precision
_SIDE_BY_SIDE = 2
"""Classes measured at a time: one class's surface is found on one processor, beside the search of
another's, which takes all of them."""


@dataclass(frozen=True)
class ClassMetrics:
    """Agreement on one class of one case. NaN: not defined, and not to be counted."""

    dice: float
    """2 |P ∩ R| / (|P| + |R|), 0 to 1."""
    iou: float
    """|P ∩ R| / (|P| + |R| - |P ∩ R|), 0 to 1. NaN in the official convention, which has none."""
    hd95: float
    """95th percentile of both directions' pooled surface distances, in mm (official: in voxels)."""
    assd: float
    """Mean of both directions' pooled surface distances, in mm. NaN in the official convention."""
    nsd: float
    """Share of both surfaces within the tolerance of the other, 0 to 1. NaN in the official one."""
    prediction_ml: float
    reference_ml: float


def case_metrics(
    prediction: Labels,
    reference: Labels,
    spacing_mm: Sequence[float],
    classes: Iterable[int],
    convention: Convention = "honest",
    tolerance_mm: float = 2.0,
    voxel_ml: float | None = None,
) -> dict[int, ClassMetrics]:
    """Measure every class of `classes` in one case.

    Args:
        prediction: integer label map, (X, Y, Z) or (X, Y).
        reference: label map on the same grid.
        spacing_mm: voxel size along each axis; for the volume, a 2-D image counts as 1 mm thick.
        classes: label values to measure; the background is usually not one of them.
        convention: `honest`, or `official` (see `POLICIES`).
        tolerance_mm: how far apart two surfaces may lie for the normalised surface Dice.
        voxel_ml: a voxel's volume, which is less than its edges' product where these do not stand
            at right angles.

    Raises:
        GeometryError: when the shapes differ or `spacing_mm` does not fit them.
        DataError: when an array is not a label map.
        ConfigError: on an unknown convention or an impossible tolerance.
    """
    known = get_args(Convention)
    if convention not in known:
        raise ConfigError(f"Unknown convention {convention!r}; known: {', '.join(known)}.")
    if not 0 <= tolerance_mm < np.inf:
        raise ConfigError(f"The tolerance must be 0 mm or more and finite, not {tolerance_mm!r}.")
    _check_arrays(prediction, reference)
    axes, spacing = prediction.ndim, tuple(float(size) for size in spacing_mm)
    if len(spacing) != axes or not all(0 < size < np.inf for size in spacing):
        raise GeometryError(
            f"Expected {axes} positive voxel sizes in mm for {axes} axes, found {spacing}."
        )
    if prediction.flags.f_contiguous:  # NIfTI; no figure depends on the axes' order
        prediction, reference, spacing = prediction.T, reference.T, spacing[::-1]
    voxel_mm3 = prod(spacing)
    if voxel_ml and not isclose(voxel_ml * _MM3_PER_ML, voxel_mm3, rel_tol=_ROUNDING):
        voxel_mm3 = voxel_ml * _MM3_PER_ML
    classes = [int(value) for value in classes]
    boxes = _boxes(prediction, reference, max(classes, default=0))

    def measured(value: int) -> ClassMetrics:
        # Outside its own box neither map has this class: nothing there can change a figure.
        box = boxes.get(value, (slice(0, 0),) * axes) if value else (slice(None),)
        masks = prediction[box] == value, reference[box] == value
        if convention == "official":
            figures = _official(*masks)
        else:
            figures = _honest(*masks, spacing, prediction.shape, tolerance_mm)
        volumes = (float(np.count_nonzero(m) * voxel_mm3 / _MM3_PER_ML) for m in masks)
        return ClassMetrics(*figures, *volumes)

    with ThreadPoolExecutor(_SIDE_BY_SIDE) as threads:
        return dict(zip(classes, threads.map(measured, classes), strict=True))


def dice_per_class(
    prediction: Labels, reference: Labels, classes: Iterable[int]
) -> dict[int, float]:
    """Dice of each class, and nothing that costs more: NaN where a class is empty in both.

    Args:
        prediction: integer label map of any shape.
        reference: label map of the same shape.
        classes: label values to measure.

    Raises:
        GeometryError: when the shapes differ.
        DataError: when an array is not a label map.
    """
    _check_arrays(prediction, reference)
    return {int(value): dice_of_masks(prediction == value, reference == value) for value in classes}


def dice_of_masks(prediction: Mask, reference: Mask) -> float:
    """Dice of two masks of one shape; NaN where both are empty."""
    return _overlap(prediction, reference)[0]


def image_diagonal_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Diagonal of an image in mm, a single slice's thickness left out.

    No two voxels of the image lie farther apart, so it is worse than any distance measured.
    """
    sides = [n * size for n, size in zip(shape, spacing_mm, strict=True) if n > 1]
    return float(np.linalg.norm(sides))


def _honest(
    predicted: Mask,
    real: Mask,
    spacing: tuple[float, ...],
    shape: tuple[int, ...],
    tolerance_mm: float,
) -> Figures:
    dice, iou = _overlap(predicted, real)
    if not predicted.any() and not real.any():
        return nan, nan, nan, nan, nan
    if not predicted.any() or not real.any():
        diagonal = image_diagonal_mm(shape, spacing)
        return dice, iou, diagonal, diagonal, 0.0
    # Every voxel of a single slice borders the outside: as a volume it would be all surface, while
    # as an image its surface is its outline. So axes of a single voxel are dropped.
    single = tuple(axis for axis, n in enumerate(shape) if n == 1)[: len(shape) - 1]
    remaining = tuple(size for axis, size in enumerate(spacing) if axis not in single)
    both_ways = surface_distances(predicted.squeeze(single), real.squeeze(single), remaining)
    distances = np.concatenate(both_ways)
    hd95 = float(np.percentile(distances, _PERCENTILE))
    return dice, iou, hd95, float(distances.mean()), float((distances <= tolerance_mm).mean())


def _official(predicted: Mask, real: Mask) -> Figures:
    # fidelity: voxels instead of mm, a single slice not flattened, and (1, 0) / (0, 0) for empty
    # structures, as the figures of the paper were made.
    dice, hd95 = (1.0, 0.0) if predicted.any() else (0.0, 0.0)
    if predicted.any() and real.any():
        dice, _ = _overlap(predicted, real)
        distances = surface_distances(predicted, real, [1.0] * predicted.ndim)
        hd95 = float(np.percentile(np.concatenate(distances), _PERCENTILE))
    return dice, nan, hd95, nan, nan


def _overlap(predicted: Mask, real: Mask) -> tuple[float, float]:
    """Dice and IoU, NaN where both masks are empty."""
    total = int(np.count_nonzero(predicted)) + int(np.count_nonzero(real))
    shared = int(np.count_nonzero(predicted & real))
    return (2 * shared / total, shared / (total - shared)) if total else (nan, nan)


def _boxes(prediction: Labels, reference: Labels, highest: int) -> dict[int, Box]:
    """Per label value, the box around it in both maps; values in neither are left out."""
    if not highest:
        return {}
    first, second = (
        ndimage.find_objects(
            # scipy refuses booleans and unsigned 64-bit integers here.
            labels.astype(np.int64) if labels.dtype in (np.bool_, np.uint64) else labels,
            max_label=highest,
        )
        for labels in (prediction, reference)
    )
    joined = map(bounding_box, first, second)
    return {value: box for value, box in enumerate(joined, start=1) if box is not None}


def _check_arrays(prediction: Labels, reference: Labels) -> None:
    for role, labels in (("prediction", prediction), ("reference", reference)):
        if labels.dtype.kind not in "biu":
            raise DataError(
                f"The {role} is not a label map: expected integers, found {labels.dtype}."
            )
    if prediction.shape != reference.shape:
        raise GeometryError(
            f"The prediction's shape {prediction.shape} is not the reference's {reference.shape}; "
            "bring both onto the same grid first."
        )

"""Probabilities that mean what they say: one temperature, fitted on held-out voxels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transunet.bundle.trust_config import Calibration
from transunet.data.regions import Region
from transunet.inference.logits import tempered

BINS = 15
_CERTAIN = 0.999  # a background above it is no voxel in doubt
_PER_CASE = 20_000  # voxels in doubt that are kept of a case
_TINY = np.finfo(np.float32).tiny


class DoubtfulVoxels(NamedTuple):
    """Some voxels in doubt: their probabilities (N, classes), and their true class (N,)."""

    probabilities: NDArray[np.float32]
    reference: NDArray[np.integer]


class VoxelSampler:
    """Keeps some of the voxels in doubt, from probabilities that pass by.

    Which voxels are in doubt is told by the prediction alone: had the reference a say, what is kept
    would be right or wrong more often than predictions are.

    Args:
        reference: (S, H, W) class indices.
        ignored: the class index of voxels that nobody labelled, if there are any.
        seed: which of them are kept.
        regions: where the network tells regions apart: then each region's probability at a voxel
            counts for itself, against that of its absence.
    """

    def __init__(
        self,
        reference: NDArray[np.integer],
        ignored: int | None = None,
        seed: int = 0,
        regions: Sequence[Region] = (),
    ) -> None:
        self._reference, self._ignored, self._regions = reference, ignored, regions
        self._random = np.random.default_rng(seed)
        self._kept: list[DoubtfulVoxels] = []

    def __call__(self, part: slice, probabilities: NDArray[np.float32]) -> None:
        """Take planes `part` of the volume, (S, classes or regions, H, W)."""
        reference = self._reference[part]
        known = reference != self._ignored
        for region, own in zip(self._regions, probabilities.swapaxes(0, 1), strict=False):
            self._keep(np.stack([1 - own, own], axis=1), region.mask(reference), known)
        if not self._regions:
            self._keep(probabilities, reference, known)

    def _keep(
        self, probabilities: NDArray[np.float32], reference: NDArray[Any], known: NDArray[np.bool_]
    ) -> None:
        doubtful = (probabilities[:, 0] < _CERTAIN) & known
        values = np.moveaxis(probabilities, 1, -1)[doubtful]
        self._kept.append(DoubtfulVoxels(values, reference[doubtful]))

    def sample(self) -> DoubtfulVoxels:
        """Return at most 20,000 of them, drawn at random."""
        probabilities = np.concatenate([kept.probabilities for kept in self._kept])
        reference = np.concatenate([kept.reference for kept in self._kept])
        if len(reference) > _PER_CASE:
            drawn = self._random.choice(len(reference), _PER_CASE, replace=False)
            probabilities, reference = probabilities[drawn], reference[drawn]
        return DoubtfulVoxels(probabilities, reference)


def fit_calibration(voxels: DoubtfulVoxels) -> Calibration | None:
    """Return the temperature with the least negative log likelihood; None without voxels."""
    # Imported here: it takes a second, which training without calibration is spared.
    from scipy.optimize import minimize_scalar

    probabilities, reference = voxels
    if not len(reference):
        return None

    def loss(log_temperature: float) -> float:
        values = tempered(probabilities, float(np.exp(log_temperature)))
        own = np.take_along_axis(values, reference[:, None].astype(np.int64), axis=1)
        return float(-np.log(np.maximum(own, _TINY)).mean())

    found = minimize_scalar(loss, bounds=(np.log(0.2), np.log(10)), method="bounded")
    temperature = float(np.exp(found.x))
    after = tempered(probabilities, temperature)
    bins_before, bins = (reliability(each, reference) for each in (probabilities, after))
    return Calibration(
        temperature=temperature,
        ece=(calibration_error(bins_before), calibration_error(bins)),
        brier=(brier_score(probabilities, reference), brier_score(after, reference)),
        bins=tuple(map(tuple, bins.tolist())),
        bins_before=tuple(map(tuple, bins_before.tolist())),
    )


def reliability(
    probabilities: NDArray[np.float32], reference: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return share, mean confidence and accuracy of the voxels in each bin of confidence, (B, 3).

    15 bins of equal width; empty ones are left out.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == reference
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    full = count > 0
    mean_confidence = np.bincount(bins, confidence, BINS)[full] / count[full]
    accuracy = np.bincount(bins, right, BINS)[full] / count[full]
    return np.stack([count[full] / len(reference), mean_confidence, accuracy], axis=1)


def calibration_error(bins: NDArray[np.float64]) -> float:
    """Return the expected calibration error: the bins' gaps, weighted by their shares."""
    share, confidence, accuracy = bins.T
    return float((share * np.abs(confidence - accuracy)).sum())


def brier_score(probabilities: NDArray[np.float32], reference: NDArray[np.integer]) -> float:
    """Return the mean squared distance from the true class's indicator, summed over classes."""
    own = np.take_along_axis(probabilities, reference[:, None].astype(np.int64), axis=1)[:, 0]
    squares = np.square(probabilities, dtype=np.float64).sum(axis=1)
    return float((squares - 2 * own + 1).mean())

"""From what a prediction shows to the Dice to be expected, and to the interval of its volume."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from transunet.bundle.trust_config import ENOUGH, ExpectedQuality, VolumeInterval
from transunet.trust.measures import DOUBT, MEASURES, StructureMeasures, surprise_of

COVERED = 0.9
FOLDS = 10
_RIDGE = 1.0  # a prior observation per weight, of standardised measures
_AGREEMENT = MEASURES.index("logit of agreement")
_MEMBERS = MEASURES.index("logit of members' agreement")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ScoredPrediction:
    """One structure in one held-out prediction."""

    group: str
    """Its case, or what cases of one patient have in common."""
    measures: StructureMeasures
    dice: float
    reference_ml: float
    worsened: bool = False
    """Of an image that was worsened on purpose."""

    def with_surprise(self, usual: tuple[float, float] | None) -> Self:
        """Return it as measured where such volumes are usual: mean and deviation of logarithms."""
        surprise = surprise_of(self.measures.volume_ml, usual)
        return replace(self, measures=self.measures._replace(surprise=surprise))


def expected_dice(quality: ExpectedQuality, measures: StructureMeasures) -> tuple[float, float]:
    """Return the Dice to be expected and the half width of its interval, which covers 90 %."""
    known = measures.vector()[: len(quality.means)]  # an earlier version measured less
    standardised = (known - quality.means) / quality.deviations
    expected = float(np.clip(quality.intercept + standardised @ quality.weights, 0, 1))
    return expected, quality.spread * (1 - expected + DOUBT)


def needs_members(quality: ExpectedQuality) -> bool:
    """Whether what is expected depends on how far the members of an ensemble agree."""
    return len(quality.weights) > _MEMBERS and quality.weights[_MEMBERS] != 0


def volume_interval(interval: VolumeInterval, measures: StructureMeasures) -> tuple[float, float]:
    """Return the bounds in millilitres between which the true volume lies in nine of ten cases."""
    factor = float(np.exp(interval.spread * (1 - measures.soft_dice + DOUBT)))
    return measures.volume_ml / factor, measures.volume_ml * factor


def fit_quality(predictions: Sequence[ScoredPrediction], with_look: bool) -> ExpectedQuality | None:
    """Fit a ridge regression on held-out predictions; None with fewer patients than `ENOUGH`.

    Its error and its interval are those of a cross-validation, in which none is on both sides.

    Args:
        predictions: of one structure, worsened ones too; those without a Dice are left out.
        with_look: whether it may use the agreement with the mirror image.
    """
    predictions = [each for each in predictions if not np.isnan(each.dice)]
    groups = sorted({each.group for each in predictions})
    if len(groups) < ENOUGH:
        return None
    measured = np.stack([each.measures.vector() for each in predictions])
    if not with_look:
        measured[:, _AGREEMENT] = 0
    dice = np.array([each.dice for each in predictions])
    fold = np.array([groups.index(each.group) % FOLDS for each in predictions])
    held_out = np.empty(len(dice))
    for index in range(FOLDS):
        out = fold == index
        held_out[out] = _predicted(_ridge(measured[~out], dice[~out]), measured[out])
    scores = np.abs(dice - held_out) / (1 - held_out + DOUBT)
    means, deviations, weights, intercept = _ridge(measured, dice)
    return ExpectedQuality(
        means=tuple(means),
        deviations=tuple(deviations),
        weights=tuple(weights),
        intercept=intercept,
        spread=max(_conformal(scores), 1e-6),
        error=float(np.abs(dice - held_out).mean()),
        coverage=_coverage(scores, fold),
        predictions=len(dice),
    )


def fit_volume_interval(predictions: Sequence[ScoredPrediction]) -> VolumeInterval | None:
    """Fit the interval on held-out cases as they are; None with fewer than `ENOUGH`.

    Split conformal prediction with scores that are normalised by the prediction's own doubt
    (Lei et al., Distribution-free predictive inference for regression, JASA 2018, section 5.2).
    """
    scores = np.array(
        [
            abs(np.log(each.measures.volume_ml / each.reference_ml))
            / (1 - each.measures.soft_dice + DOUBT)
            for each in predictions
            if not each.worsened and each.reference_ml > 0
        ]
    )
    if len(scores) < ENOUGH:
        return None
    coverage = _coverage(scores, np.arange(len(scores)))
    return VolumeInterval(
        spread=max(_conformal(scores), 1e-6), coverage=coverage, cases=len(scores)
    )


def _ridge(measured: Array, dice: Array) -> tuple[Array, Array, Array, float]:
    """Return means and deviations of the measures, weights and intercept."""
    means, deviations = measured.mean(axis=0), measured.std(axis=0)
    varies = deviations > 1e-9  # what is the same everywhere gets the weight 0
    deviations = np.where(varies, deviations, 1.0)
    standardised = np.where(varies, (measured - means) / deviations, 0)
    gram = standardised.T @ standardised + _RIDGE * np.eye(measured.shape[1])
    weights = np.linalg.solve(gram, standardised.T @ (dice - dice.mean()))
    return means, deviations, weights, float(dice.mean())


def _predicted(fitted: tuple[Array, Array, Array, float], measured: Array) -> Array:
    means, deviations, weights, intercept = fitted
    return np.clip(intercept + (measured - means) / deviations @ weights, 0, 1)


def _conformal(scores: Array) -> float:
    """The score that a new case stays below with the wanted probability."""
    rank = int(np.ceil((len(scores) + 1) * COVERED))
    return float(np.sort(scores)[min(rank, len(scores)) - 1])


def _coverage(scores: Array, fold: NDArray[np.integer]) -> float:
    """Share of the scores below what those of the other folds let expect."""
    inside = [scores[fold == index] <= _conformal(scores[fold != index]) for index in set(fold)]
    return float(np.concatenate(inside).mean())

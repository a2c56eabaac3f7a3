"""Fitting a bundle's trust on held-out cases, each predicted as it is and worsened on purpose."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transunet.bundle.trust_config import ENOUGH, ExpectedQuality, StructureTrust, Trust
from transunet.data.regions import inside, members_of_structures
from transunet.data.sampling.patches import Patches
from transunet.data.volume import Volume
from transunet.evaluation.metrics import dice_of_masks
from transunet.inference.predictor import Predictor
from transunet.trust.likeness import fit_likeness, intensity_quantiles, tilt_degrees
from transunet.trust.measured_prediction import predict_and_measure
from transunet.trust.quality import ScoredPrediction, fit_quality, fit_volume_interval
from transunet.trust.temperature import DoubtfulVoxels, VoxelSampler, fit_calibration
from transunet.trust.worsening import FAULTS, GRADES, worsen

WORSENED = 3
"""Worsened predictions of each case."""
_WORTH_A_LOOK = 0.9
"""The mirrored look is taken where it brings the error below this share of that without it."""


@dataclass(frozen=True)
class HeldOutCase:
    """A case that training did not see; read when its turn comes."""

    name: str
    read: Callable[[], tuple[Volume, Volume]]
    """Returns the image and its label map, class indices."""
    group: str | None = None
    """Cases of one group (a patient) are never on both sides of a fit; None: a group of its own."""
    ignored: int | None = None
    """The class index of voxels that nobody labelled."""


@dataclass(frozen=True)
class Evidence:
    """What one held-out case teaches."""

    volumes_ml: Mapping[int, float]
    """Number of each structure -> the reference's volume."""
    scored: Sequence[tuple[int, ScoredPrediction]]
    """Number of a structure that was predicted, and how well."""
    voxels: DoubtfulVoxels
    quantiles: NDArray[np.float64]
    tilt_degrees: float
    features: NDArray[np.float64] | None
    """See `likeness`, as the two before."""


def fit_trust(
    predictor: Predictor,
    cases: Sequence[HeldOutCase],
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Trust:
    """Predict the cases, as they are and worsened, and fit what the bundle shall know of itself.

    Args:
        predictor: the bundle's own, with the settings that it will be used with.
        cases: at least one; with fewer than ten neither quality nor intervals are fitted.
        seed: of what the images are worsened by.
        progress: called with the predictions done and those in all.

    Raises:
        DataError, GeometryError: when a case cannot be used.
    """
    copies = worsened_copies(len(cases))
    evidence = list(evidence_of(predictor, cases, copies, seed, progress))
    return trust_from(predictor.structures, evidence)


def worsened_copies(cases: int) -> int:
    """Return how many worsened copies of each of `cases` are worth predicting."""
    return WORSENED if cases >= ENOUGH else 0


def evidence_of(
    predictor: Predictor,
    cases: Sequence[HeldOutCase],
    worsened: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Evidence]:
    """Yield what each case teaches, with so many `worsened` copies; for the rest see `fit_trust`.

    Raises:
        DataError, GeometryError: when a case cannot be used.
    """
    members = members_of_structures(predictor.labels, predictor.regions)
    done, total = 0, len(cases) * (1 + worsened)
    for case in cases:
        image, label = case.read()
        true_ml = {
            number: label.voxel_ml * np.count_nonzero(inside(label.array, values))
            for number, values in members.items()
        }
        sampler = VoxelSampler(
            _seen_by_observers(predictor, label), case.ignored, seed, predictor.regions
        )
        random = np.random.default_rng([seed, done])
        scored: list[tuple[int, ScoredPrediction]] = []
        features = None
        for count, seen in enumerate([image, *_worsened(image, worsened, random)]):
            labels, measured, seen_features = predict_and_measure(
                predictor,
                seen,
                {},  # what volumes are usual is known when all cases have been read
                mirrored_look=True,
                watch_members=True,
                observers=[] if count else [sampler],
                warn=lambda _: None,
            )
            features = seen_features if count == 0 else features
            known = label.array != case.ignored if case.ignored is not None else ...
            for number, measures in measured.items():
                ours, theirs = (
                    inside(each.array[known], members[number]) for each in (labels, label)
                )
                group = case.group or case.name
                dice = dice_of_masks(ours, theirs)
                one = ScoredPrediction(group, measures, dice, true_ml[number], count > 0)
                scored.append((number, one))
            done += 1
            if progress is not None:
                progress(done, total)
        quantiles = intensity_quantiles(image, predictor.preprocessing)
        voxels = sampler.sample()
        yield Evidence(true_ml, scored, voxels, quantiles, tilt_degrees(image), features)


def trust_from(structures: Mapping[int, str], evidence: Sequence[Evidence]) -> Trust:
    """Fit what a bundle shall know of itself.

    Args:
        structures: number -> name of what is found.
        evidence: of each held-out case, at least one.
    """
    volumes_ml = {number: [case.volumes_ml[number] for case in evidence] for number in structures}
    usual = {number: _usual(volumes) for number, volumes in volumes_ml.items()}
    scored = {
        number: [
            prediction.with_surprise(usual[number])
            for case in evidence
            for of, prediction in case.scored
            if of == number
        ]
        for number in structures
    }
    look, qualities = _fitted_qualities(scored)
    voxels = DoubtfulVoxels(*map(np.concatenate, zip(*(c.voxels for c in evidence), strict=True)))
    likeness = None
    if len(evidence) >= ENOUGH:
        likeness = fit_likeness(
            [case.quantiles for case in evidence],
            [case.tilt_degrees for case in evidence],
            [case.features for case in evidence if case.features is not None],
        )
    return Trust(
        cases=len(evidence),
        structures={
            name: StructureTrust(
                present=float(np.mean(np.array(volumes_ml[number]) > 0)),
                log_volume=usual[number],
                quality=qualities[number],
                volume=fit_volume_interval(scored[number]),
            )
            for number, name in structures.items()
        },
        calibration=fit_calibration(voxels),
        likeness=likeness,
        mirrored_look=look,
    )


def _worsened(image: Volume, count: int, random: np.random.Generator) -> Iterator[Volume]:
    """Yield `count` copies, each with another fault of a grade that is drawn."""
    for kind in random.choice(list(FAULTS), count, replace=False):
        yield worsen(image, str(kind), int(random.integers(1, GRADES + 1)), random)


def _seen_by_observers(predictor: Predictor, label: Volume) -> NDArray[np.integer]:
    """The reference where the predictor hands out probabilities, (S, H, W)."""
    if isinstance(predictor.sampling, Patches) or predictor.others:
        return np.asarray(predictor.preprocessing.oriented(label)[0])
    return predictor.preprocessing.labels_to_working(label)


def _usual(volumes_ml: Sequence[float]) -> tuple[float, float] | None:
    """Mean and deviation of the logarithms of the volumes that are not 0."""
    logarithms = np.log([volume for volume in volumes_ml if volume > 0])
    return (float(logarithms.mean()), float(logarithms.std())) if len(logarithms) else None


def _fitted_qualities(
    scored: Mapping[int, Sequence[ScoredPrediction]],
) -> tuple[bool, dict[int, ExpectedQuality | None]]:
    """Return whether the mirrored look is worth its time, and the fits with it or without."""
    fits = [
        {number: fit_quality(predictions, look) for number, predictions in scored.items()}
        for look in (False, True)
    ]
    errors = [[fit.error for fit in of_look.values() if fit is not None] for of_look in fits]
    without, with_it = errors
    worth = bool(without) and float(np.mean(with_it)) < _WORTH_A_LOOK * float(np.mean(without))
    return worth, fits[worth]

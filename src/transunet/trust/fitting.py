"""Fitting a bundle's trust on held-out cases, each predicted as it is and worsened on purpose."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transunet.bundle.trust_config import ENOUGH, ExpectedQuality, StructureTrust, Trust
from transunet.data.sampling.patches import Patches
from transunet.data.volume import Volume
from transunet.evaluation.metrics import dice_per_class
from transunet.inference.predictor import Predictor
from transunet.trust.likeness import fit_likeness, intensity_quantiles
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


def fit_trust(
    predictor: Predictor,
    cases: Sequence[HeldOutCase],
    ignored: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Trust:
    """Predict the cases, as they are and worsened, and fit what the bundle shall know of itself.

    Args:
        predictor: the bundle's own, with the settings that it will be used with.
        cases: at least one; with fewer than ten neither quality nor intervals are fitted.
        ignored: the class index of voxels that nobody labelled.
        seed: of what the images are worsened by.
        progress: called with the predictions done and those in all.

    Raises:
        DataError, GeometryError: when a case cannot be used.
    """
    names = {index: name for index, name in predictor.labels.items() if index}
    volumes_ml: list[dict[int, float]] = []
    scored: dict[int, list[ScoredPrediction]] = {index: [] for index in names}
    quantiles: list[NDArray[np.float64]] = []
    voxels: list[DoubtfulVoxels] = []
    worsened = WORSENED if len(cases) >= ENOUGH else 0
    done, total = 0, len(cases) * (1 + worsened)
    for case in cases:
        image, label = case.read()
        volumes_ml.append(true_ml := _volumes_ml(label, names))
        quantiles.append(intensity_quantiles(image, predictor.preprocessing))
        sampler = VoxelSampler(_seen_by_observers(predictor, label), ignored, seed)
        random = np.random.default_rng([seed, done])
        for number, seen in enumerate([image, *_worsened(image, worsened, random)]):
            labels, measured = predict_and_measure(
                predictor,
                seen,
                {},  # what volumes are usual is known when all cases have been read
                mirrored_look=True,
                observers=[] if number else [sampler],
                warn=lambda _: None,
            )
            known = label.array != ignored if ignored is not None else slice(None)
            dice = dice_per_class(labels.array[known], label.array[known], names)
            for index, measures in measured.items():
                one = ScoredPrediction(case.name, measures, dice[index], true_ml[index], number > 0)
                scored[index].append(one)
            done += 1
            if progress is not None:
                progress(done, total)
        voxels.append(sampler.sample())
    usual = {index: _usual([volumes[index] for volumes in volumes_ml]) for index in names}
    scored = {
        index: [each.with_surprise(usual[index]) for each in predictions]
        for index, predictions in scored.items()
    }
    look, qualities = _fitted_qualities(scored)
    doubtful = DoubtfulVoxels(*map(np.concatenate, zip(*voxels, strict=True)))
    structures = {
        name: StructureTrust(
            present=float(np.mean([volumes[index] > 0 for volumes in volumes_ml])),
            log_volume=usual[index],
            quality=qualities[index],
            volume=fit_volume_interval(scored[index]),
        )
        for index, name in names.items()
    }
    return Trust(
        cases=len(cases),
        structures=structures,
        calibration=fit_calibration(doubtful),
        likeness=fit_likeness(quantiles) if len(cases) >= ENOUGH else None,
        mirrored_look=look,
    )


def _worsened(image: Volume, count: int, random: np.random.Generator) -> Iterator[Volume]:
    """Yield `count` copies, each with another fault of a grade that is drawn."""
    for kind in random.choice(list(FAULTS), count, replace=False):
        yield worsen(image, str(kind), int(random.integers(1, GRADES + 1)), random)


def _seen_by_observers(predictor: Predictor, label: Volume) -> NDArray[np.integer]:
    """The reference where the predictor hands out probabilities, (S, H, W)."""
    if isinstance(predictor.sampling, Patches):
        return np.asarray(predictor.preprocessing.oriented(label)[0])
    return predictor.preprocessing.labels_to_working(label)


def _volumes_ml(label: Volume, names: Mapping[int, str]) -> dict[int, float]:
    counts = np.bincount(label.array.ravel(), minlength=max(names) + 1)
    return {index: float(counts[index] * label.voxel_ml) for index in names}


def _usual(volumes_ml: Sequence[float]) -> tuple[float, float] | None:
    """Mean and deviation of the logarithms of the volumes that are not 0."""
    logarithms = np.log([volume for volume in volumes_ml if volume > 0])
    return (float(logarithms.mean()), float(logarithms.std())) if len(logarithms) else None


def _fitted_qualities(
    scored: Mapping[int, Sequence[ScoredPrediction]],
) -> tuple[bool, dict[int, ExpectedQuality | None]]:
    """Return whether the mirrored look is worth its time, and the fits with it or without."""
    fits = [
        {index: fit_quality(predictions, look) for index, predictions in scored.items()}
        for look in (False, True)
    ]
    errors = [[fit.error for fit in of_look.values() if fit is not None] for of_look in fits]
    without, with_it = errors
    worth = bool(without) and float(np.mean(with_it)) < _WORTH_A_LOOK * float(np.mean(without))
    return worth, fits[worth]

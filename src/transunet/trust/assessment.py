"""What a bundle expects of one prediction of its own, and why a person should look at it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.bundle.trust_config import Trust
from transunet.data.checks.suitability import unusual_grid
from transunet.data.volume import Volume
from transunet.evaluation.metrics import BAD_BELOW
from transunet.inference.predictor import Predictor
from transunet.inference.slice_inference import Progress
from transunet.trust.likeness import (
    feature_unlikeness,
    intensity_quantiles,
    tilt_degrees,
    unlikeness,
)
from transunet.trust.measured_prediction import predict_and_measure
from transunet.trust.quality import expected_dice, needs_members, volume_interval

_FAR = 1.5
"""How many times farther from training than any held-out case is told."""
_TILT = 15.0
"""Degrees beyond what held-out cases had that are told."""


@dataclass(frozen=True)
class StructureAssessment:
    """One structure of one prediction; None where the held-out cases did not suffice to know."""

    expected_dice: float | None = None
    within: float | None = None
    """Half width of its interval, right in nine of ten held-out predictions."""
    volume_ml: tuple[float, float] | None = None
    """Between which the true volume lies in nine of ten cases."""
    missing: bool = False
    """Not found, and every held-out case had it."""

    def figures(self) -> dict[str, Any]:
        """What records tell, as far as it is known.

        `look`, `reason` (why, or why it may be bad without), `expected_dice`, `expected_within`,
        `volume_interval_ml`.
        """
        told: dict[str, Any] = {"look": self.needs_a_look}
        if self.reason:
            told |= {"reason": self.reason}
        if self.expected_dice is not None and self.within is not None:
            told |= {"expected_dice": round(self.expected_dice, 4)}
            told |= {"expected_within": round(self.within, 4)}
        if self.volume_ml is not None:
            told |= {"volume_interval_ml": [float(f"{bound:.6g}") for bound in self.volume_ml]}
        return told

    @property
    def needs_a_look(self) -> bool:
        """Whether it is likely to be bad."""
        return self.missing or (self.expected_dice is not None and self.expected_dice < BAD_BELOW)

    @property
    def reason(self) -> str:
        """In words, why it is likely to be bad, or may be; empty where nothing says so."""
        if self.missing:
            return "not found, though every held-out case had it"
        if self.needs_a_look:
            return f"less than Dice {BAD_BELOW:g} is expected"
        if self.expected_dice is not None and self.expected_dice - (self.within or 0) < BAD_BELOW:
            return f"it may be below Dice {BAD_BELOW:g}, where results are bad"
        return ""


@dataclass(frozen=True)
class Assessment:
    """What is expected of one prediction; empty for a bundle that knows nothing of itself."""

    structures: Mapping[str, StructureAssessment] = field(default_factory=dict)
    unlike: tuple[str, ...] = ()
    """In words, how the image differs from those of training."""
    nearer: Mapping[str, float] = field(default_factory=dict)
    """"intensities", "features" -> share of the held-out cases that are more like the others."""
    soft_dice: Mapping[str, float] = field(default_factory=dict)
    """Name of each structure that was found -> `StructureMeasures.soft_dice`; where it was asked
    for in place of what the bundle does not know."""

    def added_to(self, measured: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return `measured`, name -> figures, with what is expected of each structure."""
        added: dict[str, Any] = {}
        for name, figures in measured.items():
            told = self.structures[name].figures() if name in self.structures else {}
            if name in self.soft_dice:
                told |= {"soft_dice": round(self.soft_dice[name], 4)}
            added[name] = {**figures, **told}
        return added


def predict_and_assess(
    predictor: Predictor,
    image: Volume,
    progress: Progress | None = None,
    soft_dice: bool = False,
    **settings: Any,
) -> tuple[Volume, Assessment]:
    """Return the label map of `image` and, where the bundle knows itself, what is expected of it.

    Args:
        predictor: the bundle's.
        image: what is segmented.
        progress: as the predictor's.
        soft_dice: of a bundle that does not know itself, tell `Assessment.soft_dice`.
        settings: more for the predictor's call, such as `probabilities` and `warn`.

    Raises:
        ConfigError, DataError, GeometryError: as the predictor's call.
    """
    trust = predictor.fitted
    if trust is None and soft_dice:
        seen = predict_and_measure(predictor, image, {}, progress=progress, **settings)
        names = predictor.structures
        found = {names[number]: measures.soft_dice for number, measures in seen.structures.items()}
        return seen.labels, Assessment(soft_dice=found)
    if trust is None or predictor.procedure == "paper":
        return predictor(image, progress, **settings), Assessment()
    names = predictor.structures
    usual = {number: trust.structures[name].log_volume for number, name in names.items()}
    known_qualities = [known.quality for known in trust.structures.values() if known.quality]
    labels, measured, features = predict_and_measure(
        predictor,
        image,
        usual,
        trust.mirrored_look,
        any(map(needs_members, known_qualities)),
        progress,
        **settings,
    )
    structures = {}
    for number, name in names.items():
        known = trust.structures[name]
        if (measures := measured.get(number)) is None:
            structures[name] = StructureAssessment(missing=known.present == 1)
            continue
        expected, within = expected_dice(known.quality, measures) if known.quality else (None, None)
        interval = volume_interval(known.volume, measures) if known.volume else None
        structures[name] = StructureAssessment(expected, within, interval)
    unlike, nearer = _unlike(predictor, trust, image, features)
    return labels, Assessment(structures, unlike, nearer)


def _unlike(
    predictor: Predictor, trust: Trust, image: Volume, features: NDArray[np.float64] | None
) -> tuple[tuple[str, ...], dict[str, float]]:
    """Return in words how an image differs from training's, and `Assessment.nearer`."""
    grid = unusual_grid(predictor.preprocessing, predictor.training_data, image)
    unlike = [f"{said[0].lower()}{said[1:].rstrip('.')}" for said in grid]
    known = trust.likeness
    if known is None:
        return tuple(unlike), {}
    nearer: dict[str, float] = {}
    far = f"times as far from training's as those of any of {trust.cases} held-out cases"
    quantiles = intensity_quantiles(image, predictor.preprocessing)
    times, nearer["intensities"] = unlikeness(known, quantiles)
    if times > _FAR:
        unlike.append(f"its intensities lie {times:.1f} {far}")
    if known.features is not None and features is not None:
        times, nearer["features"] = feature_unlikeness(known.features, features)
        if times > _FAR:
            unlike.append(f"its features, as the network sees them, lie {times:.1f} {far}")
    if known.tilt_degrees is not None:
        (least, most), tilt = known.tilt_degrees, tilt_degrees(image)
        if not least - _TILT <= tilt <= most + _TILT:
            unlike.append(
                f"its axes are turned by {tilt:.0f} degrees against the body's, those of the "
                f"held-out cases by {least:.0f} to {most:.0f}"
            )
    return tuple(unlike), nearer

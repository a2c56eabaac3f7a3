"""What a bundle knows of its own mistakes: fitted on held-out cases, kept in its configuration.

`transunet.trust` fits and uses it. An older bundle has none of it and goes on without.
"""

from collections.abc import Mapping

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from transunet.settings import Configuration

ENOUGH = 10
"""Held-out cases below which neither expected quality nor intervals can be known."""


class Calibration(Configuration):
    """One temperature for all classes, so that no label changes, and what it mends.

    Guo et al., On calibration of modern neural networks (ICML 2017). All figures are of the voxels
    in doubt: those whose predicted class is a structure or whose background is less than 99.9 %.
    """

    temperature: PositiveFloat
    """Probabilities are raised to 1 / temperature and normalised: above 1 they are tempered."""
    ece: tuple[NonNegativeFloat, NonNegativeFloat]
    """Expected calibration error before and after, of the predicted class."""
    brier: tuple[NonNegativeFloat, NonNegativeFloat]
    """Brier score before and after, summed over the classes."""
    bins: tuple[tuple[float, float, float], ...]
    """After: share of the voxels, mean confidence and accuracy of each bin that is not empty."""
    bins_before: tuple[tuple[float, float, float], ...] = ()
    """The same before."""


class ExpectedQuality(Configuration):
    """A ridge regression from what a prediction itself shows to its Dice."""

    means: tuple[float, ...]
    """Of the measures, in the order of `trust.measures.MEASURES`."""
    deviations: tuple[PositiveFloat, ...]
    weights: tuple[float, ...]
    """Per standard deviation of each measure; 0 where the measure is not used."""
    intercept: float
    spread: PositiveFloat
    """Nine of ten held-out predictions lay within `spread * (1 - expected + DOUBT)`."""
    error: NonNegativeFloat
    """Mean absolute error of the expected Dice on cases that the fit had not seen."""
    coverage: float = Field(ge=0, le=1)
    """Share of those cases within their interval."""
    predictions: PositiveInt
    """How many it was fitted on, worsened ones included."""


class VolumeInterval(Configuration):
    """Conformal: how far volumes lay from the reference's, in units of the prediction's doubt."""

    spread: PositiveFloat
    """The logarithm of the volume is off by at most `spread * (1 - soft Dice + DOUBT)`, in nine of
    ten cases."""
    coverage: float = Field(ge=0, le=1)
    """Share of held-out cases within the interval that the other cases give."""
    cases: PositiveInt


class StructureTrust(Configuration):
    """What is known of one structure."""

    present: float = Field(ge=0, le=1)
    """Share of the cases that have it."""
    log_volume: tuple[float, NonNegativeFloat] | None = None
    """Mean and deviation of the logarithm of the reference's millilitres."""
    quality: ExpectedQuality | None = None
    volume: VolumeInterval | None = None

    @property
    def held_out_figures(self) -> dict[str, float | None]:
        """Error of the expected Dice, and how often its interval and the volume's hold."""
        quality, volume = self.quality, self.volume
        return {
            "expected_dice_error": quality.error if quality else None,
            "expected_dice_coverage": quality.coverage if quality else None,
            "volume_coverage": volume.coverage if volume else None,
        }


class FeatureLikeness(Configuration):
    """What the network's encoder makes of the cases: a mean, and how far cases lie from it."""

    centre: tuple[float, ...]
    """The mean over the cases of each deepest feature's mean over the case."""
    scale: tuple[PositiveFloat, ...]
    """Each one's standard deviation over the cases, shrunk towards that of all."""
    distances: tuple[NonNegativeFloat, ...]
    """Each case's distance from the others in such deviations, sorted."""


class Likeness(Configuration):
    """How images of training differ among themselves, to tell when another one differs more."""

    quantiles: tuple[tuple[float, ...], ...]
    """Per channel, the mean over the cases of the normalised intensities' quantiles."""
    distances: tuple[NonNegativeFloat, ...]
    """Each case's mean distance from them, sorted: 1-Wasserstein, in normalised intensity."""
    tilt_degrees: tuple[float, float] | None = None
    """From the least to the most that axes are turned against the body's."""
    features: FeatureLikeness | None = None
    """Only where PyTorch computed the network."""


class Trust(Configuration):
    """All that was fitted on held-out cases."""

    cases: PositiveInt
    """Held-out cases that it was fitted on."""
    structures: Mapping[str, StructureTrust]
    calibration: Calibration | None = None
    likeness: Likeness | None = None
    mirrored_look: bool = False
    """Whether expected quality needs the prediction of the mirror image too."""


class EnsembleTrust(Configuration):
    """What was fitted for an ensemble, kept in each of its members."""

    member: NonNegativeInt
    """Which of them this one is."""
    members: PositiveInt
    trust: Trust

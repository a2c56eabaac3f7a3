"""A prediction and what it shows of its own quality, in one go."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transunet.data.volume import Volume
from transunet.inference.predictor import Predictor
from transunet.inference.slice_inference import Progress, StoreProbabilities
from transunet.trust.likeness import mean_features
from transunet.trust.measures import MemberAgreement, ProbabilityMeter, StructureMeasures


class MeasuredPrediction(NamedTuple):
    """A label map, and what predicting it showed."""

    labels: Volume
    structures: dict[int, StructureMeasures]
    """Number of a structure that was found -> what was measured of it."""
    features: NDArray[np.float64] | None
    """Mean of the encoder's deepest features, (channels,); None where the engine hides them."""


def predict_and_measure(
    predictor: Predictor,
    image: Volume,
    log_volumes: Mapping[int, tuple[float, float] | None],
    mirrored_look: bool = False,
    watch_members: bool = False,
    progress: Progress | None = None,
    observers: Sequence[StoreProbabilities] = (),
    **settings: Any,
) -> MeasuredPrediction:
    """Return the label map of `image`, and what the prediction shows of itself.

    Args:
        predictor: what segments it.
        image: what is segmented.
        log_volumes: of each structure, mean and deviation of the logarithm of training's
            millilitres.
        mirrored_look: predict the mirror image too, which takes as long again.
        watch_members: see how far the members of an ensemble agree.
        progress: as the predictor's; of both looks together.
        observers: called with the probabilities as the predictor's own maps are.
        settings: more for the predictor's call, such as `probabilities` and `warn`.
    """

    def told(look: int) -> Progress | None:
        if progress is None or not mirrored_look:
            return progress
        return lambda done, total: progress(look * total + done, 2 * total)

    meter = ProbabilityMeter(predictor.labels, predictor.regions)
    if watch_members:
        agreement = MemberAgreement(predictor.labels, predictor.regions)
        settings |= {"watch_members": agreement}
    with mean_features(predictor.network) as features:
        labels = predictor(image, told(0), observers=[meter, *observers], **settings)
    seen = features()
    mirrored = None
    if mirrored_look:
        again = ProbabilityMeter(predictor.labels, predictor.regions)
        columns = 1 + image.axes_in(predictor.preprocessing.orientation)[2]
        turned = image.with_array(np.flip(image.array, columns))  # the affine stays: it is a look
        predictor(turned, told(1), observers=[again], warn=lambda _: None)
        mirrored = again.labels[..., ::-1]
    # Slices that are resampled are measured at the working resolution.
    share = prod(image.spatial_shape) / meter.labels.size
    structures = meter.structures(image.voxel_ml * share, log_volumes, mirrored)
    if watch_members:
        structures = {
            number: measures._replace(members=agreement.of(number))
            for number, measures in structures.items()
        }
    return MeasuredPrediction(labels, structures, seen)

"""Whether an image is like those of training, by the intensities that the network sees."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from transunet.bundle.trust_config import Likeness
from transunet.data.preprocessing import Preprocessing
from transunet.data.volume import Volume

_QUANTILES = np.linspace(0.01, 0.99, 33)
_SAMPLES = 200_000  # voxels of a channel, evenly spaced


def intensity_quantiles(volume: Volume, preprocessing: Preprocessing) -> NDArray[np.float64]:
    """Return 33 quantiles of each channel's normalised intensities, (C, 33)."""
    oriented = preprocessing.oriented(volume)
    quantiles = []
    for channel, values in zip(preprocessing.channels, oriented, strict=True):
        flat = channel.for_white(volume.white).normalise(np.asarray(values)).ravel()
        quantiles.append(np.quantile(flat[:: max(1, flat.size // _SAMPLES)], _QUANTILES))
    return np.array(quantiles)


def fit_likeness(quantiles: Sequence[NDArray[np.float64]]) -> Likeness:
    """Keep the mean of the cases' quantiles, and how far each case lies from the others' mean."""
    stacked = np.stack(quantiles)
    total, count = stacked.sum(axis=0), len(stacked)
    distances = []
    for own in stacked:
        others = (total - own) / (count - 1) if count > 1 else own
        distances.append(float(np.abs(own - others).mean()))
    return Likeness(
        quantiles=tuple(map(tuple, (total / count).tolist())), distances=tuple(sorted(distances))
    )


def unlikeness(likeness: Likeness, quantiles: NDArray[np.float64]) -> float:
    """Return how far an image lies from training, in distances of the farthest held-out case."""
    distance = float(np.abs(quantiles - np.array(likeness.quantiles)).mean())
    return distance / max(likeness.distances[-1], 1e-6)

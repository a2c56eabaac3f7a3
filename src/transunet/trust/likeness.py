"""Whether an image is like those of training: its intensities, its grid, what the network sees.

Another kind of image (a CT for MRI) is refused before, by `data.checks.suitability`.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from transunet.backends.protocol import innermost
from transunet.bundle.trust_config import FeatureLikeness, Likeness
from transunet.data.preprocessing import Preprocessing
from transunet.data.volume import Volume

if TYPE_CHECKING:
    from transunet.backends.protocol import Network

Array = NDArray[np.float64]
_QUANTILES = np.linspace(0.01, 0.99, 33)
_PLANES = 16  # evenly spaced ones tell how intensities are distributed
_SAMPLES = 200_000  # voxels of a channel, evenly spaced


def intensity_quantiles(volume: Volume, preprocessing: Preprocessing) -> Array:
    """Return 33 quantiles of each channel's normalised intensities, (C, 33).

    Of some planes: a volume has been normalised once already by whoever predicts it.
    """
    oriented = preprocessing.oriented(volume)
    depth = oriented.shape[1]
    planes = oriented[:, np.linspace(0, depth - 1, min(depth, _PLANES)).round().astype(int)]
    quantiles = []
    for channel, values in zip(preprocessing.channels, planes, strict=True):
        flat = channel.for_white(volume.white).normalise(np.asarray(values)).ravel()
        quantiles.append(np.quantile(flat[:: max(1, flat.size // _SAMPLES)], _QUANTILES))
    return np.array(quantiles)


def tilt_degrees(volume: Volume) -> float:
    """Return by how much the axes are turned against those of the body that lie next to them."""
    directions = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    cosines = np.abs(directions).max(axis=0)
    return float(np.degrees(np.arccos(np.clip(cosines.min(), 0, 1))))


@contextmanager
def mean_features(network: "Network") -> Iterator[Callable[[], Array | None]]:
    """Watch what a network's encoder makes of samples.

    Yields:
        What returns the mean over all samples and places of its deepest features, (channels,); None
        where another engine than PyTorch computes, which does not show them.
    """
    pytorch: Any = sys.modules.get("transunet.backends.pytorch")  # else no network is a model
    plain = pytorch is not None and not getattr(network, "compiled", False)
    model = pytorch.model_of(network) if plain else None
    if model is None or model.deepest is None:
        yield lambda: None
        return
    sums: list[Any] = []

    def watch(_module: Any, _inputs: Any, features: Any) -> None:
        by_place = features.mean(1) if features.ndim == 3 else features.flatten(2).mean(2)
        sums.append(by_place.double().mean(0))

    hook = model.deepest.register_forward_hook(watch)
    computing: Any = innermost(network)
    computing.watch = watch
    try:
        yield lambda: np.asarray(sum(sums).cpu().numpy()) / len(sums) if sums else None
    finally:
        hook.remove()
        computing.watch = None


def fit_likeness(
    quantiles: Sequence[Array], tilts: Sequence[float] = (), features: Sequence[Array] = ()
) -> Likeness:
    """Keep what the cases are like, and how far each lies from the others.

    Args:
        quantiles: of each case, `intensity_quantiles`.
        tilts: of each, `tilt_degrees`.
        features: of each, `mean_features`, where the engine shows them.
    """
    stacked = np.stack(quantiles)
    distances = [float(np.abs(own - others.mean(0)).mean()) for own, others in _each(stacked)]
    return Likeness(
        quantiles=tuple(map(tuple, stacked.mean(axis=0).tolist())),
        distances=tuple(sorted(distances)),
        tilt_degrees=(min(tilts), max(tilts)) if tilts else None,
        features=_fit_features(np.stack(features)) if len(features) else None,
    )


def unlikeness(likeness: Likeness, quantiles: Array) -> tuple[float, float]:
    """Return how far an image's intensities lie from training's, and the share of nearer cases.

    The first in distances of the farthest held-out case.
    """
    distance = float(np.abs(quantiles - np.array(likeness.quantiles)).mean())
    return _compared(distance, likeness.distances)


def feature_unlikeness(known: FeatureLikeness, features: Array) -> tuple[float, float]:
    """Return the same of what the network's encoder sees."""
    distance = _mahalanobis(features, np.array(known.centre), np.array(known.scale))
    return _compared(distance, known.distances)


def _fit_features(features: Array) -> FeatureLikeness:
    """Keep mean and deviations: of some dozen cases, no more of a covariance can be known."""
    distances = [
        _mahalanobis(own, others.mean(0), _shrunk_deviations(others))
        for own, others in _each(features)
    ]

    def kept(values: Array) -> tuple[float, ...]:
        return tuple(float(f"{value:.5g}") for value in values)

    return FeatureLikeness(
        centre=kept(features.mean(0)),
        scale=kept(_shrunk_deviations(features)),
        distances=tuple(sorted(distances)),
    )


def _shrunk_deviations(features: Array) -> Array:
    """Deviation of each feature, its variance halfway between its own and the mean of all."""
    variance = features.var(axis=0)
    return np.asarray(np.sqrt((variance + variance.mean()) / 2 + 1e-12))


def _mahalanobis(features: Array, centre: Array, scale: Array) -> float:
    """Root of the mean over the features, so that a typical case lies 1 away."""
    return float(np.sqrt(np.square((features - centre) / scale).mean()))


def _each(rows: Array) -> Iterator[tuple[Array, Array]]:
    """Yield each row, and all others; of a single one, itself."""
    for index, row in enumerate(rows):
        yield row, np.delete(rows, index, axis=0) if len(rows) > 1 else rows


def _compared(distance: float, held_out: Sequence[float]) -> tuple[float, float]:
    nearer = float(np.mean(np.array(held_out) <= distance))
    return distance / max(held_out[-1], 1e-6), nearer

"""What a data set is like in numbers: spacings, sizes, intensities, how often each class occurs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.settings import Configuration

PERCENTILES = (0.5, 50.0, 99.5)
_SAMPLES = 200_000  # voxels of a case that percentiles are taken of


class Intensity(Configuration):
    """Intensities of one channel before normalisation."""

    voxels: int
    minimum: float
    maximum: float
    mean: float
    deviation: float
    percentiles: tuple[float, float, float]
    """`PERCENTILES` of a case (if large, of evenly spaced voxels); of a data set, their median."""


class CaseFingerprint(Configuration):
    """One case as it is in its files."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str
    modality: str | None = None
    """One of `suitability.MODALITIES`, where the image's header tells it (DICOM's does)."""
    intensities: tuple[Intensity, ...]
    """One per channel."""
    foreground: tuple[Intensity, ...]
    """The same of the voxels that are not background; empty where there are none."""
    voxels: dict[int, int]
    """Voxels of each class, those that occur."""


class Fingerprint(Configuration):
    """A data set: medians and extremes of its cases, and sums."""

    cases: int
    slices: int
    spacing_mm: dict[str, tuple[float, float, float]]
    """minimum, median and maximum distance from slice to slice, row to row, column to column."""
    size: dict[str, tuple[int, int, int]]
    """minimum, median and maximum of the number of slices, rows and columns."""
    orientations: dict[str, int]
    """How many cases have which."""
    intensities: tuple[Intensity, ...]
    foreground: tuple[Intensity, ...]
    voxels: dict[int, int]
    """Voxels of each class."""
    cases_with: dict[int, int]
    """In how many cases each class occurs."""

    @property
    def frequencies(self) -> dict[int, float]:
        """The share of all voxels that each class has."""
        total = sum(self.voxels.values())
        return {index: count / total for index, count in self.voxels.items()}


def intensities_of(array: NDArray[Any]) -> tuple[Intensity, ...]:
    """Measure each channel of an array (C, ...); nothing for an empty one."""
    return tuple(_intensity(channel.ravel("K")) for channel in array) if array[0].size else ()


def summarise(
    cases: Sequence[CaseFingerprint],
    geometry: Sequence[tuple[tuple[int, int, int], tuple[float, float, float]]],
    labels: Mapping[int, str],
) -> Fingerprint:
    """Summarise cases.

    Args:
        cases: at least one.
        geometry: for each case its slices, rows and columns, and the distances between them in mm.
        labels: the classes, also those that do not occur.
    """
    sizes = np.array([size for size, _ in geometry])
    spacings = np.array([spacing for _, spacing in geometry])
    names, counts = np.unique([case.orientation for case in cases], return_counts=True)
    return Fingerprint(
        cases=len(cases),
        slices=int(sizes[:, 0].sum()),
        spacing_mm={key: _floats(value) for key, value in _extremes(spacings).items()},
        size={key: _ints(value) for key, value in _extremes(sizes).items()},
        orientations=dict(zip(names.tolist(), counts.tolist(), strict=True)),
        intensities=_pooled_channels([case.intensities for case in cases]),
        foreground=_pooled_channels([case.foreground for case in cases if case.foreground]),
        voxels={index: sum(case.voxels.get(index, 0) for case in cases) for index in labels},
        cases_with={index: sum(index in case.voxels for case in cases) for index in labels},
    )


def _intensity(values: NDArray[Any]) -> Intensity:
    sample = values[:: max(1, values.size // _SAMPLES)]
    low, middle, high = (float(v) for v in np.percentile(sample, PERCENTILES))
    return Intensity(
        voxels=values.size,
        minimum=float(values.min()),
        maximum=float(values.max()),
        mean=float(values.mean(dtype=np.float64)),
        deviation=float(values.std(dtype=np.float64)),
        percentiles=(low, middle, high),
    )


def _pooled_channels(cases: Sequence[Sequence[Intensity]]) -> tuple[Intensity, ...]:
    return tuple(_pooled(channel) for channel in zip(*cases, strict=True))


def _pooled(parts: Sequence[Intensity]) -> Intensity:
    """Mean and deviation of all voxels together, from those of the parts."""
    voxels = np.array([part.voxels for part in parts], dtype=np.float64)
    means = np.array([part.mean for part in parts])
    mean = float(np.average(means, weights=voxels))
    spread = [part.deviation**2 + (part.mean - mean) ** 2 for part in parts]
    low, middle, high = (float(v) for v in np.median([part.percentiles for part in parts], axis=0))
    return Intensity(
        voxels=int(voxels.sum()),
        minimum=min(part.minimum for part in parts),
        maximum=max(part.maximum for part in parts),
        mean=mean,
        deviation=float(np.sqrt(np.average(spread, weights=voxels))),
        percentiles=(low, middle, high),
    )


def _extremes(values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {
        "minimum": values.min(axis=0),
        "median": np.median(values, axis=0),
        "maximum": values.max(axis=0),
    }


def _floats(values: NDArray[Any]) -> tuple[float, float, float]:
    a, b, c = (float(v) for v in values)
    return a, b, c


def _ints(values: NDArray[Any]) -> tuple[int, int, int]:
    a, b, c = (round(float(v)) for v in values)
    return a, b, c

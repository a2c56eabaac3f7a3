"""What a data set is like in numbers: spacings, sizes, intensities, how often each class occurs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import SerializerFunctionWrapHandler, model_serializer

from transunet.data.checks.suitability import PERCENTILES, SAMPLES, modality_of_header
from transunet.data.volume import Volume
from transunet.settings import Configuration

_LOW = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0)
LEVELS = (*_LOW, 50.0, *(100 - level for level in reversed(_LOW)))
"""Percentages at which a case's foreground is measured finely, so that cases can be pooled."""


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
    nonzero: float | None = None
    """The share of voxels where some channel is not 0. It and what follows are measured where
    volumes are prepared for networks of three axes."""
    quantiles: tuple[tuple[float, ...], ...] = ()
    """Of each channel's foreground, at `LEVELS`; empty where there is none."""

    @model_serializer(mode="wrap")
    def _as_before(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what was not measured: stores for slices stay the same, byte for byte."""
        values: dict[str, Any] = serialise(self)
        if self.nonzero is None:
            del values["nonzero"], values["quantiles"]
        return values

    @classmethod
    def of(
        cls,
        image: Volume,
        label: Volume,
        known: Mapping[int, str],
        finely: bool = False,
    ) -> Self:
        """Measure a case.

        Args:
            image: its volume.
            label: its label map, class indices.
            known: the classes; others (what nobody labelled) count in none.
            finely: also what planning for networks of three axes needs.
        """
        classes, counts = np.unique(label.array.ravel("K"), return_counts=True)
        voxels = dict(zip(classes.tolist(), counts.tolist(), strict=True))
        foreground = (label.array[0] > 0) & (label.array[0] <= max(known))
        inside = image.array[:, foreground]
        fine: dict[str, Any] = {}
        if finely:
            samples = inside[:, :: max(1, inside.shape[1] // SAMPLES)]
            fine["nonzero"] = float(image.array.any(axis=0).mean())
            if samples.size:
                fine["quantiles"] = np.percentile(samples, LEVELS, axis=1).T.tolist()
        return cls(
            shape=image.spatial_shape,
            spacing_mm=image.spacing_mm,
            orientation=image.orientation,
            modality=modality_of_header(image.header),
            intensities=intensities_of(image.array),
            foreground=intensities_of(inside),
            voxels={index: count for index, count in voxels.items() if index in known},
            **fine,
        )


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
    intensities = []
    for values in (channel.ravel("K") for channel in array if channel.size):
        sample = values[:: max(1, values.size // SAMPLES)]
        intensities.append(
            Intensity(
                voxels=values.size,
                minimum=float(values.min()),
                maximum=float(values.max()),
                mean=float(values.mean(dtype=np.float64)),
                deviation=float(values.std(dtype=np.float64)),
                percentiles=tuple(np.percentile(sample, PERCENTILES).tolist()),
            )
        )
    return tuple(intensities)


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
    extremes: dict[str, Callable[..., Any]] = {
        "minimum": np.min,
        "median": np.median,
        "maximum": np.max,
    }
    names, counts = np.unique([case.orientation for case in cases], return_counts=True)
    return Fingerprint(
        cases=len(cases),
        slices=int(sizes[:, 0].sum()),
        spacing_mm={key: tuple(of(spacings, axis=0).tolist()) for key, of in extremes.items()},
        size={
            key: tuple(np.rint(of(sizes, axis=0)).astype(int).tolist())
            for key, of in extremes.items()
        },
        orientations=dict(zip(names.tolist(), counts.tolist(), strict=True)),
        intensities=_pooled([case.intensities for case in cases]),
        foreground=foreground_of(cases),
        voxels={index: sum(case.voxels.get(index, 0) for case in cases) for index in labels},
        cases_with={index: sum(index in case.voxels for case in cases) for index in labels},
    )


def foreground_of(cases: Sequence[CaseFingerprint]) -> tuple[Intensity, ...]:
    """Return the intensities of the foreground of all cases; empty where there is none."""
    return _pooled([case.foreground for case in cases if case.foreground])


def foreground_percentiles(
    cases: Sequence[CaseFingerprint], channel: int, wanted: Sequence[float]
) -> list[float]:
    """Return percentiles of a channel's foreground voxels of all cases together.

    Args:
        cases: measured finely; one of them has foreground.
        channel: its number.
        wanted: percentages.
    """
    measured = [case for case in cases if case.quantiles]
    own = [np.array(case.quantiles[channel]) for case in measured]
    weights = np.array([case.foreground[channel].voxels for case in measured], dtype=np.float64)
    values = np.unique(np.concatenate(own))
    below = [np.interp(values, quantiles, LEVELS) for quantiles in own]
    shares = np.average(below, axis=0, weights=weights)
    return np.interp(wanted, shares, values).tolist()  # type: ignore[no-any-return]


def _pooled(cases: Sequence[Sequence[Intensity]]) -> tuple[Intensity, ...]:
    """Of each channel, the mean and deviation of all voxels together, from those of the cases."""
    pooled = []
    for parts in zip(*cases, strict=True):
        voxels = np.array([part.voxels for part in parts], dtype=np.float64)
        means = np.array([part.mean for part in parts])
        mean = float(np.average(means, weights=voxels))
        squares = [part.deviation**2 + (part.mean - mean) ** 2 for part in parts]
        percentiles = np.median([part.percentiles for part in parts], axis=0)
        pooled.append(
            Intensity(
                voxels=int(voxels.sum()),
                minimum=min(part.minimum for part in parts),
                maximum=max(part.maximum for part in parts),
                mean=mean,
                deviation=float(np.sqrt(np.average(squares, weights=voxels))),
                percentiles=tuple(percentiles.tolist()),
            )
        )
    return tuple(pooled)

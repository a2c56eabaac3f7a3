"""What an evaluation holds: structures, metrics, one record per case, and all of them together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, isnan, nan
from types import MappingProxyType
from typing import Literal, Self

import numpy as np

from transunet.evaluation.bootstrap import StructureSummary, Values, nanmean, summarise
from transunet.evaluation.metrics import POLICIES, ClassMetrics, Convention, case_metrics


@dataclass(frozen=True)
class Metric:
    """One figure per case and structure, as it is called in reports."""

    key: str
    """Name in CSV and JSON, with its unit."""
    field: str
    """Field of `ClassMetrics`."""
    title: str
    """Name in tables and charts, with its unit."""
    higher_is_better: bool


_DICE = Metric("dice", "dice", "Dice", True)
METRICS: Mapping[str, tuple[Metric, ...]] = MappingProxyType(
    {
        "honest": (
            _DICE,
            Metric("iou", "iou", "IoU", True),
            Metric("hd95_mm", "hd95", "HD95 (mm)", False),
            Metric("assd_mm", "assd", "ASSD (mm)", False),
            Metric("nsd", "nsd", "NSD", True),
        ),
        # Other names, so that nobody puts the two conventions' figures into one column.
        "official": (
            Metric("dice_official", "dice", "Dice (official)", True),
            Metric("hd95_official_voxels", "hd95", "HD95 (official, voxels)", False),
        ),
    }
)
"""Per convention, what is reported; the first one ranks the cases."""


@dataclass(frozen=True, order=True)
class Structure:
    """What is measured: one label, or several taken together (a region)."""

    values: tuple[int, ...]
    """Label values that make it up."""
    name: str

    @property
    def key(self) -> str:
        """Its label value as text; for a region all of them, joined by +."""
        return "+".join(map(str, self.values))


White = Literal["exact", "soft"]
"""A mask of 0 and 255 alone, or with soft edges, which are cut at half of 255."""


@dataclass(frozen=True)
class CaseRecord:
    """The figures of one case."""

    name: str
    metrics: Mapping[str, ClassMetrics]
    """By `Structure.key`."""
    predicted: frozenset[int] = frozenset()
    """The label values that the prediction holds."""
    labelled: frozenset[int] = frozenset()
    """The label values that the reference holds."""
    white: White | None = None
    """How 255 in the reference was read as class 1, where it is a black-and-white mask."""


@dataclass(frozen=True)
class Evaluation:
    """Every case's figures, and how they were made."""

    cases: tuple[CaseRecord, ...]
    structures: tuple[Structure, ...]
    convention: Convention
    tolerance_mm: float
    predictions: str
    references: str
    left_out: tuple[str, ...] = ()
    """References that no prediction was asked for."""
    notes: tuple[str, ...] = ()
    """What was done so that both count alike: classes matched by name, voxels left out."""
    pixels_as_mm: bool = False
    """Whether there are files that tell no voxel size, of which a pixel counts as 1 mm."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What this evaluation reports, in order."""
        return METRICS[self.convention]

    @property
    def policy(self) -> str:
        """Units and empty structures, as every report states them."""
        parts = [POLICIES[self.convention]]
        if self.convention == "honest":
            parts.append(f"NSD: surfaces within {self.tolerance_mm:g} mm of each other agree.")
        if self.pixels_as_mm:
            parts.append("There are files that tell no voxel size: a pixel of them counts as 1 mm.")
        return " ".join(parts)

    def values(self, metric: Metric) -> Values:
        """One metric as (cases, structures), NaN where it does not count."""
        return self.figures(metric.field)

    def values_of(self, metric: Metric, cases: Iterable[str]) -> Values:
        """The rows of `values` of these cases."""
        rows = {case.name: index for index, case in enumerate(self.cases)}
        return self.values(metric)[[rows[name] for name in cases]]

    def figures(self, field: str) -> Values:
        """One field of `ClassMetrics` as (cases, structures)."""
        rows = [
            [getattr(case.metrics[s.key], field) for s in self.structures] for case in self.cases
        ]
        return np.asarray(rows, dtype=np.float64).reshape(len(self.cases), len(self.structures))

    def volume_errors(self) -> Values:
        """Prediction minus reference in ml, (cases, structures); NaN where both are empty."""
        predicted, real = self.figures("prediction_ml"), self.figures("reference_ml")
        return np.where((predicted > 0) | (real > 0), predicted - real, nan)

    @cached_property
    def summaries(self) -> Mapping[str, "MetricSummary"]:
        """Per metric key, what all cases say together."""
        return {m.key: MetricSummary(*summarise(self.values(m))) for m in self.metrics}

    def ranked(self) -> list[tuple[CaseRecord, float]]:
        """Cases with their mean Dice over structures, the worst first; those without any last."""
        means = nanmean(self.values(self.metrics[0]), 1).tolist()
        ranked = zip(self.cases, means, strict=True)
        return sorted(ranked, key=lambda r: (inf if isnan(r[1]) else r[1], r[0].name))

    def with_structures(self, structures: tuple[Structure, ...], notes: tuple[str, ...]) -> Self:
        """Return the same evaluation with other structures, empty where a case has none."""
        cases = complete(self.cases, structures, self.convention)
        return replace(self, structures=structures, cases=cases, notes=notes)


@dataclass(frozen=True)
class MetricSummary:
    """One metric over all cases."""

    structures: Sequence[StructureSummary]
    """In the order of `Evaluation.structures`."""
    mean_foreground: float
    interval_95: tuple[float, float]


def structures_of(labels: Mapping[int, str]) -> tuple[Structure, ...]:
    """Every label but the background (0) as a structure of its own."""
    return tuple(Structure((value,), labels[value]) for value in sorted(labels) if value)


def complete(
    cases: Iterable[CaseRecord], structures: Sequence[Structure], convention: Convention
) -> tuple[CaseRecord, ...]:
    """Give every case a record of every structure: one that it does not have is empty in both."""
    nothing = np.zeros((1, 1), np.uint8)
    absent = case_metrics(nothing, nothing, (1, 1), [1], convention)[1]
    return tuple(
        replace(case, metrics={s.key: case.metrics.get(s.key, absent) for s in structures})
        for case in cases
    )

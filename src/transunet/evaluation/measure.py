"""Files to records: read each pair, check that it can be compared, measure it."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context

import numpy as np

from transunet import errors
from transunet.data.cases import DataSet, label_problems
from transunet.data.formats import read_labels
from transunet.data.volume import Volume, same_grid
from transunet.errors import ConfigError, DataError, GeometryError, TransUNetError
from transunet.evaluation.metrics import ClassMetrics, Convention, case_metrics
from transunet.evaluation.pairs import Pair
from transunet.evaluation.records import (
    CaseRecord,
    Evaluation,
    Structure,
    complete,
)

_MOST_LABELS = 256
"""More different values than this, and it is an image rather than a label map."""
_HIGHEST_LABEL = 65_535


@dataclass(frozen=True)
class Settings:
    """How to measure: the same for every case of an evaluation."""

    structures: tuple[Structure, ...] | None = None
    """What to measure; None: every label that occurs, without names."""
    convention: Convention = "honest"
    tolerance_mm: float = 2.0
    dataset: DataSet | None = None
    """Maps and checks the references' label values, where they are a data set's."""


def measure_all(
    pairs: Sequence[Pair], settings: Settings, workers: int = 1
) -> Iterator[CaseRecord]:
    """Measure the pairs, in order, in this process or in several.

    Raises:
        ConfigError: for fewer than one worker.
        TransUNetError: as `measure`; the first case that fails ends it.
    """
    if workers < 1:
        raise ConfigError(f"At least one process is needed, not {workers}.")
    if workers == 1 or len(pairs) == 1:
        yield from (measure(pair, settings) for pair in pairs)
        return
    sent = _sendable(settings)
    context = get_context("spawn")  # forking a process that has threads can deadlock
    with ProcessPoolExecutor(min(workers, len(pairs)), mp_context=context) as pool:
        try:
            for result in pool.map(_measure_in_worker, pairs, [sent] * len(pairs)):
                yield _raised(result)
        except BrokenProcessPool:
            raise DataError(
                f"One of {workers} measuring processes was killed, as a rule because the memory "
                "ran out. Use fewer processes."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def measure(pair: Pair, settings: Settings) -> CaseRecord:
    """Read one pair and measure it.

    Raises:
        ConfigError: when a file's format is not known.
        DataError: when a file is damaged or no label map, or has labels that are not listed.
        GeometryError: when prediction and reference lie on different grids.
    """
    prediction, reference = read_pair(pair, settings.dataset)
    found = _labels_in(prediction, reference, settings)
    structures = settings.structures or [Structure((value,), "") for value in found if value]
    arrays = prediction.array[0], reference.array[0]
    metrics: dict[str, ClassMetrics] = {}
    for key, maps, values in _maps(arrays, structures):
        measured = case_metrics(
            *maps, reference.spacing_mm, values, settings.convention, settings.tolerance_mm
        )
        metrics |= {key or str(value): one for value, one in measured.items()}
    return CaseRecord(pair.name, {one.key: metrics[one.key] for one in structures})


def read_pair(pair: Pair, dataset: DataSet | None) -> tuple[Volume, Volume]:
    """Read prediction and reference, checked to be label maps on one grid.

    Raises:
        As `measure`.
    """
    prediction, reference = read_labels(pair.prediction), read_labels(pair.reference)
    difference = same_grid(prediction, reference)
    if difference:
        raise GeometryError(
            f"Case {pair.name}: {pair.prediction} and {pair.reference} lie on different grids: "
            f"{difference}. {_affines(prediction, reference)}Write the prediction on the "
            "reference's own grid (with nearest neighbour)."
        )
    if dataset is not None:
        for problem in label_problems(dataset, reference, reference):
            raise problem.error()
        reference = reference.with_array(dataset.class_indices(reference.array))
    return prediction, reference


def gather(
    records: Sequence[CaseRecord],
    pairs: Sequence[Pair],
    settings: Settings,
    predictions: str,
    references: str,
    left_out: tuple[str, ...] = (),
) -> Evaluation:
    """Put the cases together; where no names were given, every label that occurred is measured.

    Raises:
        DataError: when no file has any structure: there is nothing to measure.
    """
    structures = settings.structures or _found(records, predictions, references)
    return Evaluation(
        cases=complete(records, structures, settings.convention),
        structures=structures,
        convention=settings.convention,
        tolerance_mm=settings.tolerance_mm,
        predictions=predictions,
        references=references,
        left_out=left_out,
        pixels_as_mm=not all(pair.tells_space for pair in pairs),
    )


def _found(
    records: Sequence[CaseRecord], predictions: str, references: str
) -> tuple[Structure, ...]:
    values = sorted({int(key) for record in records for key in record.metrics})
    if not values:
        raise DataError(
            f"{predictions} and {references}: every voxel of every file is 0 (background); there "
            "is no structure to measure."
        )
    if values == [1, 255]:
        raise DataError(
            f"{predictions} and {references}: one of them has the label 1 and the other 255, as "
            "black-and-white masks do. Store 1 in both, or give the reference's data set as its "
            "folder: there 255 is read as class 1."
        )
    return tuple(Structure((value,), f"label {value}") for value in values)


def _maps(
    arrays: tuple[np.ndarray, np.ndarray], structures: Sequence[Structure]
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray], list[int]]]:
    """Label maps to hand to `case_metrics`: all single labels at once, then region by region."""
    yield "", arrays, [one.values[0] for one in structures if len(one.values) == 1]
    for one in structures:
        if len(one.values) > 1:
            first, second = (np.isin(array, one.values) for array in arrays)
            yield one.key, (first, second), [1]


def _labels_in(prediction: Volume, reference: Volume, settings: Settings) -> list[int]:
    found: set[int] = set()
    for volume in (prediction, reference):
        values = _values_in(volume)
        _check_listed(volume, values, settings)
        found |= set(values)
    return sorted(found)


def _values_in(volume: Volume) -> list[int]:
    highest = int(volume.array.max())
    seen = np.zeros(min(highest, _HIGHEST_LABEL) + 1, np.bool_)
    if highest <= _HIGHEST_LABEL:
        seen[volume.array] = True  # much faster than sorting the voxels
    values: list[int] = np.flatnonzero(seen).tolist()
    if highest > _HIGHEST_LABEL or len(values) > _MOST_LABELS:
        raise DataError(
            f"{volume.name}: this looks like an image, not like a label map: its values go up to "
            f"{highest}, expected at most {_MOST_LABELS} different labels. Check which file was "
            "given (masks in colours need their data set's folder as the reference)."
        )
    return values


def _check_listed(volume: Volume, values: list[int], settings: Settings) -> None:
    if settings.structures is None:
        return
    listed = {value: one.name for one in settings.structures for value in one.values}
    unknown = [value for value in values if value and value not in listed]
    if unknown:
        names = ", ".join(f"{value} {name}" for value, name in sorted(listed.items()))
        hint = " 255 usually stands for class 1: store 1 instead." if unknown == [255] else ""
        raise DataError(
            f"{volume.name}: label values that have no name: {', '.join(map(str, unknown[:8]))}; "
            f"expected 0 background, {names}. Give the labels that belong to these files.{hint}"
        )


def _affines(prediction: Volume, reference: Volume) -> str:
    if prediction.spatial_shape != reference.spatial_shape:
        return ""
    return (
        f"Affine of the prediction: {np.round(prediction.affine, 4).tolist()}, "
        f"of the reference: {np.round(reference.affine, 4).tolist()}. "
    )


def _sendable(settings: Settings) -> Settings:
    """The settings without what other processes do not need, in types that can be sent."""
    if settings.dataset is None:
        return settings
    dataset = replace(
        settings.dataset,
        cases=(),
        notes=(),
        regions={},
        labels=dict(settings.dataset.labels),
        label_values=dict(settings.dataset.label_values),
    )
    return replace(settings, dataset=dataset)


def _raised(result: CaseRecord | tuple[str, str]) -> CaseRecord:
    if isinstance(result, CaseRecord):
        return result
    kind, text = result
    raise getattr(errors, kind)(text)


def _measure_in_worker(pair: Pair, settings: Settings) -> CaseRecord | tuple[str, str]:
    """Measure, or return the error's kind and text: errors with fields do not survive the way."""
    try:
        record = measure(pair, settings)
        return CaseRecord(record.name, dict(record.metrics))
    except TransUNetError as error:
        known = (
            kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__
        )
        return next(known), str(error)

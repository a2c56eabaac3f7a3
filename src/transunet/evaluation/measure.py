"""Files to records: read each pair, check that it can be compared, measure it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np

from transunet import errors
from transunet.data.cases import IGNORED, DataSet, label_problems, raise_first
from transunet.data.formats import read_label_pair, smallest_unsigned
from transunet.data.layouts.masks import has_soft_edges
from transunet.data.volume import Volume, same_grid
from transunet.errors import ConfigError, DataError, GeometryError, TransUNetError
from transunet.evaluation.metrics import ClassMetrics, Convention, case_metrics
from transunet.evaluation.pairs import Pair
from transunet.evaluation.records import CaseRecord, Evaluation, Structure, White, complete

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
    ignore: int | None = None
    """The value in the references of voxels that nobody labelled; a data set knows its own."""
    white: bool = False
    """Whether references of 0 and 255 alone are black-and-white masks, of class 1."""

    @property
    def foreground(self) -> frozenset[int]:
        """The label values that are measured, where that is known beforehand."""
        return frozenset(value for one in self.structures or () for value in one.values)


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
    prediction, reference, white = read_pair(pair, settings)
    labels = (
        _labels_in(prediction, settings, _CLASS_NOT_255),
        _labels_in(reference, settings, LEAVE_OUT_255),
    )
    found = sorted(labels[0] | labels[1])
    structures = settings.structures or [Structure((value,), "") for value in found if value]
    arrays = prediction.array[0], reference.array[0]
    metrics: dict[str, ClassMetrics] = {}
    for key, maps, values in _maps(arrays, structures):
        measured = case_metrics(
            *maps, reference.spacing_mm, values, settings.convention, settings.tolerance_mm
        )
        metrics |= {key or str(value): one for value, one in measured.items()}
    return CaseRecord(pair.name, {one.key: metrics[one.key] for one in structures}, *labels, white)


class PairRead(NamedTuple):
    """Label maps on one grid that count their classes alike."""

    prediction: Volume
    reference: Volume
    white: White | None
    """How 255 in the reference was read as class 1, if it was."""


def read_pair(pair: Pair, settings: Settings) -> PairRead:
    """Read prediction and reference, checked to be label maps on one grid.

    Both hold background where nobody labelled the reference.

    Raises:
        As `measure`.
    """
    image = pair.images[0] if pair.images else None
    prediction, reference = read_label_pair(pair.prediction, pair.reference, image)
    prediction = prediction.on_grid(reference) or prediction
    difference = same_grid(prediction, reference)
    if difference:
        raise GeometryError(
            f"Case {pair.name}: {pair.prediction} and {pair.reference} lie on different grids: "
            f"{difference}. {_affines(prediction, reference)}Write the prediction on the "
            "reference's own grid (with nearest neighbour)."
        )
    prediction = _renumbered(prediction, pair.prediction_numbers)
    white = _white(reference, settings)
    if white:
        reference = reference.with_array((reference.array > 127).astype(np.uint8))
    dataset, ignore = settings.dataset, settings.ignore
    if dataset is not None:
        raise_first(label_problems(dataset, reference, reference))
        reference = reference.with_array(dataset.class_indices(reference.array))
        ignore = None if dataset.ignore is None else IGNORED
    if ignore is not None:
        ignored = reference.array == ignore
        prediction, reference = (
            volume.with_array(np.where(ignored | (volume.array == ignore), 0, volume.array))
            for volume in (prediction, reference)
        )
    return PairRead(prediction, _renumbered(reference, pair.reference_numbers), white)


def _renumbered(volume: Volume, numbers: Mapping[int, int]) -> Volume:
    """Give labels other numbers; one that `numbers` does not know stays, if its place is free."""
    if not numbers:
        return volume
    values = sorted(_values_in(volume))
    if strange := [v for v in values if v not in numbers and v in numbers.values()]:
        known = ", ".join(map(str, sorted(numbers)))
        raise DataError(
            f"{volume.name}: it holds the labels {', '.join(map(str, strange))}, which its names "
            f"do not list (they list {known}). Give the names that belong to it with --labels."
        )
    table = np.arange(values[-1] + 1)
    table[[v for v in numbers if v <= values[-1]]] = [
        n for v, n in numbers.items() if v <= values[-1]
    ]
    return volume.with_array(smallest_unsigned(table[volume.array]))


def _white(reference: Volume, settings: Settings) -> White | None:
    """How a black-and-white mask is one, where class 1 is the only one; None if it is none."""
    known = settings.dataset.values if settings.dataset else settings.foreground
    if not (settings.white or settings.foreground == {1}) or 255 in {*known, settings.ignore}:
        return None
    values, counts = np.unique(reference.array, return_counts=True)
    pixels = Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    if set(pixels) - {0} == {255}:
        return "exact"
    return "soft" if has_soft_edges(pixels) else None


def gather(
    records: Sequence[CaseRecord],
    pairs: Sequence[Pair],
    settings: Settings,
    predictions: str,
    references: str,
    left_out: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
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
        notes=notes,
        pixels_as_mm=not all(pair.tells_space for pair in pairs),
    )


LEAVE_OUT_255 = (
    "If 255 marks what nobody labelled, leave it out of the figures: --ignore 255 (in Python: "
    "Question(ignore=255); of the server: ?ignore=255)."
)
_CLASS_NOT_255 = "Store the number of the class that 255 stands for in the prediction instead."


def _found(
    records: Sequence[CaseRecord], predictions: str, references: str
) -> tuple[Structure, ...]:
    values = sorted({int(key) for record in records for key in record.metrics})
    if not values:
        raise DataError(
            f"{predictions} and {references}: every voxel of every file is 0 (background); there "
            "is no structure to measure."
        )
    if 255 in values and not any(255 in record.predicted for record in records):
        held = [record.name for record in records if 255 in record.labelled]
        if held and values != [255]:
            raise DataError(
                f"{references}: references hold the value 255 (case {held[0]}"
                f"{f' and {len(held) - 1} more' if held[1:] else ''}), and no prediction does. "
                f"{LEAVE_OUT_255} If it is a class that the predictions miss, name it with "
                "--labels."
            )
    if values == [1, 255]:
        raise DataError(
            f"{predictions} and {references}: one of them has the label 1 and the other 255, as "
            "black-and-white masks do. Store 1 in both."
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


def _labels_in(volume: Volume, settings: Settings, remedy_of_255: str) -> frozenset[int]:
    values = _values_in(volume)
    _check_listed(volume, values, settings, remedy_of_255)
    return values


def _values_in(volume: Volume) -> frozenset[int]:
    highest = int(volume.array.max())
    seen = np.zeros(min(highest, _HIGHEST_LABEL) + 1, np.bool_)
    if highest <= _HIGHEST_LABEL:
        seen[volume.array] = True  # much faster than sorting the voxels
    values: frozenset[int] = frozenset(np.flatnonzero(seen).tolist())
    if highest > _HIGHEST_LABEL or len(values) > _MOST_LABELS:
        raise DataError(
            f"{volume.name}: this looks like an image, not like a label map: its values go up to "
            f"{highest}, expected at most {_MOST_LABELS} different labels. Check which file was "
            "given (masks in colours need their data set's folder as the reference)."
        )
    return values


def _check_listed(
    volume: Volume, values: frozenset[int], settings: Settings, remedy_of_255: str
) -> None:
    if settings.structures is None:
        return
    listed = {value: one.name for one in settings.structures for value in one.values}
    unknown = sorted(value for value in values if value and value not in listed)
    if unknown:
        names = ", ".join(f"{value} {name}" for value, name in sorted(listed.items()))
        hint = ""
        if unknown == [255]:
            hint = (
                " 255 usually stands for class 1: store 1 instead."
                if values <= {0, 255} and len(listed) == 1
                else f" {remedy_of_255}"
            )
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
        return replace(record, metrics=dict(record.metrics))
    except TransUNetError as error:
        known = (
            kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__
        )
        return next(known), str(error)

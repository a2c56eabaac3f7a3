"""Files to records: read each pair, check that it can be compared, measure it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from transunet.data.cases import IGNORED, DataSet, label_problems, raise_first
from transunet.data.formats import read_label_pair, smallest_unsigned
from transunet.data.layouts.masks import has_soft_edges
from transunet.data.processes import Progress, spread
from transunet.data.volume import Volume, same_grid
from transunet.errors import ConfigError, DataError, GeometryError
from transunet.evaluation.metrics import Convention, case_metrics
from transunet.evaluation.pairs import Pair
from transunet.evaluation.records import CaseRecord, Evaluation, Structure, White, complete

_MOST_LABELS = 256
"""More different values than this, and it is an image rather than a label map."""
_HIGHEST_LABEL = 65_535

LEAVE_OUT_255 = (
    "If 255 marks what nobody labelled, leave it out of the figures: --ignore 255 (in Python: "
    "EvaluationRequest(ignore=255); of the server: ?ignore=255)."
)
_CLASS_NOT_255 = "Store the number of the class that 255 stands for in the prediction instead."


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
        return frozenset(value for s in self.structures or () for value in s.values)


def measure_all(
    pairs: Sequence[Pair],
    settings: Settings,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[CaseRecord]:
    """Measure the pairs, in their order, with so many processes.

    Raises:
        ConfigError: for fewer than one worker, or a format that is not known.
        DataError: when a file is damaged or no label map, or has labels that are not listed.
        GeometryError: when prediction and reference lie on different grids.
    """
    if workers < 1:
        raise ConfigError(f"At least one process is needed, not {workers}.")
    if settings.dataset is not None:  # what the processes need not be sent
        settings = replace(settings, dataset=replace(settings.dataset, cases=(), notes=()))
    return spread(partial(measure, settings=settings), pairs, workers, progress)


def measure(pair: Pair, settings: Settings) -> CaseRecord:
    """Read one pair and measure it; raises what `measure_all` does."""
    prediction, reference, white = read_pair(pair, settings)
    predicted = _listed_labels(prediction, settings, _CLASS_NOT_255)
    labelled = _listed_labels(reference, settings, LEAVE_OUT_255)
    present = sorted((predicted | labelled) - {0})
    structures = settings.structures or [Structure((value,), "") for value in present]
    metrics_of = partial(
        case_metrics,
        spacing_mm=reference.spacing_mm,
        convention=settings.convention,
        tolerance_mm=settings.tolerance_mm,
        voxel_ml=reference.voxel_ml,
    )
    maps = prediction.array[0], reference.array[0]
    single = [structure.values[0] for structure in structures if len(structure.values) == 1]
    metrics = {str(value): figures for value, figures in metrics_of(*maps, classes=single).items()}
    for region in structures:
        if len(region.values) > 1:
            masks = (np.isin(labels, region.values).view(np.uint8) for labels in maps)
            metrics[region.key] = metrics_of(*masks, classes=[1])[1]
    metrics = {structure.key: metrics[structure.key] for structure in structures}
    return CaseRecord(pair.name, metrics, predicted, labelled, white)


def read_pair(pair: Pair, settings: Settings) -> tuple[Volume, Volume, White | None]:
    """Read prediction and reference, checked to be label maps on one grid.

    Both count their classes alike, and hold background where nobody labelled the reference. The
    third says how 255 in the reference was read as class 1, if it was. Raises what `measure` does.
    """
    image = pair.images[0] if pair.images else None
    prediction, reference = read_label_pair(pair.prediction, pair.reference, image)
    prediction = prediction.on_grid(reference) or prediction
    difference = same_grid(prediction, reference)
    if difference:
        affines = (
            f"Affine of the prediction: {np.round(prediction.affine, 4).tolist()}, "
            f"of the reference: {np.round(reference.affine, 4).tolist()}. "
        )
        same_shape = prediction.spatial_shape == reference.spatial_shape
        raise GeometryError(
            f"Case {pair.name}: {pair.prediction} and {pair.reference} lie on different grids: "
            f"{difference}. {affines if same_shape else ''}Write the prediction on the "
            "reference's own grid (with nearest neighbour)."
        )
    prediction = renumbered(prediction, pair.prediction_numbers)
    white = white_mask(reference, settings)
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
    return prediction, renumbered(reference, pair.reference_numbers), white


def renumbered(volume: Volume, numbers: Mapping[int, int]) -> Volume:
    """Give labels other numbers; one that `numbers` does not know stays, if its place is free."""
    if not numbers:
        return volume
    values = sorted(values_in(volume))
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


def white_mask(reference: Volume, settings: Settings) -> White | None:
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
    structures = settings.structures
    if not structures:
        values = sorted({int(key) for record in records for key in record.metrics})
        where = f"{predictions} and {references}"
        if not values:
            raise DataError(
                f"{where}: every voxel of every file is 0 (background); there is no structure to "
                "measure."
            )
        held = [record.name for record in records if 255 in record.labelled]
        if held and values != [255] and not any(255 in record.predicted for record in records):
            more = f" and {len(held) - 1} more" if held[1:] else ""
            raise DataError(
                f"{references}: references hold the value 255 (case {held[0]}{more}), and no "
                f"prediction does. {LEAVE_OUT_255} If it is a class that the predictions miss, "
                "name it with --labels."
            )
        if values == [1, 255]:
            raise DataError(
                f"{where}: one of them has the label 1 and the other 255, as black-and-white masks "
                "do. Store 1 in both."
            )
        structures = tuple(Structure((value,), f"label {value}") for value in values)
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


def values_in(volume: Volume) -> frozenset[int]:
    """Return the values that occur in a label map; a `DataError` for what looks like an image."""
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


def _listed_labels(volume: Volume, settings: Settings, remedy_of_255: str) -> frozenset[int]:
    """The values of a label map; where names were given, each must have one."""
    values = values_in(volume)
    listed = {value: s.name for s in settings.structures or () for value in s.values}
    unknown = sorted(value for value in values if value and value not in listed)
    if settings.structures is None or not unknown:
        return values
    names = ", ".join(f"{value} {name}" for value, name in sorted(listed.items()))
    hint = ""
    if unknown == [255]:
        class_1 = values <= {0, 255} and len(listed) == 1
        hint = " 255 usually stands for class 1: store 1 instead." if class_1 else ""
        hint = hint or f" {remedy_of_255}"
    raise DataError(
        f"{volume.name}: label values that have no name: {', '.join(map(str, unknown[:8]))}; "
        f"expected 0 background, {names}. Give the labels that belong to these files.{hint}"
    )

"""Which references look wrong: those that predictions of networks that never saw them contradict.

A structure of a case is the more suspect, the farther its Dice lies below the usual one of that
structure, in units of the structure's own spread. On references that were corrupted on purpose
(`benchmarks/suspect.py`) nothing ranked them better: not HD95, not volumes, nor how sure the
network is where it contradicts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from transunet.evaluation.evaluate import EvaluationResult
from transunet.evaluation.measure import read_pair
from transunet.evaluation.metrics import dice_of_masks
from transunet.evaluation.pictures import save_worst_slice
from transunet.evaluation.records import Structure
from transunet.files import atomic_path, write_rows
from transunet.optional import require

_LEAST_SPREAD = 0.02
"""Of Dice: where nearly all cases agree alike, a hair below them is no suspicion."""
_TO_DEVIATION = 1.4826
"""Times the median absolute deviation is the standard deviation of normal values."""
_BETTER = 0.1
"""So much higher must the Dice of another explanation be to be told."""
_ALIKE = 1.25
"""Volumes up to so many times the other one are alike."""


@dataclass(frozen=True)
class Suspect:
    """One structure of one case, and how far prediction and reference disagree on it."""

    case: str
    structure: Structure
    spreads_below: float
    """How far its Dice lies below the usual one, in spreads of that structure."""
    dice: float
    usual_dice: float
    """The structure's median over the cases."""
    hd95_mm: float
    prediction_ml: float
    reference_ml: float


def rank_suspects(result: EvaluationResult) -> list[Suspect]:
    """Return every structure that a prediction or a reference has, the most suspect first."""
    evaluation = result.evaluation
    ranked = []
    for structure, column in zip(evaluation.structures, evaluation.figures("dice").T, strict=True):
        counted = column[np.isfinite(column)]
        if not counted.size:
            continue
        usual = float(np.median(counted))
        spread = max(_TO_DEVIATION * float(np.median(abs(counted - usual))), _LEAST_SPREAD)
        for case, dice in zip(evaluation.cases, column.tolist(), strict=True):
            if isfinite(dice):
                measured = case.metrics[structure.key]
                ranked.append(
                    Suspect(
                        case=case.name,
                        structure=structure,
                        spreads_below=(usual - dice) / spread,
                        dice=dice,
                        usual_dice=usual,
                        hd95_mm=measured.hd95,
                        prediction_ml=measured.prediction_ml,
                        reference_ml=measured.reference_ml,
                    )
                )
    return sorted(ranked, key=lambda suspect: (-suspect.spreads_below, suspect.case))


def worst_of_each_case(suspects: Iterable[Suspect]) -> list[Suspect]:
    """Return the first one of each case: what a person looks at."""
    firsts: dict[str, Suspect] = {}
    for suspect in suspects:
        firsts.setdefault(suspect.case, suspect)
    return list(firsts.values())


def reasons(result: EvaluationResult, suspects: Iterable[Suspect]) -> dict[Suspect, str]:
    """Return in words what is wrong with each, as far as a simple explanation fits."""
    pairs = {pair.name: pair for pair in result.pairs}
    told = {}
    for suspect in suspects:
        prediction, reference, _ = read_pair(pairs[suspect.case], result.settings)
        others = [s for s in result.evaluation.structures if s != suspect.structure]
        maps = prediction.array[0], reference.array[0]
        told[suspect] = _reason(suspect, *maps, np.asarray(reference.spacing_mm), others)
    return told


def _reason(
    suspect: Suspect,
    prediction: NDArray[np.integer],
    reference: NDArray[np.integer],
    spacing_mm: NDArray[np.float64],
    others: Sequence[Structure],
) -> str:
    predicted, real = (
        np.isin(labels, suspect.structure.values) for labels in (prediction, reference)
    )
    if suspect.spreads_below <= 1:
        return "agrees as usual"
    if not real.any():
        return f"not in the reference, predicted with {suspect.prediction_ml:.3g} ml"
    for other in others:
        dice = dice_of_masks(np.isin(prediction, other.values), real)
        if dice > suspect.dice + _BETTER:
            return f"lies where {other.name} is predicted (Dice {dice:.2f}): labels swapped?"
    if not predicted.any():
        return f"in the reference with {suspect.reference_ml:.3g} ml, not predicted"
    for axes in ((1, 2), (0, 2), (0, 1)):
        has = np.asarray(real.any(axes))
        gaps = np.asarray(predicted.any(axes)) & ~has
        gaps[: has.argmax()] = gaps[has.size - has[::-1].argmax() :] = False
        kept = np.expand_dims(~gaps, axes)
        if gaps.any() and dice_of_masks(predicted & kept, real) > suspect.dice + _BETTER:
            return f"empty slices in its midst: {np.count_nonzero(gaps)}"
    centres = (ndimage.center_of_mass(mask) for mask in (predicted, real))
    offset = np.subtract(*centres).round().astype(int)
    moved = ndimage.shift(real, offset, order=0)
    dice = dice_of_masks(predicted, moved)
    if offset.any() and dice > suspect.dice + _BETTER:
        distance = np.linalg.norm(offset * spacing_mm)
        return f"fits when moved by {distance:.1f} mm (Dice {dice:.2f})"
    times = suspect.reference_ml / suspect.prediction_ml
    if max(times, 1 / times) > _ALIKE:
        return f"{times:.2g} times as large as predicted"
    return "another outline"


def write_suspects(
    result: EvaluationResult,
    suspects: Sequence[Suspect],
    told: Mapping[Suspect, str],
    folder: Path,
) -> list[Path]:
    """Write suspects.csv with all of them, and pictures/ of those that a reason is told of.

    Args:
        result: that they are of.
        suspects: from `rank_suspects`.
        told: from `reasons`, of some of them.
        folder: made where it is missing.

    Returns:
        The table, and the folder of pictures, which are numbered in the order of `told`.

    Raises:
        ConfigError: when the folder cannot be written to, or without matplotlib.
    """
    require("matplotlib", "train")
    pairs = {pair.name: pair for pair in result.pairs}
    table = folder / "suspects.csv"
    columns = "rank case structure dice usual_dice spreads_below hd95_mm reference_volume_ml"
    rows: list[Sequence[object]] = [
        [*columns.split(), "prediction_volume_ml", "reason", "reference", "prediction"]
    ]
    for rank, suspect in enumerate(suspects, start=1):
        pair = pairs[suspect.case]
        figures = (suspect.dice, suspect.usual_dice, suspect.spreads_below, suspect.hd95_mm)
        volumes = (suspect.reference_ml, suspect.prediction_ml)
        rows.append(
            [
                *(rank, suspect.case, suspect.structure.name),
                *(round(figure, 4) for figure in (*figures, *volumes)),
                told.get(suspect, ""),
                *(pair.reference, pair.prediction),
            ]
        )
    write_rows(rows, table)
    pictures = folder / "pictures"
    with atomic_path(pictures) as scratch:  # those of an earlier list go
        scratch.mkdir()
        for number, (suspect, reason) in enumerate(told.items(), start=1):
            picture = scratch / f"{number:02d}-{suspect.case.replace('/', '_')}.png"
            title = f"{suspect.case}, {suspect.structure.name}: {reason}"
            save_worst_slice(
                pairs[suspect.case], result.settings, suspect.structure, picture, title
            )
    return [table, pictures]

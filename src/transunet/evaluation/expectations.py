"""What a bundle expected of its own label maps, against what a reference shows of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path

import numpy as np
from pydantic import BaseModel, FiniteFloat, TypeAdapter, ValidationError

from transunet.evaluation.bootstrap import Values
from transunet.evaluation.metrics import BAD_BELOW
from transunet.evaluation.records import Evaluation


class Expectation(BaseModel):
    """What `statistics.json` of a prediction tells of one structure; None where it is not known."""

    look: bool | None = None
    expected_dice: FiniteFloat | None = None
    expected_within: FiniteFloat | None = None
    volume_interval_ml: tuple[FiniteFloat, FiniteFloat] | None = None


_STATISTICS = TypeAdapter(dict[str, dict[str, Expectation]])


@dataclass(frozen=True)
class JudgedPrediction:
    """One structure of one case: what was expected of it, and what is true."""

    case: str
    structure: str
    expected: Expectation
    dice: float
    """NaN where neither label map has it."""
    reference_ml: float


@dataclass(frozen=True)
class JudgedExpectations:
    """Expected against true, over all cases and structures; NaN where there is nothing to judge."""

    predictions: tuple[JudgedPrediction, ...]
    compared: int
    """How many have an expected and a true Dice."""
    mean_error: float
    """Of the expected Dice, without sign."""
    dice_coverage: float
    """Share of the true Dice within their interval."""
    volume_coverage: float
    """Share of the true volumes within their interval."""
    bad: int
    """How many have a Dice below `BAD_BELOW`."""
    bad_flagged: int
    """Of how many of these a person was asked to look."""
    good: int
    good_flagged: int
    """The false alarms."""

    @property
    def sentences(self) -> Sequence[str]:
        """What came of it, in words."""
        told = []
        if self.compared:
            told.append(
                f"Expected Dice is off by {self.mean_error:.3f} on average ({self.compared} "
                f"structures of cases); {100 * self.dice_coverage:.0f} % of the true Dice lie "
                "within its interval."
            )
        alarms = f" ({100 * self.good_flagged / self.good:.0f} %)" if self.good else ""
        told.append(
            f"Below Dice {BAD_BELOW:g} are {self.bad}, of which it asked to look at "
            f"{self.bad_flagged}; of the {self.good} others at {self.good_flagged}{alarms}."
        )
        if not isnan(self.volume_coverage):
            told.append(
                f"{100 * self.volume_coverage:.0f} % of the true volumes lie in their interval."
            )
        return told


def judge_expectations(evaluation: Evaluation) -> JudgedExpectations | None:
    """Hold what `statistics.json` beside the label maps expects against an evaluation of them.

    Args:
        evaluation: of label maps that `transunet predict` wrote, by the convention `honest`.

    Returns:
        None where there is no such file, or it tells of no measured structure what to expect.
    """
    if evaluation.convention != "honest":  # of whose Dice it speaks
        return None
    try:
        content = (Path(evaluation.predictions) / "statistics.json").read_bytes()
        told: Mapping[str, Mapping[str, Expectation]] = _STATISTICS.validate_json(content)
    except (OSError, ValidationError):  # or another program's
        return None
    predictions = []
    for case in evaluation.cases:
        for structure in evaluation.structures:
            known = told.get(case.name, {}).get(structure.name)
            if known is not None and known.look is not None:
                measured = case.metrics[structure.key]
                dice, reference_ml = measured.dice, measured.reference_ml
                predictions.append(
                    JudgedPrediction(case.name, structure.name, known, dice, reference_ml)
                )
    return _judged(predictions) if predictions else None


def _judged(predictions: Sequence[JudgedPrediction]) -> JudgedExpectations:
    expected = _array([each.expected.expected_dice for each in predictions])
    within = _array([each.expected.expected_within for each in predictions])
    dice = _array([each.dice for each in predictions])
    looks = np.array([each.expected.look for each in predictions])
    errors = np.abs(expected - dice)
    known = np.isfinite(errors)
    in_interval = [
        ends[0] <= each.reference_ml <= ends[1]
        for each in predictions
        if (ends := each.expected.volume_interval_ml)
    ]
    bad, good = dice < BAD_BELOW, dice >= BAD_BELOW  # NaN is neither
    return JudgedExpectations(
        predictions=tuple(predictions),
        compared=int(known.sum()),
        mean_error=float(errors[known].mean()) if known.any() else nan,
        dice_coverage=float((errors <= within)[known].mean()) if known.any() else nan,
        volume_coverage=float(np.mean(in_interval)) if in_interval else nan,
        bad=int(bad.sum()),
        bad_flagged=int((bad & looks).sum()),
        good=int(good.sum()),
        good_flagged=int((good & looks).sum()),
    )


def _array(values: Sequence[float | None]) -> Values:
    return np.array([nan if value is None else value for value in values], np.float64)

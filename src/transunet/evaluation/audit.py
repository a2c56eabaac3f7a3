"""One set of predictions scored in three conventions, and what each rule adds to a mean.

The authors' 2D code, this package, nnU-Net v2: their means of the same label maps differ by what an
empty structure scores and by the unit of distances.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np

from transunet.evaluation.bootstrap import mean_foreground, nanmean
from transunet.evaluation.records import Evaluation

CONVENTIONS = (
    "Authors': the reference TransUNet's evaluation (--convention official). Ours: as everywhere "
    "in this report. nnU-Net v2: a structure that is empty in both is NaN and left out of the "
    "mean, one that is empty in one of them scores Dice 0; it has no HD95, and no mean over "
    "structures where one of them is in no case."
)


@dataclass(frozen=True)
class ChosenEpoch:
    """How the network that made the label maps was chosen, as its training's log tells it."""

    run: str
    validations: int
    """How many networks it was chosen from; 0 for the last one, which nothing chose."""
    dice: float
    """Mean Dice of this network on the cases that it was chosen by."""
    last_dice: float
    """The same of the last network."""
    measured: int
    """How many cases are measured here."""
    chosen_by: tuple[str, ...]
    """Those of them by which it was chosen."""
    trained_on: tuple[str, ...]
    """Those of them on which it was trained."""

    @property
    def text(self) -> str:
        """Whether the cases measured here had a part in it."""
        told = []
        if self.trained_on:
            told.append(f"trained on {len(self.trained_on)} of the {self.measured} cases")
        if self.chosen_by:
            told.append(
                f"its epoch was chosen by {len(self.chosen_by)} of the {self.measured} cases, as "
                f"the best of {self.validations} (mean Dice {self.dice:.3f}; the last epoch's is "
                f"{self.last_dice:.3f})"
            )
        if told:
            return f"The figures flatter the network of {self.run}: {'; '.join(told)}."
        return (
            f"The network of {self.run} was neither trained on any of the {self.measured} cases, "
            "nor was its epoch chosen by them."
        )


@dataclass(frozen=True)
class AuditedStructure:
    """Means over the cases, or the mean of these over the structures; NaN where there is none."""

    name: str
    dice_authors: float
    dice_ours: float
    dice_nnunet: float
    hd95_authors_voxels: float
    hd95_ours_mm: float


@dataclass(frozen=True)
class AuthorsRule:
    """A rule of the authors', and what it adds to their means, as against ours."""

    rule: str
    count: int
    """How many structures of cases it decides on."""
    measured: int
    """How many there are."""
    dice: float
    hd95_mm: float

    @property
    def text(self) -> str:
        """What it decides on, and how often."""
        return f"{self.rule} ({self.count} of {self.measured})"


@dataclass(frozen=True)
class Audit:
    """The same label maps by three conventions."""

    structures: Sequence[AuditedStructure]
    """The last one is the mean of the others."""
    rules: Sequence[AuthorsRule]
    """In the order in which they are replaced by ours; together they are the whole difference."""
    hd95_of_both: tuple[float, float]
    """Mean HD95, in voxels and in mm, of structures that are in prediction and reference."""
    chosen: Sequence[ChosenEpoch] = ()
    """Of each network that made the label maps; none where no log is known."""

    @property
    def sentences(self) -> Sequence[str]:
        """How much of the authors' means comes from which rule."""
        mean = self.structures[-1]
        false_positives, missed, absent = self.rules
        told = []
        if false_positives.count:
            told.append(
                f"{false_positives.dice:.3f} of the authors' mean Dice of {mean.dice_authors:.3f} "
                f"comes from {false_positives.text} that count as 1."
            )
        if absent.count:
            told.append(
                f"The authors' mean Dice is {-absent.dice:.3f} smaller because of {absent.text} "
                "that count as 0."
            )
        voxels, mm = self.hd95_of_both
        if not isnan(mm):
            told.append(f"HD95 is {voxels:.2f} voxels, {mm:.2f} mm, where a structure is in both.")
        for rule in (missed, false_positives):
            if rule.count:
                told.append(
                    f"The authors' mean HD95 is {-rule.hd95_mm:.2f} mm smaller because of "
                    f"{rule.text} that count as 0, not as the image's diagonal."
                )
        if not any(rule.count for rule in self.rules):
            told.append("No structure is empty: only the unit of HD95 differs.")
        told += [chosen.text for chosen in self.chosen]
        if not self.chosen:
            told.append(
                "Whether an epoch was chosen by these cases is not known: no training's log lies "
                "beside the bundle that made the label maps. Give one with --run RUN."
            )
        return told


def audit_of(ours: Evaluation, authors: Evaluation, chosen: Sequence[ChosenEpoch] = ()) -> Audit:
    """Compare the conventions.

    Args:
        ours: measured by the convention `honest`.
        authors: the same label maps by the convention `official`.
        chosen: how the networks that made them were chosen.
    """
    dice, hd95 = ours.figures("dice"), ours.figures("hd95")
    authors_dice, authors_hd95 = authors.figures("dice"), authors.figures("hd95")
    columns = [
        [*nanmean(values, 0).tolist(), mean_foreground(values)]
        for values in (authors_dice, dice, dice, authors_hd95, hd95)
    ]
    if np.isnan(columns[2]).any():
        columns[2][-1] = nan  # nnU-Net's mean of the structures is a plain one
    names = [*(structure.name for structure in ours.structures), "mean of structures"]

    predicted, present = ours.figures("prediction_ml") > 0, ours.figures("reference_ml") > 0
    both = predicted & present
    # From the authors' figures to ours; distances are in mm all the way.
    steps = [authors_dice, np.where(both, hd95, 0.0)]
    rules = []
    for rule, decided in (
        ("false positives on absent structures", predicted & ~present),
        ("missed structures", ~predicted & present),
        ("structures that are absent and not predicted", ~predicted & ~present),
    ):
        before = [mean_foreground(values) for values in steps]
        steps = [
            np.where(decided, replaced, values)
            for replaced, values in zip((dice, hd95), steps, strict=True)
        ]
        shares = [b - mean_foreground(values) for b, values in zip(before, steps, strict=True)]
        rules.append(AuthorsRule(rule, int(decided.sum()), decided.size, *shares))
    voxels, mm = (mean_foreground(np.where(both, values, nan)) for values in (authors_hd95, hd95))
    return Audit(
        [AuditedStructure(*row) for row in zip(names, *columns, strict=True)],
        rules,
        (voxels, mm),
        chosen,
    )

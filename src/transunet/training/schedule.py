"""How long training lasts, and the learning rate on the way. Imports no torch."""

from dataclasses import dataclass
from math import cos, pi
from typing import Literal

POLY_POWER = 0.9
EPOCHS, EPOCH_STEPS = 125, 250
"""Of 3D TransUNet's code, whose epochs are so many steps whatever the data."""


@dataclass(frozen=True)
class Budget:
    """When training ends: after so many steps or seconds, whichever comes first."""

    steps: int | None
    seconds: float | None = None

    def progress(self, step: float, seconds: float) -> float:
        """Return how much of the budget is spent, 0 to 1, after `step` steps and `seconds`."""
        of_steps = step / self.steps if self.steps else 0.0
        of_time = seconds / self.seconds if self.seconds else 0.0
        return min(max(of_steps, of_time), 1.0)

    def is_spent(self, step: int, seconds: float) -> bool:
        """Return whether training is over."""
        return self.progress(step, seconds) >= 1


def rate_at(
    schedule: Literal["poly", "cosine", "cosine_epochs"],
    budget: Budget,
    step: int,
    seconds: float,
    base: float,
    warmup: float,
) -> float:
    """Return the learning rate in force at `step`, begun after `seconds` of training.

    Args:
        schedule: "poly", the paper's base (1 - progress)^0.9; "cosine", a linear rise to `base`,
            then half a cosine to 0; or "cosine_epochs", `epoch_rate` with epochs of 250 steps, or
            of a 125th of the time where only time is limited.
        budget: when training ends.
        step: from 0.
        seconds: spent on training before the step.
        base: the largest rate.
        warmup: the share of training in which a cosine's rate rises.
    """
    if schedule == "cosine_epochs":
        epochs = max(budget.steps // EPOCH_STEPS, 1) if budget.steps else EPOCHS
        epoch = int(budget.progress(step, seconds) * epochs + 1e-6)  # never just below a whole one
        return epoch_rate(min(epoch, epochs - 1), base, epochs, round(warmup * epochs))
    if schedule == "poly":
        # fidelity: the reference sets the rate after a step, from that step's number, so that the
        # steps 0 and 1 both use `base`.
        progress = budget.progress(max(step - 1, 0), seconds)
        return float(base * (1 - progress) ** POLY_POWER)
    # In the middle of the step: neither the first nor the last has a rate of 0.
    progress = budget.progress(step + 0.5, seconds)
    if progress < warmup:
        return base * progress / warmup
    return 0.5 * base * (1 + cos(pi * (progress - warmup) / (1 - warmup)))


def epoch_rate(epoch: int, base: float, epochs: int = EPOCHS, warmup: int = 10) -> float:
    """Return the learning rate of 3D TransUNet's code in `epoch` (from 0): a rise, half a cosine.

    Args:
        epoch: below `epochs`.
        base: the largest rate.
        epochs: how many there are.
        warmup: how many of them the rate rises in.
    """
    if epoch < warmup:
        # fidelity: the rate is set at an epoch's end for the next, counted from that one, so that
        # the epochs 0 and 1 have the same and none has 0.
        return base * max(epoch, 1) / max(warmup - 1, 1)
    return 0.5 * base * (1 + cos(pi * (epoch - warmup) / (epochs - warmup)))

"""The learning rate as a function of how far training has come. Imports no torch."""

from math import cos, pi

POLY_POWER = 0.9


def poly_rate(step: int, total: int, base: float) -> float:
    """Return the paper's learning rate in force at `step` (from 0) of `total`.

    The reference sets the rate after a step, from that step's number: the steps 0 and 1 both use
    `base`.
    """
    # fidelity: one step late, as the reference.
    return poly(max(step - 1, 0) / total, base)


def poly(progress: float, base: float) -> float:
    """Return base (1 - progress)^0.9 for a progress in [0, 1]."""
    return float(base * (1 - min(progress, 1.0)) ** POLY_POWER)


def warm_cosine(progress: float, base: float, warmup: float) -> float:
    """Return the rate of a linear rise to `base` in the share `warmup`, then half a cosine to 0."""
    if progress < warmup:
        return base * progress / warmup
    return 0.5 * base * (1 + cos(pi * (min(progress, 1.0) - warmup) / (1 - warmup)))

"""What training does to an image and its label together, before resizing.

Every augmentation is a function of the image (C, H, W), the label (H, W) and a random generator,
and returns both.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Augmentation = Callable[
    [NDArray[np.float32], NDArray[Any], np.random.Generator],
    tuple[NDArray[np.float32], NDArray[Any]],
]


def paper(
    image: NDArray[np.float32], label: NDArray[Any], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Augment as the paper does, at the slice's own size.

    With probability 1/2 a random quarter-turn and flip; else with probability 1/2 a rotation by a
    whole number of degrees in [-20, 20).

    Args:
        image: (C, H, W) float32.
        label: (H, W), any integers.
        rng: the only source of randomness.

    Returns:
        Image and label; a quarter-turn swaps height and width.
    """
    if rng.random() < 0.5:
        return turn_and_flip(image, label, int(rng.integers(4)), int(rng.integers(2)))
    if rng.random() < 0.5:
        return rotate(image, label, int(rng.integers(-20, 20)))
    return image, label


def turn_and_flip(
    image: NDArray[np.float32], label: NDArray[Any], quarters: int, axis: int
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Turn by `quarters` quarter-turns, then flip rows (`axis` 0) or columns (1)."""
    turned = np.rot90(image, quarters, axes=(-2, -1)), np.rot90(label, quarters, axes=(-2, -1))
    return np.flip(turned[0], axis - 2), np.flip(turned[1], axis - 2)


def rotate(
    image: NDArray[np.float32], label: NDArray[Any], degrees: float
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Rotate about the middle, picking the nearest pixel, to the same size; corners become 0."""
    # Imported here: scipy.ndimage takes a tenth of a second, and only augmenting needs it.
    from scipy.ndimage import rotate as turned

    # fidelity: 0 also where the darkest intensity is another, as the reference fills corners.
    how: dict[str, Any] = {"axes": (-2, -1), "order": 0, "reshape": False}
    return turned(image, degrees, **how), turned(label, degrees, **how)

"""From logits to labels and probabilities: in numpy, or in torch where torch computed them."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from transunet.data.resize import resize

if TYPE_CHECKING:
    from transunet.backends.protocol import Logits


def enlarge(logits: "Logits", size: tuple[int, int]) -> "Logits":
    """Resize to `size` with linear interpolation that aligns the corners."""
    if tuple(logits.shape[2:]) == size:
        return logits
    if isinstance(logits, np.ndarray):
        return resize(logits, size, order=1, edge="kept")
    from transunet.models.transunet2d.decoder import upsample

    return upsample(logits, size)


def softmax(logits: "Logits") -> "Logits":
    """Return the probabilities, (B, classes, *spatial)."""
    if not isinstance(logits, np.ndarray):
        return logits.softmax(dim=1)
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), dtype=np.float32)


def argmax(logits: "Logits") -> NDArray[Any]:
    """Return the class with the largest value, (B, *spatial)."""
    if not isinstance(logits, np.ndarray):
        return np.asarray(logits.argmax(dim=1).cpu().numpy())
    best, labels = logits[:, 0].copy(), np.zeros(logits[:, 0].shape, np.int64)
    for index in range(1, logits.shape[1]):  # several times as fast as numpy's own argmax
        better = logits[:, index] > best
        best[better], labels[better] = logits[:, index][better], index
    return labels


def as_array(values: "Logits") -> NDArray[np.float32]:
    """Bring a tensor to the CPU."""
    return values if isinstance(values, np.ndarray) else np.asarray(values.cpu().numpy())


def entropy(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the normalised entropy, (B, H, W): 0 for a certain class, 1 for all alike.

    Args:
        probabilities: (B, classes, H, W), summing to 1 over the classes.
    """
    total = np.zeros(probabilities[:, 0].shape, np.float32)
    for index in range(probabilities.shape[1]):
        p = probabilities[:, index]
        total -= p * np.log(np.maximum(p, np.finfo(np.float32).tiny))
    most = np.float32(np.log(max(probabilities.shape[1], 2)))
    return np.asarray(np.clip(total / most, 0, 1), dtype=np.float32)

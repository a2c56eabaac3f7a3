"""From logits to labels and probabilities: in numpy, or in torch where torch computed them.

Of classes, one is true of each pixel: a softmax, and the largest. Regions overlap: a sigmoid each,
and those that are likelier than not are written one over the other.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from transunet.data.resize import resize

if TYPE_CHECKING:
    from transunet.backends.protocol import Logits


def pieces(logits: "Logits") -> "Iterator[Logits]":
    """Yield one sample (1, classes, *spatial) after the other, and of a device all at once.

    What is made of one stays in the processor's cache; a device has less to start.
    """
    if isinstance(logits, np.ndarray):
        yield from (logits[index : index + 1] for index in range(len(logits)))
    else:
        yield logits


def enlarge(logits: "Logits", size: tuple[int, int]) -> "Logits":
    """Resize to `size` with linear interpolation that aligns the corners."""
    if tuple(logits.shape[2:]) == size:
        return logits
    if isinstance(logits, np.ndarray):
        return resize(logits, size, order=1, edge="kept")
    from transunet.models.transunet2d.decoder import upsample

    return upsample(logits, size)


def probabilities_of(logits: "Logits", regions: bool = False) -> "Logits":
    """Return the probabilities of classes, or of each region, (B, classes, *spatial)."""
    if not isinstance(logits, np.ndarray):
        return logits.sigmoid() if regions else logits.softmax(dim=1)
    if regions:
        return np.asarray(expit(logits), dtype=np.float32)
    raised = logits - logits.max(axis=1, keepdims=True)
    np.exp(raised, out=raised)  # in place: fresh memory costs more than the exponentials
    raised /= raised.sum(axis=1, keepdims=True)
    return np.asarray(raised, dtype=np.float32)


def logits_of(probabilities: "Logits", regions: bool = False) -> "Logits":
    """Return logits that have these probabilities, as far as single precision tells them apart."""
    smallest = float(np.finfo(np.float32).tiny)  # a probability of 0 would have no logarithm
    edge = float(np.finfo(np.float32).eps)
    if not isinstance(probabilities, np.ndarray):
        if not regions:
            return probabilities.clamp(min=smallest).log()
        return probabilities.clamp(edge, 1 - edge).logit()
    if not regions:
        return np.asarray(np.log(np.maximum(probabilities, smallest)), dtype=np.float32)
    return np.asarray(logit(np.clip(probabilities, edge, 1 - edge)), dtype=np.float32)


def tempered(
    probabilities: NDArray[np.float32], temperature: float, axis: int = 1
) -> NDArray[np.float32]:
    """Raise to 1 / temperature and normalise over `axis`: the order of the classes stays."""
    if temperature == 1:
        return probabilities
    raised = np.maximum(probabilities, np.finfo(np.float32).tiny) ** np.float32(1 / temperature)
    return np.asarray(raised / raised.sum(axis=axis, keepdims=True), dtype=np.float32)


def argmax(logits: "Logits") -> NDArray[Any]:
    """Return the class with the largest value, (B, *spatial)."""
    if not isinstance(logits, np.ndarray) and lies_on_device(logits):
        return _fetched(logits.argmax(dim=1), logits.shape[1] - 1)
    logits = as_array(logits)  # on a CPU torch's own argmax takes twenty times as long
    best = logits[:, 0].copy()
    labels = np.zeros(best.shape, label_type(logits.shape[1] - 1))
    for index in range(1, logits.shape[1]):  # many times as fast as numpy's own argmax
        better = logits[:, index] > best
        np.fmax(best, logits[:, index], out=best)
        np.maximum(labels, better * labels.dtype.type(index), out=labels)
    return labels


def _fetched(labels: Any, highest: int) -> NDArray[Any]:
    """Bring a tensor of labels to the CPU, in as few bytes as it needs."""
    small = labels.byte() if highest <= 255 else labels.int()
    return np.asarray(small.cpu().numpy(), dtype=label_type(highest))


def label_type(highest: int) -> type[np.unsignedinteger[Any]]:
    """Return the smallest dtype of label maps with labels up to `highest`."""
    return np.uint8 if highest <= 255 else np.uint16


def label_map_of(values: "Logits", regions: Sequence[int], threshold: float) -> NDArray[Any]:
    """Return the label map (B, *spatial): the largest class, or regions one over the other.

    Args:
        values: (B, classes or regions, *spatial), logits or probabilities.
        regions: the label that is written for each region, 0 where none is; () for classes.
        threshold: that values exceed where there is a region: 0 of logits, 0.5 of probabilities.
    """
    if not regions:
        return argmax(values)
    if not isinstance(values, np.ndarray):
        there = values.new_zeros(values[:, 0].shape)
        for index, label in enumerate(regions):
            there.masked_fill_(values[:, index] > threshold, label)
        return _fetched(there, max(regions))
    label_map = np.zeros(values[:, 0].shape, label_type(max(regions)))
    for index, label in enumerate(regions):
        label_map[values[:, index] > threshold] = label
    return label_map


def decided(values: "Logits", regions: bool, threshold: float) -> NDArray[Any]:
    """Return the class of each voxel, (B, *spatial); of regions whether it is in each, boolean.

    Args:
        values: (B, classes or regions, *spatial), logits or probabilities.
        regions: which of both they are of.
        threshold: that values exceed in a region: 0 of logits, 0.5 of probabilities.
    """
    return as_array(values) > threshold if regions else argmax(values)


def lies_on_device(values: "Logits") -> bool:
    """Whether they are a tensor that lies elsewhere than in main memory."""
    return not isinstance(values, np.ndarray) and values.device.type != "cpu"


def as_array(values: "Logits") -> NDArray[np.float32]:
    """Bring a tensor to the CPU."""
    return values if isinstance(values, np.ndarray) else np.asarray(values.cpu().numpy())


def zeros(shape: tuple[int, ...], like: "Logits") -> Any:
    """Return float32 zeros: an array, or a tensor where the tensor `like` lies."""
    return np.zeros(shape, np.float32) if isinstance(like, np.ndarray) else like.new_zeros(shape)


def concatenate(parts: "Sequence[Logits]") -> Any:
    """Join arrays, or tensors of one device, along their first axis."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    import torch

    return torch.cat(list(parts))  # type: ignore[arg-type]


def flip(values: "Logits", axes: Sequence[int]) -> "Logits":
    """Reverse an array or a tensor along `axes`."""
    over = tuple(axes)
    return np.flip(values, over) if isinstance(values, np.ndarray) else values.flip(over)


def entropy(probabilities: NDArray[np.float32], regions: bool = False) -> NDArray[np.float32]:
    """Return the normalised entropy, (B, H, W): 0 for a certain class, 1 for all alike.

    Of regions it is the mean of each region's own: 0 where all are certain, 1 where all are open.

    Args:
        probabilities: (B, classes, H, W), summing to 1 over the classes; or of regions, each by
            itself.
        regions: which of both they are.
    """
    if regions:
        pairs = np.stack([probabilities, 1 - probabilities], axis=1)  # (B, 2, regions, H, W)
        each = [entropy(pairs[:, :, index]) for index in range(probabilities.shape[1])]
        return np.asarray(np.mean(each, axis=0), dtype=np.float32)
    total = np.zeros(probabilities[:, 0].shape, np.float32)
    for index in range(probabilities.shape[1]):
        p = probabilities[:, index]
        total -= p * np.log(np.maximum(p, np.finfo(np.float32).tiny))
    most = np.float32(np.log(max(probabilities.shape[1], 2)))
    return np.asarray(np.clip(total / most, 0, 1), dtype=np.float32)

"""How far a network that was written for another runtime is from the model that it was made of."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from transunet.backends.protocol import Network
from transunet.backends.pytorch import TorchNetwork

if TYPE_CHECKING:
    from torch import nn

    from transunet.models.segmentation_network import SegmentationNetwork

FURTHEST: Mapping[str, float] = MappingProxyType(
    {"fp32": 1e-3, "bf16": 0.5, "fp16": 0.5, "int8": 1.0}
)
"""By precision, the largest difference of logits from the model's, as a share of their standard
deviation. Rounding alone comes to 1e-5 in fp32 with trained weights, to some 1e-4 with random ones;
1e-2 is usual in bf16 and fp16; of int8, whose model rounds as well, 0.2, in 3D 0.5: four of the
levels that the last layer's logits have. Other weights' lie 1.7 to 19 apart."""
_BATCH = 8


def compare(
    model: "nn.Module", network: Network, images: NDArray[np.float32]
) -> tuple[float, float]:
    """Return how far `network` is from `model` on images (N, C, *spatial), real ones or noise.

    Returns:
        The largest difference of the logits as a share of their standard deviation, and the share
        of pixels with the same label.
    """
    model = cast("SegmentationNetwork", model)  # or what is exported of one
    plain = TorchNetwork(model, next(model.parameters()).device)
    furthest, deviations, equal = 0.0, [], []
    for start in range(0, len(images), _BATCH):
        batch = np.ascontiguousarray(images[start : start + _BATCH], dtype=np.float32)
        expected, other = plain(batch).cpu().numpy(), network(batch)
        other = other if isinstance(other, np.ndarray) else other.cpu().numpy()
        # max() would pass over NaN.
        furthest = float(np.maximum(furthest, np.abs(other - expected).max()))
        deviations.append(float(expected.std()))
        if model.config.regions:
            same = ((other > 0) == (expected > 0)).all(axis=1)
        else:
            same = other.argmax(1) == expected.argmax(1)
        equal.append(same.reshape(len(batch), -1).mean(1))
    scale = max(float(np.mean(deviations)), float(np.finfo(np.float32).tiny))
    return furthest / scale, float(np.concatenate(equal).mean())


def noise(model: "SegmentationNetwork", count: int, size: tuple[int, ...]) -> NDArray[np.float32]:
    """Return `count` images (C, *size) of standard normal noise, always the same."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, model.config.in_channels, *size), dtype=np.float32)

"""What segments slices: images in, logits out, whatever computes them.

The predictor knows no more of a network than this, so that PyTorch, ONNX Runtime or several
networks at once stand behind the same call.
"""

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from transunet.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    Logits: TypeAlias = NDArray[np.float32] | Tensor
    """(B, classes, *spatial): an array, or a tensor left on the device that computed it."""


class PrecisionError(ConfigError):
    """A precision that was asked for and that this processor, or the bundle, does not have."""


class Network(Protocol):
    """Images (B, C, *spatial) float32 -> logits (B, classes, *spatial) of the same size.

    One whose `takes_tensors` is true has `upload`, which brings arrays to its device, and is called
    with tensors made of those.
    """

    @property
    def image_size(self) -> tuple[int, ...] | None:
        """Sides that samples are resized to first; None where any size will do."""

    @property
    def device(self) -> str:
        """Where it computes, such as "cpu" or "cuda:0"."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what its results depend on: architecture and weights."""

    def __call__(self, images: NDArray[np.float32]) -> "Logits":
        """Return the logits of `images`; of another batch size at each call."""


class Wrapped:
    """Base of a network that calls another one and passes on what that says of itself."""

    def __init__(self, network: Network) -> None:
        self.network = network

    @property
    def image_size(self) -> tuple[int, ...] | None:
        """The network's."""
        return self.network.image_size

    @property
    def device(self) -> str:
        """The network's."""
        return self.network.device

    @property
    def fingerprint(self) -> str:
        """The network's: how it is called is a setting of the run."""
        return self.network.fingerprint


def innermost(network: object) -> object:
    """Return what computes in the end, behind all that wraps it."""
    while isinstance(network, Wrapped):
        network = network.network
    return network


def takes_tensors(network: object) -> bool:
    """Whether `network` computes on a device of its own, and takes samples that lie there."""
    return bool(getattr(innermost(network), "takes_tensors", False))


def uploaded(network: object, images: NDArray[np.float32]) -> Any:
    """Return `images` as a tensor where `network` computes, if it takes such; else as they are."""
    computing: Any = innermost(network)
    return computing.upload(images) if takes_tensors(network) else images

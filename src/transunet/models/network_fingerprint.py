"""What tells one network from another: its architecture and every weight."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.models.architecture import Architecture
from transunet.models.segmentation_network import SegmentationNetwork


def fingerprint_of(model: SegmentationNetwork) -> str:
    """Return the SHA-256 of a model's architecture and of every weight."""
    state = sorted(model.state_dict().items())
    return digest_of(model.config, ((name, value.detach().cpu().numpy()) for name, value in state))


def digest_of(config: Architecture, weights: Iterable[tuple[str, NDArray[Any]]]) -> str:
    """Return the same of weights that are read from a file, in the order of their names."""
    # Without the family, which the names of weights tell too, and without what is not there:
    # files of before these were told compare.
    untold = {"family"} if config.regions else {"family", "regions"}
    digest = hashlib.sha256(config.model_dump_json(exclude=untold).encode())
    for name, value in weights:
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()

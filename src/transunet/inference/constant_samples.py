"""Samples that hold one value, such as air: what a network makes of one is known for the next.

Slices and patches of which each channel is the same to the last bit in all its voxels are equal if
these values are, and of equal samples a network makes the same. What it made of the last such
sample is taken as it is, whatever it is: a network that finds something in air finds it again.
Nothing more can be left out: by attention each voxel of a sample has to do with all the others.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transunet.backends.protocol import Logits


def constant_values(samples: NDArray[np.float32]) -> list[bytes]:
    """Return the values of samples (B, C, *spatial) whose channels hold one each; else b""."""
    voxels = samples.reshape(*samples.shape[:2], -1)
    constant = (voxels == voxels[..., :1]).all(axis=(1, 2))
    return [
        sample[:, 0].tobytes() if same else b""
        for sample, same in zip(voxels, constant, strict=True)
    ]


class OncePerConstant:
    """Calls `compute`, but for a sample of one value only if the last such one had another.

    ONNX Runtime and OpenVINO compute each sample of a batch by itself, so that not a bit changes;
    PyTorch rounds differently in batches of other sizes.

    Args:
        compute: from samples (B, C, *spatial) to their results (B, K, *spatial).
    """

    def __init__(self, compute: "Callable[[Any], Logits]") -> None:
        self._compute = compute
        self._value = b""
        self._result: Any = None

    def __call__(self, samples: Any, values: Sequence[bytes] | None = None) -> "Logits":
        """Return what `compute` makes of samples (B, C, *spatial), an array or a tensor.

        Args:
            samples: what is computed.
            values: `constant_values` of what they were made of; their own if not given.
        """
        values = constant_values(samples) if values is None else values
        if not any(values):
            return self._compute(samples)
        known, fresh = self._value, np.ones(len(samples), np.bool_)
        for index, value in enumerate(values):
            if value:
                fresh[index], known = value != known, value
        computed: Any = self._compute(samples[fresh]) if fresh.any() else self._result[None]
        results = iter(computed)
        shape = (len(samples), *computed.shape[1:])
        array = isinstance(computed, np.ndarray)
        out: Any = np.empty(shape, computed.dtype) if array else computed.new_empty(shape)
        for index, value in enumerate(values):
            out[index] = next(results) if fresh[index] else self._result
            if value and fresh[index]:
                self._value = value
                self._result = out[index].copy() if array else out[index].clone()
        return out  # type: ignore[no-any-return]

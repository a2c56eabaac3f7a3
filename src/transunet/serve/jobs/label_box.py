"""A box of a label map as text: what a page sends of labels that it drew, and gets back."""

import base64
import binascii
import gzip
import zlib
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.serve.api_errors import ApiError

_TYPE = np.dtype("<u2")


def packed_change(labels: NDArray[Any], before: NDArray[Any]) -> dict[str, Any]:
    """Return the smallest box of `labels` (X, Y, Z) that holds all that differs from `before`."""
    different = labels != before
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        (indices,) = np.nonzero(different.any(others))
        box.append(slice(int(indices[0]), int(indices[-1]) + 1) if len(indices) else slice(0, 0))
    part = labels[tuple(box)].astype(_TYPE)
    data = base64.b64encode(gzip.compress(part.tobytes("F"), 1)).decode()
    return {"start": [each.start for each in box], "shape": list(part.shape), "data": data}


def paste(box: dict[str, Any], labels: NDArray[Any]) -> NDArray[Any]:
    """Return `labels` (X, Y, Z) with a box in it, which lies inside.

    Raises:
        ApiError: when its data are none, or not as many as its shape tells.
    """
    size = prod(box["shape"]) * _TYPE.itemsize
    try:
        unzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
        data = unzip.decompress(base64.b64decode(box["data"], validate=True), size + 1)
    except (binascii.Error, ValueError, zlib.error):
        data = b""
    if len(data) != size:
        raise ApiError(
            "invalid_request",
            f"edited.data: expected {size} bytes of unsigned integers of 16 bits, zipped by gzip "
            "and as base64.",
        )
    part = np.frombuffer(data, _TYPE).reshape(box["shape"], order="F")
    pasted = labels.astype(np.result_type(labels.dtype, np.min_scalar_type(int(part.max()))))
    place = (slice(n, n + m) for n, m in zip(box["start"], box["shape"], strict=True))
    pasted[tuple(place)] = part
    return pasted

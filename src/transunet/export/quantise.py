"""A network in int8: weights and activations of its products and convolutions as 8-bit integers.

Static quantisation in ONNX's QDQ form by ONNX Runtime: the range of every activation is what the
calibration images give (their smallest and largest value), unsigned with an offset; weights are
signed with a scale per output channel, in 7 bits ("reduced range"), so that processors without
VNNI, which add two products in 16 bits, do not overflow. In fp32 stay the first convolution, which
sees the image itself, and all that has no weights to multiply with: normalisation, softmax, the
products of attention, resizing. docs/how-to/export.md has the figures behind these choices.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.backends.exported_metadata import INPUT
from transunet.errors import ConfigError
from transunet.optional import require

QUANTISED = ("Conv", "MatMul", "Gemm")
"""Operators whose weights become int8."""


def quantise(source: Path, target: Path, images: NDArray[np.float32]) -> Path:
    """Write the ONNX network at `source` in int8 to `target`, and return that path.

    Args:
        source: a network in fp32, as `writers.write_onnx` writes it.
        target: a file to be written.
        images: (N, C, H, W) as the network gets them; 64 slices of the training set will do.

    Raises:
        ConfigError: without images, or without the package onnxruntime.
    """
    if not len(images):
        raise ConfigError("Calibration needs images; found none. Give some of the training images.")
    onnx = require("onnx", "onnx")
    tools = require("onnxruntime.quantization", "onnx")
    steps = require("onnxruntime.quantization.shape_inference", "onnx")
    prepared = target.with_name(f"prepared-{target.name}")
    with _less_talk():
        steps.quant_pre_process(source, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared, load_external_data=False).graph
        tools.quantize_static(
            prepared,
            target,
            _reader(tools, images),
            quant_format=tools.QuantFormat.QDQ,
            calibrate_method=tools.CalibrationMethod.MinMax,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_exclude=kept_exact(graph),
            per_channel=True,
            reduce_range=True,
            weight_type=tools.QuantType.QInt8,
            activation_type=tools.QuantType.QUInt8,
        )
    prepared.unlink()
    return target


def kept_exact(graph: Any) -> list[str]:
    """Return the names of the nodes of an ONNX graph that stay in fp32.

    They are the first convolution, those within groups, which average GroupNorm's means, and the
    products of two activations, which are attention's.
    """
    weights = {tensor.name for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    first = next(node for node in convolutions if _groups(node) == 1)
    grouped = [node for node in convolutions if _groups(node) > 1]
    products = [
        node for node in graph.node if node.op_type == "MatMul" and node.input[1] not in weights
    ]
    return [node.name for node in (first, *grouped, *products)]


def _groups(node: Any) -> int:
    return next((int(one.i) for one in node.attribute if one.name == "group"), 1)


def _reader(tools: Any, images: NDArray[np.float32]) -> Any:
    """One image after the other, in the form that ONNX Runtime asks for."""

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[NDArray[np.float32]] = iter(images)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            image = next(self._left, None)
            return None if image is None else {INPUT: image[None]}

    return Reader()


class _less_talk:  # noqa: N801 - a context manager, read as a word
    """Keep hints about how to call the tools from the user."""

    def __enter__(self) -> None:
        self._level = logging.root.level
        logging.root.setLevel(logging.ERROR)

    def __exit__(self, *exception: object) -> None:
        logging.root.setLevel(self._level)

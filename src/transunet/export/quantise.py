"""A network in int8: weights and activations of its products and convolutions as 8-bit integers.

Static quantisation in ONNX's QDQ form by ONNX Runtime: the range of every activation is what the
calibration images give (their smallest and largest value), unsigned with an offset; weights are
signed with a scale per output channel, in 7 bits ("reduced range"), so that processors without
VNNI, which add two products in 16 bits, do not overflow. In fp32 stay the first convolution, which
sees the image itself, and all that has no weights to multiply with: normalisation, softmax, the
products of attention, resizing. docs/how-to/export.md has the figures behind these choices.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transunet.backends.exported import INPUT
from transunet.errors import ConfigError
from transunet.optional import require

QUANTISED = ("Conv", "MatMul", "Gemm")
"""Operators whose weights become int8."""


def quantise(source: Path, target: Path, images: NDArray[np.float32]) -> Path:
    """Write the ONNX network at `source` in int8 to `target`, and return that path.

    Args:
        source: a network in fp32, as `transunet.backends.onnxruntime.write` writes it.
        target: a file to be written.
        images: (N, C, *spatial) as the network gets them, such as `calibration_images` gives.

    Raises:
        ConfigError: without images, or without the package onnxruntime.
    """
    if not len(images):
        raise ConfigError("Calibration needs images; found none. Give some of the training images.")
    onnx = require("onnx", "onnx")
    tools = require("onnxruntime.quantization", "onnx")
    steps = require("onnxruntime.quantization.shape_inference", "onnx")

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc, name-defined]
        """One image after the other, in the form that ONNX Runtime asks for."""

        def __init__(self) -> None:
            self._left = iter(images)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            image = next(self._left, None)
            return None if image is None else {INPUT: image[None]}

    prepared = target.with_name(f"prepared-{target.name}")
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # both give hints about how to call them
    try:
        steps.quant_pre_process(source, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared, load_external_data=False).graph
        tools.quantize_static(
            prepared,
            target,
            Reader(),
            quant_format=tools.QuantFormat.QDQ,
            calibrate_method=tools.CalibrationMethod.MinMax,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_exclude=kept_exact(graph),
            per_channel=True,
            reduce_range=True,
            weight_type=tools.QuantType.QInt8,
            activation_type=tools.QuantType.QUInt8,
        )
    finally:
        logging.root.setLevel(level)
    prepared.unlink()
    return target


def kept_exact(graph: Any) -> list[str]:
    """Return the names of the nodes of an ONNX graph that stay in fp32.

    They are the first convolution, those within groups, which average GroupNorm's means, and the
    products of two activations, which are attention's.
    """
    weights = {tensor.name for tensor in graph.initializer}
    groups = {
        node.name: next((int(a.i) for a in node.attribute if a.name == "group"), 1)
        for node in graph.node
        if node.op_type == "Conv"
    }
    first = next(name for name, number in groups.items() if number == 1)
    grouped = [name for name, number in groups.items() if number > 1]
    products = [
        node.name
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] not in weights
    ]
    return [first, *grouped, *products]

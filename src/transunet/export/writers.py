"""A network written for other runtimes: ONNX, OpenVINO, torch.export, in fp32 or int8.

Each file is enough to predict: it carries the bundle's configuration (`exported_metadata`). Tensors
are `images` (B, C, H, W) and `logits` (B, classes, H, W), float32; B is free everywhere, in ONNX
files H and W too. Writers write to the path that they are given; `export` sees to
it that nothing is left behind when they fail.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import Dim

from transunet.backends.exported_metadata import INPUT, OUTPUT, PREFIX, pack
from transunet.backends.pytorch import fingerprint_of
from transunet.bundle.bundle_config import BundleConfig
from transunet.models.transunet2d.exportable import exportable
from transunet.models.transunet2d.network import TransUNet
from transunet.models.transunet2d.optimised import fuse
from transunet.optional import require

OPSET = 20
"""Of ONNX files: the first with Gelu as one operator."""
AXES = ("batch", "channels", "height", "width")
_LARGEST_FILE = 1_900_000_000
"""Bytes of weights that one ONNX file holds; protobuf ends at 2 GiB. More lie beside it."""


def write_onnx(model: TransUNet, config: BundleConfig, path: Path) -> None:
    """Write an ONNX file for any batch, height and width.

    Weights of more than 1.9 GB lie beside it in `<name>.data`.

    Raises:
        ConfigError: without the packages onnx and onnxscript.
    """
    onnx = require("onnx", "onnx")
    require("onnxscript", "onnx")
    patch = model.config.patch_size
    with quiet():
        program = torch.onnx.export(
            exportable(model, any_size=True),
            # Not square, and not the model's own size, so that no length stands for another.
            (torch.zeros(2, model.config.in_channels, 4 * patch, 6 * patch),),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            # One token would be a number in the graph; what is traced with two fits one as well.
            dynamic_shapes=(
                {0: Dim("batch"), 2: patch * Dim("rows", min=2), 3: patch * Dim("columns", min=2)},
            ),
        )
    assert program is not None
    proto = program.model_proto
    _pad_to_patches(onnx, proto, patch)
    _name_axes(proto)
    save_onnx(onnx, proto, path, pack(config, fingerprint_of(model)))


def write_openvino(model: TransUNet, config: BundleConfig, path: Path) -> None:
    """Write an OpenVINO IR, `path` (`.xml`) and its weights (`.bin`), for any batch.

    Height and width are the bundle's: shapes known beforehand are faster there.

    Raises:
        ConfigError: without the package openvino.
    """
    _write_openvino(exportable(model), model, config, path)


def write_openvino_half(model: TransUNet, config: BundleConfig, path: Path) -> None:
    """As `write_openvino`, in operators that stay exact enough when computed in bf16 or fp16.

    The GroupNorm of `exportable`, made of several operators, rounds after each: in bf16 its logits
    lie four times as far from fp32's as those of PyTorch's own, which OpenVINO computes in one
    operator and which keeps to 1e-2 of the logits' scale.
    """
    _write_openvino(fuse(model), model, config, path)


def write_torch_export(model: TransUNet, config: BundleConfig, path: Path) -> None:
    """Write a `.pt2` program of torch.export for any batch, at the bundle's height and width."""
    with quiet():
        program = _program(fuse(model), model)
        # Not to the file itself: on a full disk PyTorch's writer ends the whole process.
        buffer = BytesIO()
        torch.export.save(program, buffer, extra_files=pack(config, fingerprint_of(model)))
    path.write_bytes(buffer.getbuffer())


def write_onnx_int8(
    model: TransUNet, config: BundleConfig, path: Path, images: NDArray[np.float32]
) -> None:
    """Write an ONNX file in int8, calibrated on `images` (N, C, H, W); sizes as `write_onnx`.

    Raises:
        ConfigError: without the packages onnx, onnxscript and onnxruntime.
    """
    onnx = require("onnx", "onnx")
    with TemporaryDirectory(dir=path.parent) as folder:
        quantised = _quantised(model, config, Path(folder), images)
        texts = pack(config, fingerprint_of(model), "int8")
        save_onnx(onnx, onnx.load(quantised), path, texts)


def write_openvino_int8(
    model: TransUNet, config: BundleConfig, path: Path, images: NDArray[np.float32]
) -> None:
    """Write an OpenVINO IR in int8, calibrated on `images` (N, C, H, W); sizes as `write_openvino`.

    Raises:
        ConfigError: without the packages openvino, onnx, onnxscript and onnxruntime.
    """
    ov = require("openvino", "openvino")
    shape = [-1, model.config.in_channels, *model.config.image_size]
    with TemporaryDirectory(dir=path.parent) as folder:
        quantised = _quantised(model, config, Path(folder), images)
        network = ov.convert_model(quantised, input=[(INPUT, shape)])
        _save_openvino(ov, network, path, pack(config, fingerprint_of(model), "int8"))


def save_onnx(onnx: Any, proto: Any, path: Path, texts: Mapping[str, str]) -> None:
    """Save an ONNX model with `texts` as its metadata; large weights go to a file beside it."""
    onnx.helper.set_model_props(proto, dict(texts))
    size = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    if size <= _LARGEST_FILE:
        onnx.save_model(proto, path)
        return
    onnx.save_model(
        proto, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' talk about themselves from the user: it is about their own insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _quantised(
    model: TransUNet,
    config: BundleConfig,
    folder: Path,
    images: NDArray[np.float32],
) -> Path:
    from transunet.export.quantise import quantise

    plain = folder / "fp32.onnx"
    write_onnx(model, config, plain)
    return quantise(plain, folder / "int8.onnx", images)


def _write_openvino(
    module: torch.nn.Module, model: TransUNet, config: BundleConfig, path: Path
) -> None:
    ov = require("openvino", "openvino")
    with quiet():
        network = ov.convert_model(_program(module, model))
    network.inputs[0].set_names({INPUT})
    network.outputs[0].set_names({OUTPUT})
    _save_openvino(ov, network, path, pack(config, fingerprint_of(model)))


def _program(module: torch.nn.Module, model: TransUNet) -> torch.export.ExportedProgram:
    example: tuple[Tensor] = (torch.zeros(2, model.config.in_channels, *model.config.image_size),)
    return torch.export.export(module, example, dynamic_shapes=({0: Dim("batch")},))


def _pad_to_patches(onnx: Any, proto: Any, patch: int) -> None:
    """Have an ONNX network for whole patches take any size, as the model does.

    Images are padded with zeros at the bottom and right, and the logits cropped to their size. This
    is added to the graph, since torch.export cannot follow a size that is rounded up.
    """
    graph, whole, padded = proto.graph, "logits_of_whole_patches", "images_in_whole_patches"
    for node in graph.node:
        node.input[:] = [padded if name == INPUT else name for name in node.input]
        node.output[:] = [whole if name == OUTPUT else name for name in node.output]
    for name, values in (
        ("patch", [patch]),
        ("no_pads", [0] * 6),  # before every axis, and after batch and channels
        ("top_left", [0, 0]),
        ("height_and_width", [2, 3]),
    ):
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(values, np.int64), name))
    make = onnx.helper.make_node
    first = [
        make("Shape", [INPUT], ["size"], start=2),
        make("Neg", ["size"], ["minus_size"]),
        make("Mod", ["minus_size", "patch"], ["missing"]),
        make("Concat", ["no_pads", "missing"], ["pads"], axis=0),
        make("Pad", [INPUT, "pads"], [padded]),
    ]
    for node in reversed(first):
        graph.node.insert(0, node)
    graph.node.append(make("Slice", [whole, "top_left", "size", "height_and_width"], [OUTPUT]))


def _name_axes(proto: Any) -> None:
    """Call the free axes by plain names; lengths in between are worked out by each runtime."""
    for tensor in (*proto.graph.input, *proto.graph.output):
        for axis, dim in zip(AXES, tensor.type.tensor_type.shape.dim, strict=True):
            if not dim.HasField("dim_value"):
                dim.dim_param = axis
    del proto.graph.value_info[:]


def _save_openvino(ov: Any, network: Any, path: Path, texts: Mapping[str, str]) -> None:
    for key, text in texts.items():
        network.set_rt_info(text, [PREFIX, key.partition(".")[2]])
    ov.save_model(network, path, compress_to_fp16=False)

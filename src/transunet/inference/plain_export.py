"""Networks written for other engines, as they are."""

from pathlib import Path

import torch
from torch import Tensor

from transunet.bundle_config import BundleConfig
from transunet.extras import require
from transunet.inference.exported_metadata import INPUT, OUTPUT, PREFIX, pack
from transunet.inference.torch_network import fingerprint_of
from transunet.models.fused import fuse
from transunet.models.transunet import TransUNet


def write_onnx(model: TransUNet, config: BundleConfig, path: Path) -> None:
    """Write an ONNX file."""
    onnx = require("onnx", "onnx")
    torch.onnx.export(
        fuse(model),
        _example(model),
        path,
        dynamo=True,
        verbose=False,
        external_data=False,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    written = onnx.load(path)
    onnx.helper.set_model_props(written, pack(config, fingerprint_of(model)))
    onnx.save(written, path)


def write_openvino(model: TransUNet, config: BundleConfig, path: Path) -> None:
    """Write an OpenVINO file."""
    ov = require("openvino", "openvino")
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(fuse(model), _example(model), dynamic_shapes=shapes)
    network = ov.convert_model(program)
    network.inputs[0].set_names({INPUT})
    network.outputs[0].set_names({OUTPUT})
    for key, text in pack(config, fingerprint_of(model)).items():
        network.set_rt_info(text, [PREFIX, key.partition(".")[2]])
    ov.save_model(network, path, compress_to_fp16=False)


def _example(model: TransUNet) -> tuple[Tensor]:
    return (torch.zeros(2, model.config.in_channels, *model.config.image_size),)

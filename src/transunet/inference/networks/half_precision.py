"""A network for OpenVINO in bf16 or fp16: in operators that stay exact enough there.

The GroupNorm of `exportable`, made of several operators, rounds after each: in bf16 its logits lie
four times as far from fp32's as those of PyTorch's own, which OpenVINO computes in one operator and
which keeps to 1e-2 of the logits' scale.
"""

from pathlib import Path

import torch
from torch.export import Dim

from transunet.bundle_config import BundleConfig
from transunet.extras import require
from transunet.inference.exports.writers import quiet
from transunet.inference.networks.exported_metadata import INPUT, OUTPUT
from transunet.models.fused import fuse
from transunet.models.transunet import TransUNet


def write_openvino_half(model: TransUNet, config: BundleConfig, path: Path) -> None:
    """Write an OpenVINO IR, `path` (`.xml`) and its weights (`.bin`), to be computed in half.

    Raises:
        ConfigError: without the package openvino.
    """
    ov = require("openvino", "openvino")
    example = (torch.zeros(2, model.config.in_channels, *model.config.image_size),)
    with quiet():
        program = torch.export.export(fuse(model), example, dynamic_shapes=({0: Dim("batch")},))
        network = ov.convert_model(program)
    network.inputs[0].set_names({INPUT})
    network.outputs[0].set_names({OUTPUT})
    ov.save_model(network, path, compress_to_fp16=False)

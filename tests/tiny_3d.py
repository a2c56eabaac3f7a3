"""The smallest 3D networks, whose first pooling spares the planes: settings of `create_model`."""

import torch

from transunet.create import create_model
from transunet.models.segmentation_network import SegmentationNetwork

TINY_TRUNK = {
    "width": 4,
    "max_width": 8,
    "poolings": ((1, 2, 2), (2, 2, 2), (2, 2, 2)),
    "kernels": ((3, 3, 3),) * 4,
}
TINY_3D = {
    **TINY_TRUNK,
    "vit": {"num_layers": 1, "hidden_size": 12, "mlp_size": 12, "num_heads": 1},
    "queries": {"hidden_size": 96, "mlp_size": 8, "num_queries": 4},
}


def tiny_model_3d(
    name: str, size: tuple[int, int, int], classes: int = 3, seed: int = 0
) -> SegmentationNetwork:
    """Random weights whose logits differ from voxel to voxel."""
    torch.manual_seed(seed)
    settings = TINY_3D if "TransUNet3D" in name else TINY_TRUNK
    model = create_model(name, num_classes=classes, image_size=size, **settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.5
    return model

"""What is measured: a network, the images it looks at, and what comes out."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from transunet.backends.pytorch import FixedNetwork
from transunet.bundle.bundle_config import BundleConfig
from transunet.bundle.io import from_pretrained, save_pretrained
from transunet.create import create_model
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.resize import nearest, resize
from transunet.data.store import MANIFEST, Store
from transunet.export.calibration import calibration_images
from transunet.inference.logits import as_array
from transunet.models.families import optimised

Run = Callable[[np.ndarray], Any]


def subject(chosen: argparse.Namespace, folder: Path) -> tuple[Any, Path, BundleConfig]:
    """The model, and a bundle of it."""
    if chosen.bundle:
        model, config = from_pretrained(chosen.bundle)
        return model, chosen.bundle, config
    torch.manual_seed(0)
    model = create_model(
        chosen.model, num_classes=chosen.classes, image_size=chosen.image_size
    ).eval()
    spread(model)
    config = BundleConfig(
        architecture=model.config,
        preprocessing=Preprocessing(channels=(Channel(name="CT"),)),
        labels={index: f"class {index}" for index in range(chosen.classes)},
    )
    return model, save_pretrained(model, config, folder / "bundle"), config


def fused_network(
    model: Any, device: str = "cpu", precision: str = "fp32", compiled: bool = False
) -> FixedNetwork:
    """What predicting makes of a bundle's model."""
    size = model.config.image_size
    return FixedNetwork(optimised(model), size, "", device, precision, compiled)


@torch.no_grad()
def spread(model: Any) -> None:
    """Make random weights behave like trained ones: no norm is the identity, every class wins."""
    for module in model.modules():
        if isinstance(module, torch.nn.GroupNorm | torch.nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.2)
    head = model.segmentation_head[0]
    logits = model(torch.randn(2, model.config.in_channels, *model.config.image_size))
    scale = 3 / logits.std(dim=(0, 2, 3))
    head.bias.copy_((head.bias - logits.mean(dim=(0, 2, 3))) * scale)
    head.weight *= scale[:, None, None, None]


def compared_images(chosen: Any, config: BundleConfig) -> tuple[np.ndarray, np.ndarray | None]:
    """Real slices at the network's size, and their labels where a store has them; else noise."""
    size = config.architecture.image_size
    if not chosen.images:
        shape = (2, config.architecture.in_channels, *size)
        return np.random.default_rng(2).standard_normal(shape, dtype=np.float32), None
    if not (chosen.images / MANIFEST).is_file():
        return calibration_images([chosen.images], config, chosen.slices), None
    store = Store.open(chosen.images)
    held_out = store.splits[0].validation or store.splits[0].test
    known = [
        (name, index)
        for name in held_out
        for index in sorted(set().union(*store.case(name).slices_with.values()))
    ]
    step = max(1, len(known) // chosen.slices)
    taken = known[::step][: chosen.slices]
    images = [resize(np.array(store.image(n)[:, i]), size, order=3, edge="kept") for n, i in taken]
    labels = [nearest(np.array(store.label(n)[i]), size, edge="kept") for n, i in taken]
    return np.stack(images), np.stack(labels)


def calibrating(chosen: Any, config: BundleConfig) -> np.ndarray | None:
    if not any("int8" in name for name in chosen.engines):
        return None
    source = chosen.calibrate or chosen.images
    if source:
        return calibration_images([source], config)
    shape = (8, config.architecture.in_channels, *config.architecture.image_size)
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def labels_by(run: Run, images: np.ndarray, batch: int) -> np.ndarray:
    parts = [images[i : i + batch] for i in range(0, len(images), batch)]
    return np.concatenate([as_array(run(part)).argmax(1) for part in parts])


def dice(found: np.ndarray, expected: np.ndarray, classes: int) -> float:
    """Over all slices at the network's size; for a comparison of engines, not of methods."""
    pairs = [(found == k, expected == k) for k in range(1, classes)]
    both = [2 * (a & b).sum() / max(1, a.sum() + b.sum()) for a, b in pairs]
    return float(np.mean(both))

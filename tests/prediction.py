"""What the tests of prediction start from: tiny bundles, images on awkward grids, the command."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray

import forks
from transunet.bundle.io import BundleConfig, from_pretrained, save_pretrained
from transunet.bundle.trust_config import (
    Calibration,
    ExpectedQuality,
    StructureTrust,
    Trust,
    VolumeInterval,
)
from transunet.data.checks.suitability import TrainingData
from transunet.data.preprocessing import Channel, Preprocessing, planes_first
from transunet.models.transunet2d.config import TransUNetConfig
from transunet.models.transunet2d.network import TransUNet
from transunet.trust.measures import MEASURES

nib: Any = nibabel

COMMAND = "from transunet_torch import main; main()"
OBLIQUE = np.array([[0.0, 0.2, -2.5, 10.5], [-0.7, 0, 0.1, 3], [0.05, 0.7, 0.3, -8], [0, 0, 0, 1]])
"""Permuted against RAS, flipped, oblique and anisotropic."""


def tiny_config(channels: int = 1, classes: int = 3, size: int = 32) -> TransUNetConfig:
    """The smallest network that is still this network: a few thousand parameters."""
    return TransUNetConfig(
        num_classes=classes,
        in_channels=channels,
        image_size=(size, size),
        hidden_size=8,
        mlp_size=8,
        num_heads=1,
        num_layers=1,
        bridge_channels=8,
        decoder_channels=(8, 8, 8, 8),
    )


def tiny_model(seed: int = 0, **settings: int) -> TransUNet:
    """Random weights whose logits have mean 0 and deviation 3 in each class."""
    torch.manual_seed(seed)
    model = TransUNet(tiny_config(**settings)).eval()
    head = model.segmentation_head[0]
    with torch.no_grad():
        logits = model(torch.randn(4, model.config.in_channels, *model.config.image_size))
        deviation = logits.std(dim=(0, 2, 3))
        head.weight *= (3 / deviation)[:, None, None, None]
        head.bias -= logits.mean(dim=(0, 2, 3))
        head.bias *= 3 / deviation
    return model


def tiny_bundle(
    folder: Path,
    seed: int = 0,
    slice_axis: int = 2,
    channels_named: Sequence[str] = (),
    **settings: int,
) -> Path:
    """Save a bundle with such a model, for MRI if its channels are not named otherwise."""
    model = tiny_model(seed, **settings)
    count = model.config.in_channels
    preprocessing = Preprocessing(
        channels=tuple(
            Channel(name=name) for name in channels_named or map("MRI {}".format, range(count))
        ),
        orientation=planes_first("RAS", slice_axis),
    )
    names = ("background", "left", "right", "middle", "top")
    labels = {index: names[index] for index in range(model.config.num_classes)}
    config = BundleConfig(architecture=model.config, preprocessing=preprocessing, labels=labels)
    return save_pretrained(model, config, folder)


def mirrored_along(axes: tuple[int, ...] | None) -> TrainingData:
    """What a training of almost any voxels tells, that mirrored its samples along these axes."""
    spacings, views = ((0.1, 0.1, 0.1), (9.0, 9.0, 9.0)), ((1.0, 1.0), (999.0, 999.0))
    return TrainingData(cases=1, channels=(), spacing_mm=spacings, view_mm=views, mirror_axes=axes)


def with_clicks(bundle: Path, folder: Path, weight: float = 0) -> Path:
    """Save the same network that takes clicks, too, and answers them with `weight` everywhere."""
    model, config = from_pretrained(bundle)
    clicked = TransUNet(TransUNetConfig(**{**model.config.model_dump(), "clicks": True}))
    clicked.load_state_dict(model.state_dict(), strict=False)
    torch.nn.init.constant_(clicked.clicks.weight, weight)
    return save_pretrained(clicked, config, folder)


def tiny_trust(**expected: float | None) -> Trust:
    """What a bundle knows of itself: the Dice to be expected of each structure, None if it is not
    known; all held-out cases had them."""
    count = len(MEASURES)
    volume = VolumeInterval(spread=0.4, coverage=0.9, cases=20)
    structures = {
        name: StructureTrust(
            present=1,
            volume=volume,
            quality=ExpectedQuality(
                means=(0,) * count,
                deviations=(1,) * count,
                weights=(0,) * count,
                intercept=dice,
                spread=0.6,
                error=0.03,
                coverage=0.9,
                predictions=80,
            ),
        )
        if dice is not None
        else StructureTrust(present=1)
        for name, dice in expected.items()
    }
    calibration = Calibration(temperature=2, ece=(0.1, 0.02), brier=(0.2, 0.1), bins=())
    return Trust(cases=20, structures=structures, calibration=calibration)


def noise(shape: tuple[int, ...] = (20, 24, 6), seed: int = 0) -> NDArray[np.int16]:
    """Smooth random intensities."""
    from scipy.ndimage import gaussian_filter

    values = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return np.asarray(values / np.abs(values).max() * 1000, dtype=np.int16)


def hounsfield(shape: tuple[int, ...] = (20, 24, 6)) -> NDArray[np.int16]:
    """What a CT looks like: air around something soft."""
    values = noise(shape) // 10
    values[:4] = -1000
    return values


def save_nifti(
    path: Path, array: NDArray[Any] | None = None, affine: NDArray[Any] = OBLIQUE
) -> Path:
    """Write a NIfTI whose header says more than the defaults."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(noise() if array is None else array, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=2)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return path


def transunet(*arguments: object) -> forks.Process:
    """Run the command as a user does, in its own process, to its end."""
    process = forks.Process(COMMAND, *arguments, stderr=True)
    process.wait()
    return process


def left_in(folder: Path) -> set[str]:
    """Every file and folder in `folder`, hidden ones too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}

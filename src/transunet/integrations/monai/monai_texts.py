"""What a MONAI bundle says of itself: its metadata, README and licence."""

from collections.abc import Mapping
from typing import Any

from transunet.bundle.bundle_config import BundleConfig
from transunet.optional import DISTRIBUTION, own_version

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
TESTED_WITH = {"monai": "1.6.1", "pytorch-ignite": "0.5.5"}
"""Stated where they are not installed while a bundle is written."""
PAPER = (
    "Chen, J. et al. TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation. "
    "arXiv:2102.04306, 2021."
)
_MODALITIES = {"ct": "CT", "cbct": "CT", "mri": "MR", "mr": "MR", "us": "US"}


def metadata(config: BundleConfig, versions: Mapping[str, str]) -> dict[str, Any]:
    """Return `configs/metadata.json` as MONAI's bundle specification wants it.

    Args:
        config: of the model.
        versions: packages that are installed.
    """
    versions = {DISTRIBUTION: own_version(), **TESTED_WITH, **versions}
    return {
        "schema": SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by {DISTRIBUTION} {versions[DISTRIBUTION]}"},
        "monai_version": versions["monai"],
        "pytorch_version": versions["torch"],
        "numpy_version": versions["numpy"],
        "required_packages_version": {
            name: versions[name] for name in (DISTRIBUTION, "nibabel", "pytorch-ignite")
        },
        "supported_apps": {},
        "name": f"TransUNet {config.architecture.name}",
        "task": f"Segmentation of {_structures(config)} slice by slice",
        "description": _description(config),
        "authors": "whoever trained the model",
        "copyright": "of the weights: whoever trained the model",
        "data_type": "nibabel",
        "image_classes": _intensities(config),
        "label_classes": _classes(config),
        "pred_classes": f"label map of one channel: {_classes(config)}",
        "intended_use": "Research. Not a medical device; not for diagnosis.",
        "references": [PAPER],
        "network_data_format": {
            "inputs": {"image": _input(config)},
            "outputs": {"pred": _output(config)},
        },
    }


def readme(config: BundleConfig) -> str:
    """Return `docs/README.md`."""
    sides = " x ".join(map(str, config.architecture.image_size))
    return f"""# TransUNet {config.architecture.name}

{_description(config)}

Labels: {_classes(config)}.
Images: {_intensities(config)}.

## Run

    pip install '{DISTRIBUTION}[monai]'  # not `transunet`, which is somebody else's
    python -m monai.bundle run --config_file configs/inference.json --bundle_root . \\
        --dataset_dir /path/to/images --output_dir /path/to/labels

Every NIfTI file in `dataset_dir` is a case (files called CASE_0000, CASE_0001, ... are the channels
of one); its label map is written to the same place in `output_dir`, named after its (first) file
with `_seg` at the end, on the image's grid.

## How

MONAI reads, reorients to {config.preprocessing.orientation} and normalises each volume; slices are
resized to {sides} pixels with cubic splines, the logits are resized back, and the label with the
largest is taken. The last three steps are `{DISTRIBUTION}`'s, so the labels are those of
`transunet predict`. The weights are a state dict that is read with `weights_only=True`.

Reference: {PAPER}
"""


def licence() -> str:
    """Return `LICENSE`."""
    return """\
Configuration and documents in this folder were written by transunet and are under the Apache
License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0

The weights in models/ belong to whoever trained them, under the terms stated here:

    (none stated; published ImageNet-21k weights that a training may have started from are under the
    Apache License, Version 2.0)
"""


def _description(config: BundleConfig) -> str:
    planes = {2: "third", 1: "second", 0: "first"}
    settings = config.preprocessing
    return (
        f"TransUNet ({config.architecture.name}), a 2-D network of convolutions and a transformer, "
        f"segments {_structures(config)} in slices along the {planes[settings.slice_axis]} axis of "
        f"volumes oriented {settings.orientation}."
    )


def _structures(config: BundleConfig) -> str:
    return ", ".join(config.labels[index] for index in sorted(config.labels) if index)


def _classes(config: BundleConfig) -> str:
    return ", ".join(f"{index} {config.labels[index]}" for index in sorted(config.labels))


def _intensities(config: BundleConfig) -> str:
    texts = {
        "clip": "{name}: {low:g} to {high:g} scaled to 0 to 1, the rest clipped",
        "range": "{name}: divided by {high:g}",
        "zscore": "{name}: mean 0 and deviation 1 over the volume",
    }
    return "; ".join(
        texts[channel.normalisation].format(name=channel.name, low=channel.low, high=channel.high)
        for channel in config.preprocessing.channels
    )


def _input(config: BundleConfig) -> dict[str, Any]:
    channels = config.preprocessing.channels
    modalities = {_MODALITIES.get(channel.name.lower(), "n/a") for channel in channels}
    bounded = all(channel.normalisation != "zscore" for channel in channels)
    return {
        "type": "image",
        "format": "magnitude",
        "modality": modalities.pop() if len(modalities) == 1 else "n/a",
        "num_channels": len(channels),
        "spatial_shape": list(config.architecture.image_size),
        "dtype": "float32",
        "value_range": [0, 1] if bounded else [],
        "is_patch_data": False,
        "channel_def": {str(index): channel.name for index, channel in enumerate(channels)},
    }


def _output(config: BundleConfig) -> dict[str, Any]:
    return {
        "type": "image",
        "format": "labels",
        "modality": "n/a",
        "num_channels": len(config.labels),
        "spatial_shape": list(config.architecture.image_size),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": {str(index): config.labels[index] for index in sorted(config.labels)},
    }

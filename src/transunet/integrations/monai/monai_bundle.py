"""Writing a bundle of MONAI's format, which MONAI's own loader runs to the labels of `Predictor`.

Stock MONAI components do what they do exactly as this package does: reading, reorienting, windowing
of intensities, inverting, saving. What MONAI has no equal of, it calls from `monai_parts`. Patches
of volumes go through MONAI's own `SlidingWindowInferer`, whose windows lie at other places where
the volume is no whole number of half patches; there labels differ in a few voxels.
Writing needs no MONAI; running needs MONAI and this package.
"""

import json
from pathlib import Path
from typing import Any

import torch

import transunet
from transunet.bundle.bundle_config import BundleConfig
from transunet.data.preprocessing import Preprocessing
from transunet.data.sampling.patches import SIGMA, Patches
from transunet.data.text import extents
from transunet.errors import ConfigError
from transunet.files import atomic_path
from transunet.models.families import network_class
from transunet.models.segmentation_network import SegmentationNetwork
from transunet.optional import DISTRIBUTION, own_version, versions_of

METADATA = Path("configs/metadata.json")
WEIGHTS = Path("models/model.pt")
PARTS = "transunet.integrations.monai.monai_parts"
SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
TESTED_WITH = {"monai": "1.6.1", "pytorch-ignite": "0.5.5"}
"""Stated where they are not installed while a bundle is written."""
PAPERS = {
    2: "Chen, J. et al. TransUNet: Transformers Make Strong Encoders for Medical Image "
    "Segmentation. arXiv:2102.04306, 2021.",
    3: "Chen, J. et al. 3D TransUNet: Advancing Medical Image Segmentation through Vision "
    "Transformers. arXiv:2310.07781, 2023.",
}
"""By the axes of a sample."""
LICENCE = """\
Configuration and documents in this folder were written by transunet and are under the Apache
License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0

The weights in models/ belong to whoever trained them, under the terms stated here:

    (none stated; published ImageNet-21k weights that a training may have started from are under the
    Apache License, Version 2.0)
"""
README = """\
# TransUNet {network}

{description}

Labels: {classes}.
Images: {intensities}.

## Run

    pip install '{package}[monai]'  # not `transunet`, which is somebody else's
    python -m monai.bundle run --config_file configs/inference.json --bundle_root . \\
        --dataset_dir /path/to/images --output_dir /path/to/labels

Every NIfTI file in `dataset_dir` is a case (files called CASE_0000, CASE_0001, ... are the channels
of one); its label map is written to the same place in `output_dir`, named after its (first) file
with `_seg` at the end, on the image's grid.

## How

{procedure} The weights are a state dict that is read with
`weights_only=True`.

Reference: {paper}
"""
PROCEDURES = {
    "slices": """\
MONAI reads, reorients to {orientation} and normalises each volume; slices are
resized to {size} pixels with cubic splines, the logits are resized back, and the label with the
largest is taken. The last three steps are `{package}`'s, so the labels are those of
`transunet predict`.""",
    "patches": """\
MONAI reads and reorients each volume to {orientation}; `{package}` normalises and resamples it;
MONAI's SlidingWindowInferer averages the probabilities of patches of {size} voxels; `{package}`
resizes the mean to the image's grid and takes the label with the largest. `transunet predict` lays
its patches evenly, so labels may differ in a few voxels.""",
}
_EXACT = 2**24
"""Integers up to here are exact in single precision."""
_MODALITIES = {"ct": "CT", "cbct": "CT", "mri": "MR", "mr": "MR", "us": "US"}
_INTENSITIES = {
    "clip": "{name}: {low:g} to {high:g} scaled to 0 to 1, the rest clipped",
    "range": "{name}: divided by {high:g}",
    "zscore": "{name}: mean 0 and deviation 1 over the volume",
    "nonzero": "{name}: mean 0 and deviation 1 over the voxels that are not 0",
    "foreground": "{name}: {low:g} to {high:g}, the rest clipped, less {mean:g}, by {deviation:g}",
}


def write_monai_bundle(
    model: SegmentationNetwork, config: BundleConfig, folder: Path | str
) -> Path:
    """Write a MONAI bundle: configuration, weights, documents; return `folder`.

    The weights are a plain state dict, which MONAI opens with `weights_only=True`: nothing in the
    bundle is unpickled into code.

    Args:
        model: the network, on any device.
        config: preprocessing and labels.
        folder: a new folder, or that of a MONAI bundle, which is replaced when the new one is done.

    Raises:
        ConfigError: when the folder holds something else or cannot be written to.
    """
    if config.regions:
        raise ConfigError(
            f"{config.architecture.name} tells regions apart "
            f"({', '.join(region.name for region in config.regions)}), and a MONAI bundle of "
            "regions cannot be written yet. Export it to .onnx, .xml or .pt2, which `transunet "
            "predict` takes."
        )
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / METADATA).is_file():
        raise ConfigError(
            f"{folder} holds other files, and no {METADATA}; a MONAI bundle is a folder of its "
            "own. Choose a new folder."
        )
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; a MONAI bundle is a folder. Choose a new folder.")
    config = config.replace(architecture=model.config)
    facts = metadata(config)
    texts = {
        METADATA: _json(facts),
        Path("configs/inference.json"): _json(inference(config)),
        Path("docs/README.md"): README.format(
            network=config.architecture.name,
            description=facts["description"],
            classes=facts["label_classes"],
            intensities=facts["image_classes"],
            package=DISTRIBUTION,
            procedure=PROCEDURES[config.sampling.kind].format(
                orientation=config.preprocessing.orientation,
                size=extents(config.architecture.image_size),
                package=DISTRIBUTION,
            ),
            paper=PAPERS[config.architecture.axes],
        ),
        Path("LICENSE"): LICENCE,
    }
    # Clones: a view into a larger tensor would be saved with all of it.
    state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    with atomic_path(folder) as scratch:
        for path, text in texts.items():
            (scratch / path).parent.mkdir(parents=True, exist_ok=True)
            (scratch / path).write_text(text, encoding="utf-8")
        (scratch / WEIGHTS).parent.mkdir()
        torch.save(state, scratch / WEIGHTS)
    return folder


def inference(config: BundleConfig) -> dict[str, Any]:
    """Return what `configs/inference.json` holds: the workflow that `monai.bundle run` runs."""
    preprocessing, image = config.preprocessing, {"keys": "image"}
    before = [
        # dtype None keeps the file's own type: rounding to float32 first is not what we do.
        {"_target_": "LoadImaged", **image, "reader": "NibabelReader", "dtype": None},
        {"_target_": "EnsureChannelFirstd", **image},
        {"_target_": f"{PARTS}.Millimetresd", **image},
        {
            "_target_": "Orientationd",
            **image,
            "axcodes": preprocessing.orientation,
            "labels": None,
        },
        {**_intensities(preprocessing), **image},
    ]
    after: list[dict[str, Any]] = [
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": True,
            "to_tensor": True,
        },
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "data_root_dir": "@dataset_dir",
            "output_postfix": "seg",
            "output_ext": ".nii.gz",
            "output_dtype": "$np.uint8" if len(config.labels) <= 256 else "$np.uint16",
            "writer": f"{PARTS}.LabelWriter",
            "resample": False,
            "separate_folder": False,
            "print_log": False,
        },
    ]
    inferer: dict[str, Any] = {
        "_target_": f"{PARTS}.SliceBySlice",
        "slice_axis": 0,
        "spacing_mm": preprocessing.spacing_mm and preprocessing.spacing_mm[1:],
        "batch_size": 8,
        "context": config.sampling.context,
        "procedure": "native",
        "mirror": False,
        "window": False,
    }
    predicting = "@network"
    if isinstance(config.sampling, Patches):
        settings = preprocessing.model_dump(mode="json")
        before[-1] = {"_target_": f"{PARTS}.WorkingVolumed", **image, "preprocessing": settings}
        labels = {"_target_": f"{PARTS}.LabelMapd", "keys": "pred", "orig_keys": "image"}
        after.insert(0, labels)
        inferer = {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(config.sampling.size),
            "sw_batch_size": 1,
            "overlap": config.sampling.overlap,
            "mode": "gaussian",
            "sigma_scale": SIGMA,
            "padding_mode": "constant",
            "cval": 0.0,
        }
        # Probabilities are averaged, as by the predictor: the logarithms of queries' scores have
        # no lower end.
        predicting = "$torch.nn.Sequential(@network, torch.nn.Softmax(dim=1))"
    return {
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/labels'",
        "imports": ["$import transunet"],
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": _importable(network_class(config.architecture)),
            "config": {
                "_target_": _importable(type(config.architecture)),
                **config.architecture.model_dump(mode="json"),
            },
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": before},
        "dataset": {
            "_target_": "Dataset",
            "data": {
                "_target_": f"{PARTS}.find_cases",
                "folder": "@dataset_dir",
                "channels": len(preprocessing.channels),
            },
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": inferer,
        "postprocessing": {"_target_": "Compose", "transforms": after},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": f"$@bundle_root + '/{WEIGHTS.as_posix()}'",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
                "strict": True,
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": predicting,
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": False,
        },
        "run": ["$@evaluator.run()"],
    }


def _intensities(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the transform that normalises: MONAI's own where that rounds as this package does."""
    (kind, low, high), *others = {(c.normalisation, c.low, c.high) for c in preprocessing.channels}
    whole = all(edge == int(edge) and abs(edge) < _EXACT for edge in (low, high))
    if whole and not others and kind in ("clip", "range"):
        window = {"a_min": low, "a_max": high, "b_min": 0.0, "b_max": 1.0, "clip": True}
        if kind == "range":
            window = {"a_min": 0.0, "a_max": high, "clip": False}
        return {"_target_": "ScaleIntensityRanged", **window}
    return {
        "_target_": f"{PARTS}.NormaliseChannelsd",
        "channels": [channel.model_dump(mode="json") for channel in preprocessing.channels],
        "slice_axis": 0,
    }


def metadata(config: BundleConfig) -> dict[str, Any]:
    """Return `configs/metadata.json` as MONAI's bundle specification wants it."""
    packages = (DISTRIBUTION, "torch", "numpy", "nibabel", *TESTED_WITH)
    installed = {name: number.partition("+")[0] for name, number in versions_of(packages).items()}
    versions = {DISTRIBUTION: own_version(), **TESTED_WITH, **installed}
    network, preprocessing = config.architecture, config.preprocessing
    names = [config.labels[index] for index in sorted(config.labels)]
    classes = ", ".join(f"{index} {name}" for index, name in enumerate(names))
    structures = ", ".join(names[1:])
    modalities = {_MODALITIES.get(c.name.lower(), "n/a") for c in preprocessing.channels}
    slices = network.axes == 2
    samples = "slices along the first axis" if slices else "patches"
    bounded = all(c.normalisation in ("clip", "range") for c in preprocessing.channels)

    def tensor(channels: list[str], **properties: Any) -> dict[str, Any]:
        return {
            "type": "image",
            **properties,
            "num_channels": len(channels),
            "spatial_shape": list(network.image_size),
            "dtype": "float32",
            "is_patch_data": not slices,
            "channel_def": {str(index): name for index, name in enumerate(channels)},
        }

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
        "name": f"TransUNet {network.name}",
        "task": f"Segmentation of {structures} " + ("slice by slice" if slices else "in 3D"),
        "description": f"TransUNet ({network.name}), a {network.axes}-D network, segments "
        f"{structures} in {samples} of volumes oriented {preprocessing.orientation}.",
        "authors": "whoever trained the model",
        "copyright": "of the weights: whoever trained the model",
        "data_type": "nibabel",
        "image_classes": "; ".join(
            _INTENSITIES[c.normalisation].format(**dict(c)) for c in preprocessing.channels
        ),
        "label_classes": classes,
        "pred_classes": f"label map of one channel: {classes}",
        "intended_use": "Research. Not a medical device; not for diagnosis.",
        "references": [PAPERS[network.axes]],
        "network_data_format": {
            "inputs": {
                "image": tensor(
                    [channel.name for channel in preprocessing.channels],
                    format="magnitude",
                    modality=modalities.pop() if len(modalities) == 1 else "n/a",
                    value_range=[0, 1] if bounded else [],
                )
            },
            "outputs": {"pred": tensor(names, format="labels", modality="n/a", value_range=[])},
        },
    }


def _importable(cls: type) -> str:
    """Return the name by which MONAI imports a class: the public one, if it has one."""
    public = cls.__name__ in transunet.__all__
    return f"transunet.{cls.__name__}" if public else f"{cls.__module__}.{cls.__qualname__}"


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=4, ensure_ascii=False) + "\n"

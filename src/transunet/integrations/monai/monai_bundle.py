"""Writing a bundle of MONAI's format, which MONAI's own loader runs to the labels of `Predictor`.

Stock MONAI components do what they do exactly as this package does: reading, reorienting, windowing
of intensities, inverting, saving. What MONAI has no equal of, it calls from `monai_parts`.
Writing needs no MONAI; running needs MONAI and this package.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from transunet.bundle.bundle_config import BundleConfig
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.errors import ConfigError
from transunet.files import atomic_path
from transunet.integrations.monai.monai_texts import licence, metadata, readme
from transunet.models.transunet2d.network import TransUNet
from transunet.optional import DISTRIBUTION, versions_of

METADATA = Path("configs/metadata.json")
INFERENCE = Path("configs/inference.json")
WEIGHTS = Path("models/model.pt")
PARTS = "transunet.integrations.monai.monai_parts"
_EXACT = 2**24
"""Integers up to here are exact in single precision."""


def write_monai_bundle(model: TransUNet, config: BundleConfig, folder: Path | str) -> Path:
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
    folder = Path(folder)
    _check(folder)
    config = config.replace(architecture=model.config)
    texts = {
        METADATA: _json(metadata(config, _versions())),
        INFERENCE: _json(inference(config)),
        Path("docs/README.md"): readme(config),
        Path("LICENSE"): licence(),
    }
    with atomic_path(folder) as scratch:
        for path, text in texts.items():
            (scratch / path).parent.mkdir(parents=True, exist_ok=True)
            (scratch / path).write_text(text, encoding="utf-8")
        (scratch / WEIGHTS).parent.mkdir()
        torch.save(_state(model), scratch / WEIGHTS)
    return folder


def inference(config: BundleConfig) -> dict[str, Any]:
    """Return what `configs/inference.json` holds: the workflow that `monai.bundle run` runs."""
    return {
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/labels'",
        "imports": ["$import transunet"],
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": "transunet.TransUNet",
            "config": {
                "_target_": "transunet.TransUNetConfig",
                **config.architecture.model_dump(mode="json"),
            },
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": _compose(*_preprocessing(config.preprocessing)),
        "dataset": {
            "_target_": "Dataset",
            "data": {
                "_target_": f"{PARTS}.find_cases",
                "folder": "@dataset_dir",
                "channels": len(config.preprocessing.channels),
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
        "inferer": {
            "_target_": f"{PARTS}.SliceBySlice",
            "slice_axis": config.preprocessing.slice_axis,
            "spacing_mm": config.preprocessing.spacing_mm,
            "batch_size": 8,
            "procedure": "native",
            "mirror": False,
            "window": False,
        },
        "postprocessing": _compose(*_postprocessing(len(config.labels))),
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
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": False,
        },
        "run": ["$@evaluator.run()"],
    }


def _preprocessing(preprocessing: Preprocessing) -> list[dict[str, Any]]:
    keys = {"keys": "image"}
    return [
        # dtype None keeps the file's own type: rounding to float32 first is not what we do.
        {"_target_": "LoadImaged", **keys, "reader": "NibabelReader", "dtype": None},
        {"_target_": "EnsureChannelFirstd", **keys},
        {"_target_": f"{PARTS}.Millimetresd", **keys},
        {"_target_": "Orientationd", **keys, "axcodes": preprocessing.orientation, "labels": None},
        {**_intensities(preprocessing), **keys},
    ]


def _intensities(preprocessing: Preprocessing) -> dict[str, Any]:
    first, *others = preprocessing.channels
    if _exact_in_monai(first) and all(_window(other) == _window(first) for other in others):
        return {"_target_": "ScaleIntensityRanged", **_window(first)}
    return {
        "_target_": f"{PARTS}.NormaliseChannelsd",
        "channels": [channel.model_dump(mode="json") for channel in preprocessing.channels],
        "slice_axis": preprocessing.slice_axis,
    }


def _exact_in_monai(channel: Channel) -> bool:
    """Whether MONAI's single precision rounds as this package does: for whole numbers."""
    whole = all(edge == int(edge) and abs(edge) < _EXACT for edge in (channel.low, channel.high))
    return channel.normalisation != "zscore" and whole


def _window(channel: Channel) -> dict[str, Any]:
    if channel.normalisation == "clip":
        return {
            "a_min": channel.low,
            "a_max": channel.high,
            "b_min": 0.0,
            "b_max": 1.0,
            "clip": True,
        }
    if channel.normalisation == "range":
        return {"a_min": 0.0, "a_max": channel.high, "clip": False}
    return {}


def _postprocessing(classes: int) -> list[dict[str, Any]]:
    return [
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
            "output_dtype": "$np.uint8" if classes <= 256 else "$np.uint16",
            "writer": f"{PARTS}.LabelWriter",
            "resample": False,
            "separate_folder": False,
            "print_log": False,
        },
    ]


def _compose(*transforms: Mapping[str, Any]) -> dict[str, Any]:
    return {"_target_": "Compose", "transforms": list(transforms)}


def _state(model: TransUNet) -> dict[str, torch.Tensor]:
    # Clones: a view into a larger tensor would be saved with all of it.
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=4, ensure_ascii=False) + "\n"


def _versions() -> dict[str, str]:
    """Return the versions that the bundle is written with; MONAI's only if it is installed."""
    packages = (DISTRIBUTION, "torch", "numpy", "nibabel", "monai", "pytorch-ignite")
    return {name: number.partition("+")[0] for name, number in versions_of(packages).items()}


def _check(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / METADATA).is_file():
        raise ConfigError(
            f"{folder} holds other files, and no {METADATA}; a MONAI bundle is a folder of its "
            "own. Choose a new folder."
        )
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; a MONAI bundle is a folder. Choose a new folder.")

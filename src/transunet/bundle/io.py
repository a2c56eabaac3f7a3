"""The model folder: `model.safetensors` and `config.json`, all that predicting needs."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from transunet.bundle.bundle_config import (
    CONFIG,
    MODEL,
    BundleConfig,
    locate,
    read_config,
    write_config,
)
from transunet.bundle.hub import upload_folder
from transunet.errors import WeightsError, first_line
from transunet.files import atomic_path, writable_folder
from transunet.models.families import build
from transunet.models.network_fingerprint import fingerprint_of
from transunet.models.segmentation_network import SegmentationNetwork
from transunet.optional import DISTRIBUTION, versions_of

__all__ = ["BundleConfig", "from_pretrained", "push_to_hub", "save_pretrained"]


def save_pretrained(model: SegmentationNetwork, config: BundleConfig, folder: Path | str) -> Path:
    """Write a bundle to `folder`, each file beside its place and then renamed; return `folder`.

    Ranges that were measured with other weights are left out.

    Raises:
        ConfigError: when the folder cannot be written to.
    """
    folder = writable_folder(Path(folder))
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_path(folder / MODEL) as path:
        path.touch()
        mode = path.stat().st_mode
        save_file(state, path, metadata={"format": "pt"})
        path.chmod(mode)  # safetensors makes files that only their owner can read
    config = config.replace(
        architecture=model.config,
        sampling=config.sampling.replace(size=model.config.image_size),
        versions=versions_of((DISTRIBUTION, "torch", "numpy")),
    )
    if config.ranges is not None and config.ranges.fingerprint != fingerprint_of(model):
        config = config.replace(ranges=None)
    write_config(config, folder)
    return folder


def from_pretrained(
    source: Path | str, device: torch.device | str = "cpu"
) -> tuple[SegmentationNetwork, BundleConfig]:
    """Load a bundle from a folder or from the hub (`user/name`): the model in evaluation mode.

    Raises:
        ConfigError: when there is no such bundle, or its configuration cannot work.
        DataError: when its configuration is not readable.
        WeightsError: when its weights are damaged or belong to another architecture.
    """
    config = read_config(source)
    path = locate(source, MODEL)
    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: the file is damaged or cut short ({first_line(error)}). Copy or download the "
            "bundle again."
        ) from None
    with torch.device("meta"):  # the weights are about to be read: do not draw others first
        model = build(config.architecture)
    own = model.state_dict()
    differing = [
        f"{name} {tuple(state[name].shape) if name in state else 'missing'}, expected "
        f"{tuple(own[name].shape) if name in own else 'no such entry'}"
        for name in sorted(own.keys() | state.keys())
        if name not in own or name not in state or own[name].shape != state[name].shape
    ]
    if differing:
        raise WeightsError(
            f"{path}: does not fit the {CONFIG} beside it in {len(differing)} entries: "
            f"{'; '.join(differing[:4])}. Restore both files of the bundle; weights from elsewhere "
            "load by create_model(weights=...)."
        )
    if broken := [name for name, value in state.items() if not torch.isfinite(value).all()]:
        raise WeightsError(
            f"{path}: holds values that are not finite (NaN or infinity) in {len(broken)} entries, "
            f"{broken[0]} among them. It would predict nothing: take another checkpoint."
        )
    model.to_empty(device=device)
    model.load_state_dict(state)
    return model.eval(), config


def push_to_hub(model: SegmentationNetwork, config: BundleConfig, repository: str) -> str:
    """Upload a bundle to the hub as `user/name` and return its address.

    Raises:
        ConfigError: without a network or permission; the message says what to do.
    """
    return upload_folder(repository, lambda folder: save_pretrained(model, config, folder))

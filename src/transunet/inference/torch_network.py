"""The network in PyTorch, as it is; the only part of prediction that needs torch."""

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transunet.bundle import BundleConfig, from_pretrained
from transunet.device import choose_device
from transunet.errors import ConfigError
from transunet.inference.combined import Ensemble
from transunet.inference.network import Network
from transunet.models.transunet import TransUNet


class TorchNetwork:
    """A model on a device, in evaluation mode while it computes.

    Raises:
        ConfigError: for a device that is not here.
    """

    def __init__(self, model: TransUNet, device: str | torch.device | None = None) -> None:
        self.place = device if isinstance(device, torch.device) else choose_device(device)
        self.model = model.to(self.place)

    @property
    def image_size(self) -> tuple[int, int]:
        """The size for which the model holds its position embeddings."""
        return self.model.config.image_size

    @property
    def device(self) -> str:
        """The device's name."""
        return str(self.place)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the architecture and of every weight."""
        digest = hashlib.sha256(self.model.config.model_dump_json().encode())
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.float32]) -> Tensor:
        """Return the logits on the model's device."""
        training = self.model.training
        if training:
            self.model.eval()
        try:
            logits: Tensor = self.model(torch.from_numpy(images).to(self.place))
            return logits.float()
        finally:
            if training:
                self.model.train()


def own_device(name: str | None) -> str | None:
    """Return the device of this process: `name`, or under torchrun each process's own GPU."""
    count = torch.cuda.device_count()
    if name is not None or "LOCAL_RANK" not in os.environ or not count:
        return name
    return f"cuda:{int(os.environ['LOCAL_RANK']) % count}"


def load_networks(
    sources: Sequence[Path | str], device: str | torch.device | None = None
) -> tuple[Network, BundleConfig]:
    """Load bundles as one network, the mean of them where there are several.

    Raises:
        ConfigError, DataError, WeightsError: as `transunet.bundle.from_pretrained`.
        ConfigError: without bundles, or when they differ in labels, preprocessing or image size.
    """
    if not sources:
        raise ConfigError("No bundle was given; expected at least one.")
    loaded = [from_pretrained(source) for source in sources]
    config = loaded[0][1]
    for source, (_, other) in zip(sources[1:], loaded[1:], strict=True):
        _check_equal(sources[0], config, source, other)
    networks = [TorchNetwork(model, device) for model, _ in loaded]
    return (networks[0] if len(networks) == 1 else Ensemble(networks)), config


def _check_equal(
    first: Path | str, config: BundleConfig, source: Path | str, other: BundleConfig
) -> None:
    pairs = {
        "labels": (config.labels, other.labels),
        "preprocessing": (config.preprocessing, other.preprocessing),
        "image_size": (config.architecture.image_size, other.architecture.image_size),
    }
    for what, (expected, found) in pairs.items():
        if expected != found:
            raise ConfigError(
                f"The bundles of an ensemble must agree, but their {what} differ: "
                f"{first} has {expected}, {source} has {found}. Leave one of them out."
            )

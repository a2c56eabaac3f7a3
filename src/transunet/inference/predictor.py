"""From a volume to a label volume on the same grid; memory is bounded by a batch of slices."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transunet.bundle import from_pretrained
from transunet.data.preprocessing import Preprocessing
from transunet.data.resize import Edge, nearest, resize
from transunet.data.volume import Volume
from transunet.device import choose_device
from transunet.errors import ConfigError, DataError
from transunet.models.decoder import upsample
from transunet.models.transunet import TransUNet

Procedure = Literal["native", "paper"]
Progress = Callable[[int, int], None]
"""Called with the slices done and the slices in all."""


class Predictor:
    """Segments volumes slice by slice.

    Two procedures: "native" (the default) resizes the logits to the slice's own size and then takes
    the label; "paper" takes the label at the network's size and enlarges it with nearest neighbour,
    as the reference does, so that published numbers can be reproduced.

    Raises:
        ConfigError: for a device that is not here or an unknown procedure.
    """

    def __init__(
        self,
        model: TransUNet,
        preprocessing: Preprocessing,
        labels: Mapping[int, str],
        *,
        device: str | torch.device | None = None,
        batch_size: int = 8,
        procedure: Procedure = "native",
    ) -> None:
        if procedure not in ("native", "paper"):
            raise ConfigError(f"Unknown procedure {procedure!r}; known: native, paper.")
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size} must be at least 1.")
        self.device = device if isinstance(device, torch.device) else choose_device(device)
        self.model = model.to(self.device)
        self.preprocessing = preprocessing
        self.labels = dict(labels)
        self.batch_size = batch_size
        self.procedure = procedure

    @classmethod
    def from_pretrained(cls, source: Path | str, **settings: Any) -> Self:
        """Load a bundle (a folder or a hub id); `settings` are the constructor's.

        Raises:
            ConfigError, DataError, WeightsError: as `transunet.bundle.from_pretrained`.
        """
        model, config = from_pretrained(source)
        return cls(model, config.preprocessing, config.labels, **settings)

    def __call__(self, volume: Volume, progress: Progress | None = None) -> Volume:
        """Return the label map of `volume`, (1, X, Y, Z) unsigned, on its very grid.

        Raises:
            DataError: for another number of channels, or voxels that are not finite.
        """
        if not np.isfinite(volume.array).all():
            raise DataError(
                f"{volume.name}: has voxels that are NaN or infinite; expected finite intensities. "
                "Repair the image before predicting."
            )
        slices = self.preprocessing.to_slices(volume)
        return self.preprocessing.from_slices(self.label_slices(slices, progress), volume)

    def label_slices(
        self, slices: NDArray[np.float32], progress: Progress | None = None
    ) -> NDArray[Any]:
        """Return the labels (S, H, W), unsigned, of normalised slices (S, C, H, W)."""
        dtype = np.uint8 if len(self.labels) <= 256 else np.uint16
        labels = np.empty((len(slices), *slices.shape[2:]), dtype)
        training = self.model.training
        self.model.eval()
        try:
            for start in range(0, len(slices), self.batch_size):
                batch = slices[start : start + self.batch_size]
                labels[start : start + len(batch)] = self._label(batch)
                if progress is not None:
                    progress(start + len(batch), len(slices))
        finally:
            self.model.train(training)
        return labels

    @torch.inference_mode()
    def _label(self, slices: NDArray[np.float32]) -> NDArray[Any]:
        height, width = slices.shape[2:]
        edge: Edge = "scipy" if self.procedure == "paper" else "kept"
        images = resize(slices, self.model.config.image_size, order=3, edge=edge)
        logits = self.model(torch.from_numpy(images).to(self.device))
        if self.procedure == "paper":
            return nearest(_argmax(logits), (height, width))
        return _argmax(upsample(logits.float(), (height, width)))


def _argmax(logits: Tensor) -> NDArray[Any]:
    return np.asarray(logits.argmax(dim=1).to(torch.int32).cpu().numpy())

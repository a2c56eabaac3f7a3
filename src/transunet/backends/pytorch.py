"""Networks in PyTorch: a model as it is, a faster form that only predicts, and `.pt2` files.

Prediction without torch imports nothing of this file.
"""

import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn
from torch.export import Dim

from transunet.backends.exported import KEYS, pack
from transunet.backends.protocol import innermost
from transunet.bundle.bundle_config import MODEL, BundleConfig, locate
from transunet.bundle.io import from_pretrained
from transunet.device import choose_device
from transunet.errors import ConfigError, DataError, first_sentence
from transunet.models.families import optimised
from transunet.models.network_fingerprint import digest_of, fingerprint_of
from transunet.models.segmentation_network import SegmentationNetwork

PROGRAM = ".pt2"
"""Suffix of a program of torch.export."""
_LONGEST = 1 << 24  # bytes of a text; a configuration takes a few thousand
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class OnDevice:
    """Base of what computes on a device of PyTorch's, and takes samples that lie there already."""

    watch: object = None
    """Set while somebody looks on who is to see each slice."""
    _device: torch.device

    @property
    def device(self) -> str:
        """The device's name."""
        return str(self._device)

    @property
    def takes_tensors(self) -> bool:
        """Whether samples are better prepared on the device: anywhere but on the CPU."""
        return self._device.type != "cpu"

    def upload(self, images: NDArray[Any]) -> Tensor:
        """Return `images` on the device, float32; on CUDA nobody waits until they are there."""
        pinned = self._device.type == "cuda"
        # From memory that stays where it is the device fetches by itself, in its queue's order.
        held = torch.empty(images.shape, pin_memory=pinned)
        held.numpy()[...] = images
        return held.to(self._device, non_blocking=pinned)


class TorchNetwork(OnDevice):
    """A model on a device, in evaluation mode while it computes; it may be trained in between.

    Raises:
        ConfigError: for a device that is not here.
    """

    def __init__(
        self, model: SegmentationNetwork, device: str | torch.device | None = None
    ) -> None:
        self._device = choose_device(device)
        self.model = model.to(self._device)

    @property
    def image_size(self) -> tuple[int, ...]:
        """The size for which the model holds its position embeddings."""
        return self.model.config.image_size

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the architecture and of every weight."""
        return fingerprint_of(self.model)

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.float32] | Tensor) -> Tensor:
        """Return the logits on the model's device."""
        with evaluating(self.model):
            logits: Tensor = self.model(_tensor(images).to(self._device))
        return logits.float()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Have `model` in evaluation mode, and afterwards in the mode it was in."""
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


class FixedNetwork(OnDevice):
    """A module that stays as it is: a fused model or an exported program.

    Args:
        module: images (B, C, *spatial) in, logits (B, classes, *spatial) out.
        image_size: sides of the samples that it will get.
        fingerprint: SHA-256 of what its results depend on, or what returns it when it is asked for.
        device: where it computes.
        precision: "fp32", "bf16" or "fp16": of the weights and all that is computed.
        compiled: have `torch.compile` translate it, which takes a minute at the first call.

    Raises:
        ConfigError: for a device that is not here.
    """

    def __init__(
        self,
        module: nn.Module,
        image_size: tuple[int, ...],
        fingerprint: str | Callable[[], str],
        device: str | torch.device | None = None,
        precision: str = "fp32",
        compiled: bool = False,
    ) -> None:
        self.image_size, self._fingerprint = image_size, fingerprint
        self.compiled, self.precision = compiled, precision
        self._device = choose_device(device)
        self._type = _TYPES.get(precision, torch.float32)
        # Convolutions of slices are faster with the channels last, on either processor.
        last = len(image_size) == 2 and self._device.type in ("cpu", "cuda")
        self._layout = torch.channels_last if last else torch.contiguous_format
        self.module = module.to(self._device, self._type)
        self.module.to(memory_format=self._layout)  # type: ignore[call-overload]
        # Each size of a batch is compiled for itself: that is faster than one for all.
        self._run = torch.compile(self.module, dynamic=False) if compiled else self.module
        self._batch = 0  # the largest so far, which smaller ones are filled up to when compiled

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what its results depend on; reading every weight takes a second."""
        return self._fingerprint if isinstance(self._fingerprint, str) else self._fingerprint()

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.float32] | Tensor) -> Tensor:
        """Return the logits on the module's device.

        Raises:
            ConfigError: when it cannot be compiled.
        """
        batch, x = len(images), _tensor(images)
        if self.compiled:
            self._batch = max(self._batch, batch)
            x = F.pad(x, [0, 0] * (x.ndim - 1) + [0, self._batch - batch])
        x = x.to(self._device, self._type, memory_format=self._layout)
        if not self.compiled:
            return self._run(x).float()  # type: ignore[no-any-return]
        from torch._dynamo.exc import TorchDynamoException  # seconds that eager need not wait
        from torch._inductor import config

        try:
            # Weights become constants: on a CPU they are then packed once for its products.
            with config.patch(freezing=self._device.type == "cpu"):
                return self._run(x)[:batch].float()  # type: ignore[no-any-return]
        except TorchDynamoException as error:
            raise ConfigError(
                f"The network cannot be compiled on this machine: {first_sentence(error)} "
                "A C++ compiler (cpu) or Triton (cuda) may be missing. Take the engine eager "
                "(--engine eager)."
            ) from error


def _tensor(images: NDArray[np.float32] | Tensor) -> Tensor:
    return images if isinstance(images, Tensor) else torch.from_numpy(images)


def open_pytorch(
    source: Path | str,
    image_size: tuple[int, ...],
    fingerprint: str,
    device: str | None,
    precision: str = "fp32",
    compiled: bool = False,
) -> FixedNetwork:
    """Return the network of a bundle or of a `.pt2` file; that can run any code that is in it.

    Raises:
        ConfigError: for a device that is not here, or when there is no such bundle.
        DataError, WeightsError: when it is damaged.
    """
    if Path(source).suffix == PROGRAM and not Path(source).is_dir():
        try:
            module = torch.export.load(source).module()
        except Exception as error:  # whatever a damaged archive causes
            raise DataError(
                f"{source}: PyTorch {torch.__version__} cannot load it: {first_sentence(error)} "
                "Export the bundle anew."
            ) from error
        return FixedNetwork(module, image_size, fingerprint, device, precision, compiled)
    weights = locate(source, MODEL)
    loaded, (model, config) = weights.stat(), from_pretrained(source)

    def fingerprint_of_file() -> str:
        now = weights.stat()
        if (now.st_ino, now.st_mtime_ns) != (loaded.st_ino, loaded.st_mtime_ns):
            raise DataError(f"{weights} was replaced after it was loaded. Load it again.")
        with safe_open(weights, "numpy") as file:
            tensors = ((name, file.get_tensor(name)) for name in sorted(file.keys()))
            return digest_of(config.architecture, tensors)

    chosen = torch.device(device) if device else None  # an engine's is known to be here
    return FixedNetwork(
        optimised(model), image_size, fingerprint_of_file, chosen, precision, compiled
    )


open_compiled = partial(open_pytorch, compiled=True)


def model_of(network: object) -> SegmentationNetwork | None:
    """Return the model that `network` computes with in fp32; None where there is none."""
    network = innermost(network)
    if isinstance(network, TorchNetwork):
        return network.model
    if isinstance(network, FixedNetwork) and network.precision == "fp32":
        return network.module if isinstance(network.module, SegmentationNetwork) else None
    return None


def texts_of(path: Path) -> Mapping[str, str]:
    """Return the texts that the `.pt2` file at `path` carries, without loading its program.

    Raises:
        DataError: when the file is damaged.
    """
    texts = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                _, _, name = entry.filename.partition("/extra/")
                if name in KEYS:
                    if entry.file_size > _LONGEST:
                        raise ValueError("a text is too long")
                    texts[name] = archive.read(entry).decode()
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(f"{path}: is damaged ({error}). Export the bundle anew.") from None
    return texts


def write(
    model: SegmentationNetwork,
    config: BundleConfig,
    path: Path,
    precision: str = "fp32",
) -> None:
    """Write a `.pt2` program of torch.export for any batch, at the bundle's height and width."""
    assert precision == "fp32"
    example = (torch.zeros(2, model.config.in_channels, *model.config.image_size),)
    with quiet():
        any_batch = ({0: Dim("batch")},)
        program = torch.export.export(optimised(model), example, dynamic_shapes=any_batch)
        # Not to the file itself: on a full disk PyTorch's writer ends the whole process.
        buffer = BytesIO()
        torch.export.save(program, buffer, extra_files=pack(config, fingerprint_of(model)))
    path.write_bytes(buffer.getbuffer())


@contextmanager
def quiet() -> Iterator[None]:
    """Keep from the user what exporters print about their own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

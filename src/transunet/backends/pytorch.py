"""Networks in PyTorch: a model as it is, and what predicts only, made faster.

The only parts of prediction that need torch are here and in `converted`.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from transunet.device import choose_device
from transunet.errors import ConfigError, DataError, first_sentence
from transunet.models.transunet2d.network import TransUNet
from transunet.models.transunet2d.optimised import fuse

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchNetwork:
    """A model on a device, in evaluation mode while it computes; it may be trained in between.

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
        return fingerprint_of(self.model)

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.float32]) -> Tensor:
        """Return the logits on the model's device."""
        with evaluating(self.model):
            logits: Tensor = self.model(torch.from_numpy(images).to(self.place))
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


class FixedNetwork:
    """A module that stays as it is: a fused model or an exported program.

    Args:
        module: images (B, C, H, W) in, logits (B, classes, H, W) out.
        image_size: height and width of the slices it will get.
        fingerprint: SHA-256 of what its results depend on.
        device: where it computes.
        precision: "fp32", "bf16" or "fp16": of the weights and all that is computed.
        compiled: have `torch.compile` translate it, which takes a minute at the first call.

    Raises:
        ConfigError: for a device that is not here.
    """

    def __init__(
        self,
        module: nn.Module,
        image_size: tuple[int, int],
        fingerprint: str,
        *,
        device: str | torch.device | None = None,
        precision: str = "fp32",
        compiled: bool = False,
    ) -> None:
        self.image_size, self.fingerprint = image_size, fingerprint
        self.compiled, self.precision = compiled, precision
        self.place = device if isinstance(device, torch.device) else choose_device(device)
        self._type = _TYPES[precision]
        # Convolutions of either processor are faster with the channels last.
        last = self.place.type in ("cpu", "cuda")
        self._layout = torch.channels_last if last else torch.contiguous_format
        self.module = module.to(self.place, self._type)
        self.module.to(memory_format=self._layout)  # type: ignore[call-overload]
        # Each size of a batch is compiled for itself: that is faster than one for all.
        self._run = torch.compile(self.module, dynamic=False) if compiled else self.module
        self._batch = 0  # the largest so far, which smaller ones are filled up to when compiled

    @property
    def device(self) -> str:
        """The device's name."""
        return str(self.place)

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.float32]) -> Tensor:
        """Return the logits on the module's device.

        Raises:
            ConfigError: when it cannot be compiled.
        """
        batch = len(images)
        if self.compiled:
            self._batch = max(self._batch, batch)
            images = np.pad(images, ((0, self._batch - batch), (0, 0), (0, 0), (0, 0)))
        x = torch.from_numpy(images).to(self.place, self._type, memory_format=self._layout)
        return self._logits(x)[:batch].float()

    def _logits(self, x: Tensor) -> Tensor:
        if not self.compiled:
            return self._run(x)  # type: ignore[no-any-return]
        from torch._dynamo.exc import TorchDynamoException  # seconds that eager need not wait
        from torch._inductor import config

        try:
            # Weights become constants: on a CPU they are then packed once for its products.
            with config.patch(freezing=self.place.type == "cpu"):
                return self._run(x)  # type: ignore[no-any-return]
        except TorchDynamoException as error:
            raise ConfigError(
                f"The network cannot be compiled on this machine: {first_sentence(error)} "
                "A C++ compiler (cpu) or Triton (cuda) may be missing. Take the engine eager "
                "(--engine eager)."
            ) from error


def fused_network(
    model: TransUNet, device: str | None = None, precision: str = "fp32", compiled: bool = False
) -> FixedNetwork:
    """Return a network that computes what `model` computes, made for predicting.

    Raises:
        ConfigError: for a device that is not here.
    """
    return FixedNetwork(
        fuse(model),
        model.config.image_size,
        fingerprint_of(model),
        device=device,
        precision=precision,
        compiled=compiled,
    )


def model_of(network: object) -> TransUNet | None:
    """Return the model that `network` computes with in fp32; None where there is none."""
    if isinstance(network, TorchNetwork):
        return network.model
    if isinstance(network, FixedNetwork) and network.precision == "fp32":
        return network.module if isinstance(network.module, TransUNet) else None
    return None


def program_network(
    path: Path,
    image_size: tuple[int, int],
    fingerprint: str,
    device: str | None = None,
    compiled: bool = False,
) -> FixedNetwork:
    """Return the network of a `.pt2` file; loading it can run any code that is in the file.

    Raises:
        DataError: when it is damaged, or holds another kind of network.
        ConfigError: for a device that is not here.
    """
    try:
        program = torch.export.load(path)
        module = program.module()
    except Exception as error:  # whatever a damaged archive causes
        raise DataError(
            f"{path}: PyTorch {torch.__version__} cannot load it: {first_sentence(error)} "
            "Export the bundle anew."
        ) from error
    return FixedNetwork(module, image_size, fingerprint, device=device, compiled=compiled)


def fingerprint_of(model: TransUNet) -> str:
    """Return the SHA-256 of a model's architecture and of every weight."""
    digest = hashlib.sha256(model.config.model_dump_json().encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()

"""One optimiser step: forward, loss, backward, update."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from transunet.errors import TransUNetError

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context that computes in `precision` on `device`."""
    dtype = _HALF.get(precision, torch.bfloat16)
    return torch.autocast(device.type, dtype=dtype, enabled=precision in _HALF)


class NonFiniteLossError(TransUNetError):
    """The loss became NaN or infinite; the parameters were not updated."""


@dataclass(frozen=True)
class Arithmetic:
    """In which numbers a step is computed, and in how many pieces."""

    precision: str = "fp32"
    accumulate: int = 1
    """Pieces of a batch, computed one after the other; never more than the batch has images."""
    clip_norm: float | None = None
    scaler: torch.amp.GradScaler = field(
        default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False)
    )
    """Keeps small fp16 gradients from vanishing; disabled for the other precisions."""


def train_step(
    model: nn.Module,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    arithmetic: Arithmetic | None = None,
    guidance: Tensor | None = None,
) -> float:
    """Update `model` once from one batch and return the loss before the update.

    The gradients stay in place until the next step.

    Args:
        model: images -> what `loss` takes; already in training mode.
        loss: (outputs, labels) -> scalar.
        optimizer: over the model's parameters, its learning rate already set.
        images: (B, C, *spatial), float32, on the model's device.
        labels: (B, *spatial), int64.
        arithmetic: precision, pieces and clipping; plain float32 when absent.
        guidance: of a network with clicks, what they say of the images.

    Raises:
        NonFiniteLossError: when the loss is NaN or infinite; parameters are left as they were.
    """
    how = arithmetic or Arithmetic()
    optimizer.zero_grad(set_to_none=True)
    pieces = min(how.accumulate, len(images))
    said = (
        [{}] * pieces
        if guidance is None
        else [{"guidance": part} for part in guidance.tensor_split(pieces)]
    )
    total = torch.zeros((), device=images.device)
    for i, (piece, target, guided) in enumerate(
        zip(images.tensor_split(pieces), labels.tensor_split(pieces), said, strict=True)
    ):
        exchange: AbstractContextManager[None] = nullcontext()
        if isinstance(model, DistributedDataParallel) and i < pieces - 1:
            exchange = model.no_sync()  # gradients go out once per batch, with its last piece
        with exchange:
            with autocast(images.device, how.precision):
                share = loss(model(piece, **guided), target) / pieces
            how.scaler.scale(share).backward()
        total += share.detach()
    value = float(total)  # the device catches up here: the price of never stepping on a NaN
    if not isfinite(value):
        raise NonFiniteLossError(f"The loss became {value}.")
    if how.clip_norm is not None:
        how.scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), how.clip_norm)
    how.scaler.step(optimizer)
    how.scaler.update()
    return value

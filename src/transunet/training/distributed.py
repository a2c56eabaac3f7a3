"""Several processes that share every batch and compute what one process would.

Started by `torchrun`, which tells each process its rank in the environment. Three things make the
result the same as alone: the loss sums over all processes before it divides, BatchNorm takes its
statistics over all of them, and gradients are exchanged.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

_TIMEOUT = timedelta(hours=2)  # others may wait for a long validation or checkpoint


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that share a batch, and which of them this one is."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Number on this machine, which chooses the device."""

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def largest(self, values: list[float], device: torch.device) -> list[float]:
        """Return the largest of each of `values` over all processes, the same to each of them."""
        if self.size == 1:
            return values
        shared = torch.tensor(values, device=device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return shared.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Return the value of every process, by rank, to each of them."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Go on when every process has come here."""
        if self.size > 1:
            dist.barrier()


ALONE = ProcessGroup()
"""One process that shares with no other."""


@contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """Join the other processes that torchrun started, if it started this one.

    Args:
        device: the type of device that they train on; "cuda" takes NCCL, others gloo.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cuda":
        torch.cuda.set_device(local_rank)
    store, rank, size = next(rendezvous("env://", timeout=_TIMEOUT))
    # Find the others, and not those of the attempt before torchrun restarted us: the store in which
    # they leave their addresses may outlive them.
    store = PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_TIMEOUT)
    try:
        yield ProcessGroup(rank, size, local_rank)
    finally:
        dist.destroy_process_group()


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Every process's loss depends on this one's share. The factor that this makes the gradient
        # too large by is the one by which averaging gradients makes it too small.
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient


def sum_over_processes(value: Tensor) -> Tensor:
    """Return the sum of `value` over all processes, differentiably; alone, `value` itself."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return value
    return _Sum.apply(value)  # type: ignore[no-any-return, no-untyped-call]


class SharedBatchNorm(_BatchNorm):
    """BatchNorm whose batch is that of all processes, on any device.

    For images of any number of axes. PyTorch's SyncBatchNorm does the same, on CUDA only. The
    parameters' names stay.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, *spatial)."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        values, over = x.float(), (0, *range(2, x.ndim))
        per_channel = (-1, *(1 for _ in over[1:]))
        count = values.new_tensor([values.numel() / values.shape[1]])
        total = sum_over_processes(torch.cat([values.sum(over), count]))
        mean, count = total[:-1] / total[-1], total[-1]
        # The variance in a second pass: sums of squares would cancel.
        squares = (values - mean.view(per_channel)).square().sum(over)
        var = sum_over_processes(squares) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        scale = torch.rsqrt(var + self.eps) * self.weight
        shift = self.bias - mean * scale
        return torch.addcmul(shift.view(per_channel), x, scale.view(per_channel)).to(x.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        """Take any number of axes; PyTorch's forward calls this."""


def share_batches(model: nn.Module, world: ProcessGroup, device: torch.device) -> nn.Module:
    """Return `model` such that a step over every process's part is a step over the whole batch."""
    if world.size == 1:
        return model
    _share_statistics(model)
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids)


def _share_statistics(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            shared = SharedBatchNorm(child.num_features, child.eps, child.momentum)
            shared.load_state_dict(child.state_dict())
            setattr(module, name, shared.to(child.weight.device))
        else:
            _share_statistics(child)

"""`--batch-size auto`: in how few pieces a batch fits into the memory that there is.

The batch stays the recipe's, since the learning rate belongs to it; only how many slices of it are
computed at once is found.
"""

import os
from math import ceil
from pathlib import Path

import torch
from torch import Tensor

from transunet.errors import ConfigError
from transunet.training.job import Job, make_loss
from transunet.training.losses import alone
from transunet.training.step import train_step

BATCH = 24
"""Slices per step that `auto` stands for: the paper's."""

_SHARE = 0.85  # of the free memory that a step may fill; the rest is for what cannot be foreseen
_TRANSIENT = 1.5  # what a step holds at most, over what it keeps for the backward pass


def pieces_that_fit(job: Job, world: int = 1) -> int:
    """Return the smallest number of equal pieces in which a process's part of a batch fits.

    On CUDA by trying; elsewhere by counting what a step keeps. `job` is spoiled by it.

    Args:
        job: alone, with the recipe's network and precision.
        world: processes that share a batch.

    Raises:
        ConfigError: when not even one slice fits, naming what to lower.
    """
    for pieces in (n for n in range(1, BATCH + 1) if BATCH % n == 0):
        if _fits(job, ceil(BATCH / world / pieces)):
            return pieces
    raise ConfigError(
        f"Not even one slice of {job.recipe.image_size} pixels fits into the memory of "
        f"{job.device} with {job.recipe.model}. Lower --image-size, choose a smaller --model, or "
        "--set gradient_checkpointing=true."
    )


def _fits(job: Job, slices: int) -> bool:
    if job.device.type != "cuda":
        return _estimated(job, slices) <= _SHARE * _available()
    free, _ = torch.cuda.mem_get_info(job.device)
    torch.cuda.reset_peak_memory_stats(job.device)
    try:
        images, labels = _blank(job, slices)
        train_step(
            job.trained, make_loss(job.recipe, alone), job.optimizer, images, labels, job.arithmetic
        )
        return torch.cuda.max_memory_allocated(job.device) <= _SHARE * free
    except torch.OutOfMemoryError:
        return False
    finally:
        job.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()


def _estimated(job: Job, slices: int) -> float:
    """Return the bytes of a step on `slices` slices, from what steps on one and on two keep."""
    one, two = _kept(job, 1), _kept(job, 2)
    weights = sum(p.numel() * p.element_size() for p in job.bare.parameters())
    states = 2 if job.recipe.optimizer == "adamw" else 1
    return _TRANSIENT * (one + (slices - 1) * (two - one)) + (1 + states) * weights


def _kept(job: Job, slices: int) -> int:
    """Return the bytes that a forward pass keeps for the backward pass."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    images, labels = _blank(job, slices)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = make_loss(job.recipe, alone)(job.bare(images), labels)
    del loss  # held until here, so that no storage was counted for another
    return sum(storages.values())


def _blank(job: Job, slices: int) -> tuple[Tensor, Tensor]:
    size = job.recipe.image_size
    images = torch.zeros(slices, job.model.config.in_channels, *size, device=job.device)
    return images, torch.zeros(slices, *size, dtype=torch.int64, device=job.device)


def _available() -> float:
    """Return the bytes of memory that this machine, or this container, can still give."""
    known = [_meminfo(), _container()]
    if any(known):
        return min(value for value in known if value)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2


def _meminfo() -> float | None:
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable")]
    return 1024 * float(found[0]) if found else None


def _container() -> float | None:
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if not limit.exists() or limit.read_text().strip() == "max":
        return None
    return float(limit.read_text()) - float(used.read_text())

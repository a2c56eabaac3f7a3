"""What fits into the memory that there is: `--batch-size auto` and `--image-size auto`.

The batch stays the recipe's, since the learning rate belongs to it; only how many slices of it are
computed at once is found.
"""

import sys
from math import ceil
from pathlib import Path

import torch
from torch import Tensor

from transunet.data.planning import available_memory, derive_defaults
from transunet.data.store import Store
from transunet.errors import ConfigError
from transunet.models.transunet2d.config import variant
from transunet.training.losses import alone
from transunet.training.recipe import Recipe
from transunet.training.step import train_step
from transunet.training.trainer import Job, make_loss

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
    if job.model.config.grid == (1, 1):
        return 1  # the least there is, and BatchNorm would refuse to try a single slice
    for pieces in (n for n in range(1, BATCH + 1) if BATCH % n == 0):
        if _fits(job, ceil(BATCH / world / pieces)):
            return pieces
    raise ConfigError(
        f"Not even one slice of {job.recipe.size} pixels fits into the memory of "
        f"{job.device} with {job.recipe.model}. Lower --image-size, choose a smaller --model, or "
        "--set gradient_checkpointing=true."
    )


def size_that_fits(recipe: Recipe, store: Store, device: torch.device) -> tuple[int, int]:
    """Return the image size for a store's slices, in whole patches of the recipe's network."""
    derived = derive_defaults(store.fingerprint, free_memory(device), store.preprocessing)
    patch = variant(recipe.model).patch_size
    height, width = (ceil(side / patch) * patch for side in derived.image_size.value)
    return height, width


def _fits(job: Job, slices: int) -> bool:
    if job.device.type != "cuda":
        return _estimated(job, slices) <= _SHARE * free_memory(job.device)
    free = free_memory(job.device)
    torch.cuda.reset_peak_memory_stats(job.device)
    try:
        images, labels = _blank(job, slices)
        loss = make_loss(job.recipe, alone, job.store.ignored)
        train_step(job.trained, loss, job.optimizer, images, labels, job.arithmetic)
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
        loss = make_loss(job.recipe, alone, job.store.ignored)(job.bare(images), labels)
    del loss  # held until here, so that no storage was counted for another
    return sum(storages.values())


def _blank(job: Job, slices: int) -> tuple[Tensor, Tensor]:
    size = job.recipe.size
    images = torch.zeros(slices, job.model.config.in_channels, *size, device=job.device)
    return images, torch.zeros(slices, *size, dtype=torch.int64, device=job.device)


def free_memory(device: torch.device) -> int:
    """Return the bytes of memory that `device` can still give."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(available_memory(), _left_in_container())


def _left_in_container() -> int:
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if not limit.exists() or limit.read_text().strip() == "max":
        return sys.maxsize
    return int(limit.read_text()) - int(used.read_text())

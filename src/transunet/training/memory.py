"""What fits into the memory that there is: `--batch-size auto` and `--image-size auto`.

The batch stays the recipe's, since the learning rate belongs to it; only how many slices of it are
computed at once is measured.
"""

from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from transunet.data.planning import BATCH, ENOUGH, image_sides
from transunet.data.store import Store
from transunet.device import free_memory
from transunet.errors import ConfigError
from transunet.models.variants import variant
from transunet.training.distributed import ALONE, ProcessGroup
from transunet.training.losses import no_reduce
from transunet.training.recipe import Recipe
from transunet.training.step import Arithmetic, train_step
from transunet.training.trainer import DeeplySupervised, make_loss, make_model, make_optimizer

_SHARE = 0.85  # of the free memory that a step may fill; the rest is for what cannot be foreseen
_TRANSIENT = 1.5  # what a step holds at most, over what it keeps for the backward pass


def fit_to_memory(
    recipe: Recipe, store: Store, device: torch.device, world: ProcessGroup = ALONE
) -> Recipe:
    """Return `recipe` with sizes for the memory of `device` where it says `auto`.

    The image size is that of the store's median slice, smaller where fewer than 8 slices fit; the
    batch becomes 24 slices in as few pieces as fit. Processes agree on the first one's image size,
    and on the pieces of the one that needs most.

    Raises:
        ConfigError: when not even one slice fits, naming what to lower.
    """
    if recipe.image_size == "auto":
        sides = image_sides(store.fingerprint, max(variant(recipe.model).stride))
        fits = (_fits(recipe.replace(image_size=n), store, device, ENOUGH) for n in sides[:-1])
        side = next((n for n, fit in zip(sides, fits, strict=False) if fit), sides[-1])
        recipe = recipe.replace(image_size=world.gather(side)[0])
    if recipe.batch_size == "auto":
        pieces = max(world.gather(_pieces(recipe, store, device, world.size)))
        recipe = recipe.replace(batch_size=BATCH, accumulate=pieces)
    return recipe


def _pieces(recipe: Recipe, store: Store, device: torch.device, world_size: int) -> int:
    """Return in how few equal pieces a process's part of a batch of 24 slices fits."""
    if variant(recipe.model, image_size=recipe.size).tokens == 1:
        return 1  # the least there is, and BatchNorm would refuse to try a single slice
    for pieces in (n for n in range(1, BATCH + 1) if BATCH % n == 0):
        if _fits(recipe, store, device, ceil(BATCH / world_size / pieces)):
            return pieces
    raise ConfigError(
        f"Not even one slice of {recipe.size} pixels fits into the memory of {device} with "
        f"{recipe.model}. Lower --image-size, choose a smaller --model, or "
        "--set gradient_checkpointing=true."
    )


def _fits(recipe: Recipe, store: Store, device: torch.device, slices: int) -> bool:
    """Return whether a step on `slices` slices fits: tried on CUDA, elsewhere counted."""
    free = _SHARE * free_memory(device)
    if device.type != "cuda":
        return _counted(recipe, store, slices) <= free
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        network = _network(recipe, store, device)
        if recipe.compile:
            network.compile()
        optimizer, loss = (
            make_optimizer(recipe, network),
            make_loss(recipe, no_reduce, store.ignored),
        )
        scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        arithmetic = Arithmetic(recipe.precision, scaler=scaler)
        train_step(network, loss, optimizer, *_blank(recipe, store, device, slices), arithmetic)
        return torch.cuda.max_memory_allocated(device) - before <= free
    except torch.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()


def _counted(recipe: Recipe, store: Store, slices: int) -> float:
    """Return the bytes of a step, from what forward passes on one and two slices keep.

    On the device "meta", which knows shapes and computes nothing.
    """
    meta = torch.device("meta")
    network, loss = _network(recipe, store, meta), make_loss(recipe, no_reduce, store.ignored)
    kept = []
    for number in (1, 2):
        storages: dict[int, torch.UntypedStorage] = {}

        def note(tensor: Tensor, storages: dict[int, Any] = storages) -> Tensor:
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage  # held, so that no other gets its number
            return tensor

        images, labels = _blank(recipe, store, meta, number)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss(network(images), labels)
        kept.append(sum(storage.nbytes() for storage in storages.values()))
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    states = 2 if recipe.optimizer == "adamw" else 1
    kept_of_one, kept_of_two = kept
    activations = kept_of_one + (slices - 1) * (kept_of_two - kept_of_one)
    return _TRANSIENT * activations + (1 + states) * weights


def _network(recipe: Recipe, store: Store, device: torch.device) -> nn.Module:
    with device:
        model = make_model(recipe, store)
        model.set_gradient_checkpointing(recipe.gradient_checkpointing)
        depths = len(recipe.deep_supervision)
        network: nn.Module = DeeplySupervised(model, depths) if depths else model
    return network.train()


def _blank(
    recipe: Recipe, store: Store, device: torch.device, slices: int
) -> tuple[Tensor, Tensor]:
    channels = recipe.sampling.input_channels(len(store.preprocessing.channels))
    size = recipe.sampling.size
    images = torch.zeros(slices, channels, *size, device=device)
    return images, torch.zeros(slices, *size, dtype=torch.int64, device=device)

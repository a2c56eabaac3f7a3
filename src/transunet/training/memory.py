"""What data and memory decide: `auto` sizes of images and batches, and a 3D network's plan.

The batch stays the recipe's, since the learning rate belongs to it; only how many samples of it are
computed at once is measured.
"""

from bisect import bisect_left
from collections.abc import Sequence
from math import ceil, inf, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transunet.data.planning import (
    BATCH,
    ENOUGH,
    PATCHES,
    image_sides,
    most_patches,
    planned_patches,
)
from transunet.data.preprocessing import coarse_axis
from transunet.data.store import Store
from transunet.data.text import extents
from transunet.device import free_memory
from transunet.errors import ConfigError
from transunet.models.transunet3d.config import TrunkPlan, plan_trunk, strides_of
from transunet.models.variants import variant
from transunet.training.distributed import ALONE, ProcessGroup
from transunet.training.losses import no_reduce
from transunet.training.recipe import Recipe
from transunet.training.step import Arithmetic, train_step
from transunet.training.trainer import make_loss, make_model, make_optimizer, trained_network

_SHARE = 0.85  # of the free memory that a step may fill; the rest is for what cannot be foreseen
_IN_FLIGHT = 4  # tensors of the largest size that a step holds beside what it keeps for its end
_LIBRARIES = 64 << 20  # bytes that kernels and the allocator take for themselves
_MOST_VOXELS = {"cpu": 64**3}  # of a patch, and of a step, as time sets the limit before memory
_MOST_VOXELS_ELSEWHERE = 128**3


def fit_to_memory(
    recipe: Recipe, store: Store, device: torch.device, world: ProcessGroup = ALONE
) -> Recipe:
    """Return `recipe` with precision and sizes for `device` where it says `auto`.

    The image size is that of the store's median slice, smaller where fewer than 8 slices fit; the
    batch becomes 24 slices in as few pieces as fit. Patches have the median volume's size, or as
    much of it as fits twice; the batch becomes as many of them as fit and see no more than a
    twentieth of the data, but 2 at least. Processes agree on the first one's image size, and on the
    batch and pieces of the one that can do least.

    Raises:
        ConfigError: when not even one slice fits, naming what to lower.
    """
    if recipe.precision == "auto":
        half = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        recipe = recipe.replace(precision="bf16" if half else "fp32")
    if recipe.axes == 3:
        recipe = _patches_fitted(recipe, store, device, world)
    elif recipe.image_size == "auto":
        sides = image_sides(store.fingerprint, max(variant(recipe.model).stride))
        fits = (_fits(recipe.replace(image_size=n), store, device, ENOUGH) for n in sides[:-1])
        side = next((n for n, fit in zip(sides, fits, strict=False) if fit), sides[-1])
        recipe = recipe.replace(image_size=world.gather(side)[0])
    if recipe.batch_size == "auto":
        batch = BATCH if recipe.axes == 2 else _patches_per_step(recipe, store, device, world)
        pieces = max(world.gather(_pieces(recipe, store, device, batch, world.size)))
        recipe = recipe.replace(batch_size=batch, accumulate=pieces)
    return recipe


def planned(recipe: Recipe, spacing_mm: Sequence[float] = (1, 1, 1)) -> Recipe:
    """Return `recipe` with poolings and kernels for its patches, where it says none.

    The patch is rounded up to what they divide. A recipe for slices stays as it is.

    Args:
        recipe: its image size may be `auto` still, which leaves the variant's own plan.
        spacing_mm: millimetres from voxel to voxel along each axis of the working volumes.

    Raises:
        ConfigError: for a patch that is too small to be halved.
    """
    if recipe.axes == 2 or recipe.image_size == "auto" or "poolings" in recipe.architecture:
        return recipe
    plan = plan_trunk(recipe.image_size, spacing_mm)
    if not plan.poolings:
        raise ConfigError(
            f"Patches of {extents(recipe.image_size)} voxels are too small to be "
            f"halved, as {recipe.model} does. Take an --image-size of 8 or more."
        )
    trunk = {"poolings": plan.poolings, "kernels": plan.kernels}
    architecture = {**trunk, **recipe.architecture}
    return recipe.replace(image_size=plan.image_size, architecture=architecture)


def _patches_fitted(
    recipe: Recipe, store: Store, device: torch.device, world: ProcessGroup
) -> Recipe:
    """Return `recipe` with a patch, a plan for it and the axis that augmentation spares."""
    cases = store.cases.values()
    spacing = [float(mm) for mm in np.median([case.spacing_mm for case in cases], axis=0)]
    if recipe.augmentation.spared_axis == "auto":
        spared = coarse_axis(spacing)
        recipe = recipe.replace(augmentation=recipe.augmentation.replace(spared_axis=spared))
    if recipe.image_size != "auto":
        return planned(recipe, spacing)
    most = _most_voxels(recipe, device)

    def rule(size: Sequence[int], spacing_mm: Sequence[float]) -> TrunkPlan:
        if not (own := recipe.architecture.get("poolings")):
            return plan_trunk(size, spacing_mm)
        rounded = (ceil(n / step) * step for n, step in zip(size, strides_of(own), strict=True))
        return TrunkPlan(tuple(rounded), own, ())

    def fits(plan: TrunkPlan) -> bool:
        if prod(plan.image_size) > most:
            return False
        return _fits(
            planned(recipe.replace(image_size=plan.image_size), spacing), store, device, PATCHES
        )

    fewest = 3 if recipe.network().num_queries else 1
    plan = planned_patches(store.fingerprint, rule, fits, poolings=fewest)
    agreed = world.gather(plan.image_size)[0]
    return planned(recipe.replace(image_size=agreed), spacing)


def _most_voxels(recipe: Recipe, device: torch.device) -> float:
    """Return how many voxels a patch, and a step, may have for the time that it takes.

    Who names a memory plans for that, maybe of another machine than this one.
    """
    return inf if recipe.memory_gib else _MOST_VOXELS.get(device.type, _MOST_VOXELS_ELSEWHERE)


def _patches_per_step(
    recipe: Recipe, store: Store, device: torch.device, world: ProcessGroup
) -> int:
    """Return how many patches make a step: as many as data, time and memory allow, but 2."""
    in_time = _most_voxels(recipe, device) / prod(recipe.size)
    more = range(PATCHES + 1, int(min(most_patches(store.fingerprint, recipe.size), in_time)) + 1)
    fitting = bisect_left(
        more, True, key=lambda n: not _fits(recipe, store, device, ceil(n / world.size))
    )
    agreed: int = min(world.gather(PATCHES + fitting))
    return max(agreed, world.size)


def _pieces(recipe: Recipe, store: Store, device: torch.device, batch: int, world_size: int) -> int:
    """Return in how few equal pieces a process's part of a batch fits."""
    if recipe.network().tokens == 1:
        return 1  # the least there is, and BatchNorm would refuse to try a single slice
    for pieces in (n for n in range(1, batch + 1) if batch % n == 0):
        if _fits(recipe, store, device, ceil(batch / world_size / pieces)):
            return pieces
    kind, unit = ("slice", "pixels") if recipe.axes == 2 else ("patch", "voxels")
    size, gib = extents(recipe.size), 2**30
    raise ConfigError(
        f"Not even one {kind} of {size} {unit} fits into the memory of {device} with "
        f"{recipe.model}: a step needs about {_counted(recipe, store, 1) / gib:.1f} GiB, and "
        f"{_room(recipe, device) / gib:.1f} GiB may be filled. Lower --image-size, choose a "
        "smaller --model, or --set gradient_checkpointing=true."
    )


def _room(recipe: Recipe, device: torch.device) -> float:
    """Return the bytes that a step may fill: of the memory that was named, or that is free."""
    return _SHARE * (recipe.memory_gib * 2**30 if recipe.memory_gib else free_memory(device))


def _fits(recipe: Recipe, store: Store, device: torch.device, slices: int) -> bool:
    """Return whether a step on `slices` slices fits: tried on CUDA, elsewhere counted."""
    if device.type != "cuda":
        return _counted(recipe, store, slices) <= _room(recipe, device)
    torch.cuda.empty_cache()  # what earlier tries gave back would count as taken
    room = _room(recipe, device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        network = _network(recipe, store, device)
        if recipe.compile:
            network.compile(dynamic=False)
        optimizer, loss = make_optimizer(recipe, network), _loss(recipe, store)
        scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        arithmetic = Arithmetic(recipe.precision, scaler=scaler)
        train_step(network, loss, optimizer, *_blank(recipe, store, device, slices), arithmetic)
        return torch.cuda.max_memory_allocated(device) - before <= room
    except torch.OutOfMemoryError:
        return False


def _counted(recipe: Recipe, store: Store, slices: int) -> float:
    """Return the bytes of a step, from what forward passes on one and two slices keep.

    On the device "meta", which knows shapes and computes nothing. Steps on a CPU took between 18 %
    less and 5 % more (`benchmarks/step_memory.py`).
    """
    meta = torch.device("meta")
    network, loss = _network(recipe, store, meta), _loss(recipe, store)
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
        sizes = [storage.nbytes() for storage in storages.values()]
        kept.append(sum(sizes))
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    states = 2 if recipe.optimizer == "adamw" else 1
    kept_of_one, kept_of_two = kept
    activations = kept_of_one + (slices - 1) * (kept_of_two - kept_of_one)
    in_flight = _IN_FLIGHT * slices * max(sizes) / 2
    return activations + in_flight + (1 + states) * weights + _LIBRARIES


def _network(recipe: Recipe, store: Store, device: torch.device) -> nn.Module:
    with device:
        model = make_model(recipe, store)
        model.set_gradient_checkpointing(recipe.gradient_checkpointing)
        network = trained_network(model, recipe)
    return network.train()


def _loss(recipe: Recipe, store: Store) -> nn.Module:
    config = recipe.network(len(store.labels), regions=store.regions)
    return make_loss(recipe, no_reduce, store.ignored, config)


def _blank(
    recipe: Recipe, store: Store, device: torch.device, slices: int
) -> tuple[Tensor, Tensor]:
    channels = recipe.sampling.input_channels(len(store.preprocessing.channels))
    size = recipe.sampling.size
    images = torch.zeros(slices, channels, *size, device=device)
    # With a teacher, what it says of each class but the background, or each region, behind them.
    planes = [1 + (len(store.regions) or len(store.labels) - 1)] if recipe.distillation else []
    return images, torch.zeros(slices, *planes, *size, dtype=torch.int64, device=device)

"""Everything that the loop works with, made from a recipe and a prepared store."""

import atexit
import copy
import signal
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from transunet.bundle.bundle_config import BundleConfig
from transunet.data.checks.suitability import TrainingData
from transunet.data.splits import Split, Splits
from transunet.data.store import Store
from transunet.errors import ConfigError, TransUNetError
from transunet.models.architecture import Architecture
from transunet.models.families import build
from transunet.models.segmentation_network import SegmentationNetwork
from transunet.training.augmentation import BatchAugmentation, paper
from transunet.training.checkpoint import State, load_checkpoint
from transunet.training.distributed import ProcessGroup, share_batches, sum_over_processes
from transunet.training.fine_tuning import begin_from_weights
from transunet.training.losses import LOSSES, DeepSupervisionLoss, Reduce, SegmentationLoss
from transunet.training.losses3d import RegionLoss, TransUNet3DLoss
from transunet.training.recipe import Recipe
from transunet.training.sampler import Batches
from transunet.training.samples import Samples
from transunet.training.schedule import Budget
from transunet.training.simulated_clicks import SimulatedClicks
from transunet.training.soft_loss import SoftTargetLoss
from transunet.training.step import Arithmetic


@dataclass
class Trainer:
    """One training run, ready to go.

    `model` is the network alone; `network` is it with the heads of deep supervision, if there are
    any; `trained` is what steps are computed with, which shares batches and may be compiled.
    """

    folder: Path
    """The run's; see `runs` for what lies where."""
    recipe: Recipe
    """With a number wherever one may be derived."""
    store: Store
    splits: Splits
    """Which of the store's cases train and validate."""
    device: torch.device
    workers: int
    """Processes that prepare batches, for each process that trains; 0 for none."""
    world: ProcessGroup
    state: State = field(default_factory=State)

    def __post_init__(self) -> None:
        recipe = self.recipe
        torch.manual_seed(recipe.seed)
        self.model = make_model(recipe, self.store)
        resumed = self.checkpoint.is_file()  # and brings the weights
        self.beginning = None if resumed else begin_from_weights(self.model, recipe, self.store)
        self.model.to(self.device).train()
        self.average = MovingAverage(self.model, recipe.ema) if recipe.ema else None
        self.network: nn.Module = trained_network(self.model, recipe)
        if self.beginning and isinstance(self.network, DeeplySupervised):
            self.beginning.fill_heads(self.network.heads)
        self.network.to(self.device).train()
        self.loss = make_loss(recipe, ignored=self.store.ignored, config=self.model.config)
        self.model.set_gradient_checkpointing(recipe.gradient_checkpointing)
        self.trained = share_batches(self.network, self.world, self.device)
        if recipe.compile:
            # Each size by itself: an epoch may end with a smaller batch, and of code for any size
            # PyTorch 2.13 fails to translate some.
            self.trained.compile(dynamic=False)
        self.optimizer = make_optimizer(recipe, self.network)
        scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        self.arithmetic = Arithmetic(recipe.precision, recipe.accumulate, recipe.clip_norm, scaler)
        spared_axis = recipe.augmentation.spared_axis
        assert spared_axis != "auto"  # derived
        self.augment = BatchAugmentation(recipe.augmentation, recipe.seed, spared_axis)
        self.clicks = (
            SimulatedClicks(self.model, recipe.seed, recipe.precision, self.store.ignored)
            if self.model.config.clicks
            else None
        )

    @property
    def checkpoint(self) -> Path:
        """What resuming needs, once there is something to resume."""
        return self.folder / "checkpoint.pt"

    @property
    def split(self) -> Split:
        """The cases that train, validate and test: those of the recipe's fold, if it names one."""
        return self.splits.parts[self.recipe.fold or 0]

    @cached_property
    def dataset(self) -> Samples:
        """The training samples."""
        augment = paper if self.recipe.paper_augmentation else None
        cases, recipe = self.split.train, self.recipe
        return Samples(self.store, cases, recipe.sampling, augment, recipe.seed)

    @cached_property
    def sampler(self) -> Batches:
        """Which samples make which batch."""
        recipe, classes = self.recipe, [index for index in self.store.labels if index]
        return Batches(
            len(self.dataset),
            recipe.batch,
            recipe.seed,
            part=(self.world.rank, self.world.size),
            accumulate=recipe.accumulate,
            foreground=recipe.foreground,
            indices_by_class={index: self.dataset.with_class(index) for index in classes},
        )

    @cached_property
    def budget(self) -> Budget:
        """When training ends."""
        recipe = self.recipe
        steps = recipe.epochs * self.sampler.per_epoch if recipe.epochs else recipe.iterations
        return Budget(steps, recipe.minutes and 60 * recipe.minutes)

    @property
    def bundle_config(self) -> BundleConfig:
        """What goes into a bundle beside the weights."""
        return BundleConfig(
            architecture=self.model.config,
            preprocessing=self.store.preprocessing,
            sampling=self.recipe.sampling,
            labels=dict(self.store.labels),
            regions=self.store.regions,
            training_data=TrainingData.of(
                self.store.cases.values(), self.store.preprocessing, self.recipe.mirror_axes
            ),
        )

    @property
    def best_guess(self) -> SegmentationNetwork:
        """The network that is validated and kept: the average where there is one."""
        return self.average.model if self.average else self.model

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds the state of."""
        parts = {
            "model": self.network,
            "optimizer": self.optimizer,
            "scaler": self.arithmetic.scaler,
        }
        return parts | ({"average": self.average.model} if self.average else {})

    def batches(self) -> Generator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield images and labels of this process's part of each batch, from the state on.

        For a network with clicks their guidance, too, by its weights when it is asked for.
        """
        self.sampler.start = self.state.step
        loader = DataLoader(
            self.dataset,
            batch_sampler=self.sampler,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # leaves the global one alone
            worker_init_fn=_leave_signals_to_the_parent,
        )
        with _ending_workers(iter(loader)) as prepared:
            for keys, batch in zip(self.sampler, prepared, strict=True):
                images = batch["image"].to(self.device, non_blocking=True)
                labels = batch["label"].to(self.device, non_blocking=True)
                images, labels = self.augment(images, labels, keys)
                guidance = self.clicks(images, labels, keys) if self.clicks else None
                yield images, labels, guidance

    def restore(self) -> None:
        """Take over the run's checkpoint, if there is one.

        Raises:
            ConfigError: when the data is not what the checkpoint was trained on, or it does not
                fit.
            DataError: when the checkpoint is damaged.
        """
        cases = sorted(self.store.cases.items())
        lines = [f"{name} {case.made_with} {case.hashes}" for name, case in cases]
        stamp = sha256("\n".join(lines).encode()).hexdigest()
        if self.checkpoint.is_file():
            self.state = load_checkpoint(self.checkpoint, self.parts)
            if self.state.data != stamp:
                raise ConfigError(
                    f"The volumes in {self.store.path} are not those that {self.folder} was "
                    "trained on. Restore the data, or start a new run; --weights "
                    f"{self.folder / 'last'} takes over what was learned."
                )
        self.state.data = stamp

    def check_weights(self) -> None:
        """Make sure that nothing is written that is not a good state.

        Raises:
            TransUNetError: when a weight is NaN or infinite.
        """
        for name, tensor in self.network.state_dict().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise TransUNetError(
                    f"The weights {name} became NaN or infinite by step {self.state.step}; what "
                    f"{self.folder} holds from before is kept. Start again with a lower "
                    "learning rate (--lr), or with --set clip_norm=1."
                )

    def check_batches(self) -> None:
        """Make sure that every batch of an epoch, the last one too, can be computed.

        Raises:
            ConfigError: when a batch has no sample for every process, or what is computed at once
                is a single token, of which BatchNorm cannot tell the variance.
        """
        smallest = len(self.dataset) % self.recipe.batch or self.recipe.batch
        kind = self.recipe.sampling.kind
        pieces = self.sampler.pieces(self.sampler.batch(self.sampler.per_epoch - 1))
        if self.model.config.tokens * (smallest // pieces) == 1:
            raise ConfigError(
                f"{self.recipe.model} makes one token of a slice of {self.recipe.size[0]} x "
                f"{self.recipe.size[1]} pixels, and an epoch of {len(self.dataset)} slices has a "
                "step that computes one slice alone: BatchNorm cannot be trained on a single "
                f"value. Take an --image-size of {2 * max(self.model.config.stride)} or more, "
                "another --batch-size (2 or more in each step, the last of an epoch included), or "
                "less of --set accumulate."
            )
        if smallest < self.world.size:
            raise ConfigError(
                f"An epoch of {len(self.dataset)} {kind} in batches of {self.recipe.batch_size} "
                f"ends with a batch of {smallest}, fewer than the {self.world.size} processes. "
                "Choose another --batch-size, or fewer processes."
            )


def _leave_signals_to_the_parent(worker: int) -> None:
    # Ctrl-C reaches every process of the terminal; the loop still needs its batches to end well.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def _ending_workers(prepared: Any) -> Iterator[Any]:
    """End a loader's workers with this block, or with the process where the block is never left.

    They ignore SIGTERM, by which Python ends its daemons at exit, only to wait for them; and the
    traceback of what went wrong may keep the loader, which would end them, until then.
    """
    workers = getattr(prepared, "_workers", ())

    def end() -> None:
        if workers:
            prepared._shutdown_workers()  # else PyTorch takes their end for a fault
        for worker in workers:
            worker.kill()

    atexit.register(end)
    try:
        yield prepared
    finally:
        end()
        atexit.unregister(end)


class DeeplySupervised(nn.Module):
    """A network that also returns coarser logits while training, through heads beside its own.

    The heads are trained and thrown away; networks that have their own get none.

    Args:
        model: whose decoder is supervised.
        depths: how many coarser outputs it has, the finest first.

    Raises:
        ConfigError: when the network has not so many.
    """

    def __init__(self, model: SegmentationNetwork, depths: int) -> None:
        super().__init__()
        self.model = model
        self.heads = model.auxiliary_heads(depths)

    def forward(self, images: Tensor, guidance: Tensor | None = None) -> Any:
        """Return what the loss takes: for most networks logits, then coarser ones."""
        return self.model.training_outputs(images, self.heads, guidance)


class MovingAverage:
    """Exponential moving average of parameters and statistics of `model`, which predicts better.

    The first steps average over what there is (decay (1 + n) / (10 + n)), so that the random start
    is soon forgotten.
    """

    def __init__(self, model: SegmentationNetwork, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights of `model` after optimiser step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, values = self.model.state_dict(), model.state_dict()
        counters = [name for name, value in values.items() if not value.is_floating_point()]
        for name in counters:
            averages.pop(name).copy_(values.pop(name))
        # All tensors in a few kernels instead of one each, every step.
        torch._foreach_lerp_(list(averages.values()), list(values.values()), 1 - decay)


FAMILY_LOSSES: Mapping[str, Callable[[Any, Recipe, Reduce, int | None], nn.Module]] = {
    "transunet3d": lambda config, recipe, reduce, ignored: TransUNet3DLoss(
        config, map_terms=(recipe.ce_weight, recipe.dice_weight), reduce=reduce, ignored=ignored
    ),
}
"""Families whose loss is their own -> what makes it of a network's configuration, the recipe, what
sums over processes, and the label that is left out. It takes the network's `training_outputs`;
other families' logits go to the recipe's loss."""


def make_model(recipe: Recipe, store: Store) -> SegmentationNetwork:
    """Return the recipe's network for a store's channels and classes, with random weights.

    Raises:
        ConfigError: for settings that cannot work.
    """
    channels = recipe.sampling.input_channels(len(store.preprocessing.channels))
    return build(recipe.network(len(store.labels), channels, store.regions))


def trained_network(model: SegmentationNetwork, recipe: Recipe) -> nn.Module:
    """Return `model` as steps are computed with it: what the recipe's loss takes comes out.

    Raises:
        ConfigError: when it has fewer coarser outputs than the recipe weighs.
    """
    if recipe.deep_supervision or model.config.family in FAMILY_LOSSES:
        return DeeplySupervised(model, len(recipe.deep_supervision))
    return model


def make_loss(
    recipe: Recipe,
    reduce: Reduce = sum_over_processes,
    ignored: int | None = None,
    config: Architecture | None = None,
) -> nn.Module:
    """Return the recipe's loss, a teacher's part included, over the processes that share a batch.

    Args:
        recipe: weighs its terms and depths.
        reduce: sums a tensor over the processes.
        ignored: the label of pixels that are left out, a store's `ignored`.
        config: of the network, whose family may have a loss of its own.
    """
    loss = loss_of_labels(recipe, reduce, ignored, config)
    if recipe.distillation is None:
        return loss
    terms, regions = (recipe.ce_weight, recipe.dice_weight), bool(config and config.regions)
    return SoftTargetLoss(loss, recipe.distillation, terms, regions, reduce)


def loss_of_labels(
    recipe: Recipe, reduce: Reduce, ignored: int | None, config: Architecture | None
) -> nn.Module:
    """Return the recipe's loss without what a teacher says; arguments as `make_loss`'s."""
    if config is not None and config.family in FAMILY_LOSSES:
        return FAMILY_LOSSES[config.family](config, recipe, reduce, ignored)
    weights = {name: getattr(recipe, name) for name in LOSSES}
    if config is not None and config.regions:
        terms = recipe.ce_weight, recipe.dice_weight
        loss: nn.Module = RegionLoss(config.regions, terms, reduce, ignored)
    else:
        loss = SegmentationLoss(weights, reduce, ignored)
    if recipe.deep_supervision:
        return DeepSupervisionLoss(loss, recipe.deep_supervision)
    return loss


def make_optimizer(recipe: Recipe, module: nn.Module) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over the parameters of `module`.

    Where the recipe does not say what decays, SGD decays everything, as the paper's does; AdamW
    only the weights of linear layers and convolutions.
    """
    decayed = recipe.decayed or ("all" if recipe.optimizer == "sgd" else "matrices")
    groups: list[dict[str, Any]] = [{"params": list(module.parameters())}]
    if decayed == "matrices":
        matrices = [p for p in module.parameters() if p.ndim in (2, 4, 5)]
        others = [p for p in module.parameters() if p.ndim not in (2, 4, 5)]
        groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    device = next(module.parameters()).device.type
    fused = device in {"cpu", "cuda"} or None  # the update as one kernel, up to five times as fast
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(
            groups, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused
        )
    return torch.optim.SGD(
        groups,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
        fused=fused,
    )

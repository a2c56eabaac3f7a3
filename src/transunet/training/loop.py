"""The training loop: validate, set the rate, step, log, save."""

import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from math import ceil, isfinite, isnan
from pathlib import Path
from time import monotonic
from types import FrameType

import numpy as np
import torch

from transunet.bundle.io import save_pretrained
from transunet.data.store import Store
from transunet.errors import TransUNetError
from transunet.training.checkpoint import save_checkpoint
from transunet.training.error_messages import explained, non_finite
from transunet.training.log import draw_curves, open_log
from transunet.training.losses import no_reduce
from transunet.training.run_lock import locked
from transunet.training.samples import Samples
from transunet.training.schedule import rate_at
from transunet.training.step import NonFiniteLossError, autocast, train_step
from transunet.training.trainer import Trainer, loss_of_labels
from transunet.training.validation import Validation, validate

_LOSS_BATCHES = 4  # of held-out samples whose loss each validation tells


class Interrupted(TransUNetError):  # noqa: N818 - not a fault: everything was saved
    """Training was asked to stop and has saved what going on needs."""

    def __init__(self, folder: Path, step: int, signals: Sequence[int]) -> None:
        self.folder, self.step = folder, step
        super().__init__(
            f"Stopped after step {step}; everything is saved. Go on with: "
            f"transunet train --resume {folder}"
        )
        # None: another process was asked.
        self.exit_code = 128 + (signals[-1] if signals else signal.SIGTERM)


@dataclass(frozen=True)
class Stepped:
    """An optimiser step was done."""

    step: int
    """Steps done."""
    epoch: int
    """Epochs begun."""
    slices: int
    """In the batch."""
    loss: float
    lr: float
    progress: float
    """Share of the budget that is spent."""


@dataclass(frozen=True)
class Validated:
    """The held-out cases were predicted and measured, and bundles were written."""

    step: int
    outcome: Validation
    is_best: bool


def train(trainer: Trainer) -> Generator[Stepped | Validated]:
    """Train from the trainer's state on until the budget is spent.

    Yields:
        What has happened, step by step.

    Raises:
        RunInUseError: when another process trains the run.
        Interrupted: after SIGINT or SIGTERM; everything has been saved.
        NonFiniteLossError: when the loss becomes NaN or infinite, naming the batch's cases.
        TransUNetError: when memory, the disk or a worker fails. What was saved before stays.
    """
    recipe, state, world = trainer.recipe, trainer.state, trainer.world
    started = monotonic() - state.seconds
    saved = state.seconds
    done = {"train": state.step, "validation": state.validated}
    # A data worker that dies interrupts whatever is going on, so all of it is explained.
    with (
        explained(trainer),
        locked(trainer.folder, world),
        stop_requests() as stop_signals,
        (
            open_log(trainer.folder, done, recipe.loggers, recipe.model_dump())
            if world.first
            else nullcontext(lambda *_, **__: None)  # other processes write nothing
        ) as write,
        closing(trainer.batches()) as batches,
    ):
        while True:
            if _validations_due(trainer) > state.validations:
                begun = monotonic()
                validated = _validate(trainer, write)
                state.validation_seconds += monotonic() - begun
                yield validated
                saved = state.seconds
            stale = recipe.patience is not None and state.stale >= recipe.patience
            if stale or trainer.budget.is_spent(state.step, state.seconds):
                spent = monotonic() - started  # with the last validation
                write(
                    "end",
                    state.step,
                    {
                        "seconds": round(state.seconds, 2),
                        "data_share": round(state.data_seconds / spent, 4),
                        "validation_share": round(state.validation_seconds / spent, 4),
                    },
                )
                return

            rate = rate_at(
                recipe.schedule, trainer.budget, state.step, state.seconds, recipe.lr, recipe.warmup
            )
            for group in trainer.optimizer.param_groups:
                group["lr"] = rate
            # Dropout is a function of seed, step and process, so that resuming repeats it.
            entropy = np.random.SeedSequence((recipe.seed, 3, state.step, world.rank))
            torch.manual_seed(int(entropy.generate_state(1, np.uint64)[0]))
            keys = trainer.sampler.batch(state.step)  # of all processes
            arithmetic = replace(trainer.arithmetic, accumulate=trainer.sampler.pieces(keys))
            begun = monotonic()
            images, labels, guidance = next(batches)
            state.data_seconds += monotonic() - begun
            try:
                loss = train_step(
                    *(trainer.trained, trainer.loss, trainer.optimizer, images, labels),
                    arithmetic=arithmetic,
                    guidance=guidance,
                )
            except NonFiniteLossError as error:
                raise NonFiniteLossError(non_finite(trainer, error)) from None
            if trainer.average:
                trainer.average.update(trainer.model, state.step)
            state.step += 1
            # Processes must agree when to stop, and on the time where it is the budget.
            stop, state.seconds = world.largest(
                [float(len(stop_signals)), monotonic() - started], trainer.device
            )

            event = Stepped(
                step=state.step,
                epoch=(state.step - 1) // trainer.sampler.per_epoch + 1,
                slices=len(keys),
                loss=loss,
                lr=rate,
                progress=trainer.budget.progress(state.step, state.seconds),
            )
            write("train", state.step, {**vars(event), "seconds": round(state.seconds, 2)})
            yield event
            if stop or state.seconds - saved >= 60 * recipe.checkpoint_minutes:
                save(trainer)
                saved = state.seconds
            if stop:
                raise Interrupted(trainer.folder, state.step, stop_signals)


def save(trainer: Trainer) -> None:
    """Write RUN/last and the checkpoint.

    Raises:
        TransUNetError: when a weight is NaN or infinite, or the disk is full; the previous
            checkpoint stays.
    """
    trainer.check_weights()
    if trainer.world.first:
        save_pretrained(trainer.best_guess, trainer.bundle_config, trainer.folder / "last")
        save_checkpoint(trainer.checkpoint, trainer.state, trainer.parts)


def _validate(trainer: Trainer, write: Callable[..., None]) -> Validated:
    """Measure the held-out cases, keep the best network, then save: in this order.

    Killed in between, the run resumes before this validation and does it again.
    """
    trainer.check_weights()
    state, folder, first = trainer.state, trainer.folder, trainer.world.first
    outcome = validate(
        *(trainer.best_guess, trainer.store, trainer.split.validation),
        *(trainer.recipe.sampling, trainer.device, trainer.world),
        batch_size=ceil(trainer.recipe.batch / trainer.recipe.accumulate / trainer.world.size),
    )
    dice = outcome.decisive_dice
    # Where nothing can be measured, no network is known to be better: the last is the best.
    is_best = state.best is None or isnan(dice) or dice > state.best
    if is_best:
        state.best = None if isnan(dice) else dice
        state.best_step = state.step
    state.stale = 0 if is_best else state.stale + 1
    state.validations, state.validated = _validations_due(trainer), state.step
    if is_best and first:
        save_pretrained(trainer.best_guess, trainer.bundle_config, folder / "best")
    mean = None if isnan(outcome.mean_dice) else outcome.mean_dice
    cases = {case: _none_for_nan(dice) for case, dice in outcome.cases.items()}
    loss = held_out_loss(trainer) if first else None
    values = {"loss": loss, "mean_dice": mean, "dice": _none_for_nan(outcome.dice)}
    write("validation", state.step, values, best=is_best, cases=cases)
    save(trainer)
    if first:
        draw_curves(folder)
    return Validated(state.step, outcome, is_best)


@torch.no_grad()
def held_out_loss(trainer: Trainer) -> float | None:
    """Return the mean loss of held-out samples, the same at each validation; None without any.

    It is training's loss of the labels, of samples that are not augmented, by the weights that are
    trained: beside the training loss it tells when these learn their cases by heart.
    """
    recipe, network, store = trainer.recipe, trainer.network, trainer.store
    if not trainer.split.validation:
        return None
    loss_of = loss_of_labels(recipe, no_reduce, store.ignored, trainer.model.config)
    labelled = Store(store.path, store.manifest)  # a teacher was not asked about these cases
    samples = Samples(labelled, trainer.split.validation, recipe.sampling, seed=recipe.seed)
    count = min(len(samples), _LOSS_BATCHES * recipe.batch)
    chosen = np.linspace(0, len(samples) - 1, count).astype(int)
    network.eval()
    losses = []
    for numbers in np.array_split(chosen, -(-count // recipe.batch)):
        batch = [samples[0, int(number)] for number in numbers]
        images, labels = (
            torch.stack([each[what] for each in batch]).to(trainer.device)
            for what in ("image", "label")
        )
        with autocast(trainer.device, recipe.precision):
            # Not by calling it: a compiled network would be compiled anew for this.
            losses.append(float(loss_of(network.forward(images), labels)))
    network.train()
    loss = float(np.mean(losses))
    return loss if isfinite(loss) else None


def _validations_due(trainer: Trainer) -> int:
    progress = trainer.budget.progress(trainer.state.step, trainer.state.seconds)
    return int(progress * trainer.recipe.validations)


def _none_for_nan(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if isnan(value) else value for name, value in values.items()}


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Yield the signals SIGINT and SIGTERM that come, for the loop to stop at the next safe moment.

    A second Ctrl-C stops at once. Outside the main thread, where Python takes no signals, none do.
    """
    signals: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if signals and number == signal.SIGINT:
            raise KeyboardInterrupt
        signals.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

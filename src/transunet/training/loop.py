"""The training loop: validate, set the rate, step, log, save."""

from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

import numpy as np
import torch

from transunet.bundle.io import save_pretrained
from transunet.training.checkpoint import save_checkpoint
from transunet.training.curves import draw_curves
from transunet.training.error_messages import explained, non_finite
from transunet.training.interruption import Interrupted, stop_wishes
from transunet.training.log import Log, Silence
from transunet.training.schedule import rate_at
from transunet.training.step import NonFiniteLossError, train_step
from transunet.training.trainer import Job
from transunet.training.validation import Outcome, validate


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
    outcome: Outcome
    is_best: bool


def train(job: Job) -> Generator[Stepped | Validated]:
    """Train from the job's state on until the budget is spent.

    Yields:
        What has happened, step by step.

    Raises:
        RunInUseError: when another process trains the run.
        Interrupted: after SIGINT or SIGTERM; everything has been saved.
        NonFiniteLossError: when the loss becomes NaN or infinite, naming the batch's cases.
        TransUNetError: when memory, the disk or a worker fails. What was saved before stays.
    """
    recipe, state = job.recipe, job.state
    started = monotonic() - state.seconds
    saved = state.seconds
    # A data worker that dies interrupts whatever is going on, so all of it is explained.
    with (
        explained(job),
        job.run.locked(job.place),
        stop_wishes() as wish,
        closing(_open_log(job)) as log,
        closing(job.batches()) as batches,
    ):
        while True:
            if _validation_is_due(job):
                yield _validate(job, log)
                saved = state.seconds
            if _is_finished(job):
                log.write("end", state.step, {"seconds": round(state.seconds, 2)})
                return

            _set_rate(job)
            _seed_step(job)
            batch = job.sampler.batch(state.step)  # of all processes
            arithmetic = replace(job.arithmetic, accumulate=job.sampler.pieces(batch))
            images, labels = next(batches)
            try:
                loss = train_step(job.trained, job.loss, job.optimizer, images, labels, arithmetic)
            except NonFiniteLossError as error:
                raise NonFiniteLossError(non_finite(job, error)) from None
            if job.average:
                job.average.update(job.model, state.step)
            state.step += 1
            # Processes must agree when to stop, and on the time where it is the budget.
            stop, state.seconds = job.place.largest(
                [float(bool(wish)), monotonic() - started], job.device
            )

            event = _stepped(job, len(batch), loss)
            log.write("train", state.step, {**vars(event), "seconds": round(state.seconds, 2)})
            yield event
            if stop or state.seconds - saved >= 60 * recipe.checkpoint_minutes:
                save(job)
                saved = state.seconds
            if stop:
                raise Interrupted(job.run.folder, state.step, wish.signal_number)


def save(job: Job) -> None:
    """Write RUN/last and the checkpoint.

    Raises:
        TransUNetError: when a weight is NaN or infinite, or the disk is full; the previous
            checkpoint stays.
    """
    job.check_weights()
    if job.place.first:
        save_pretrained(job.best_guess, job.bundle_config, job.run.last)
        save_checkpoint(job.run.checkpoint, job.state, job.parts)


def _validate(job: Job, log: Log | Silence) -> Validated:
    """Measure the held-out cases, keep the best network, then save: in this order.

    Killed in between, the run resumes before this validation and does it again.
    """
    job.check_weights()
    state = job.state
    outcome = validate(job.best_guess, job.store, job.split.validation, job.device, job.place)
    dice = outcome.decisive_dice
    # Where nothing can be measured, no network is known to be better: the last is the best.
    is_best = state.best is None or np.isnan(dice) or dice > state.best
    if is_best:
        state.best = None if np.isnan(dice) else dice
        state.best_step = state.step
    state.stale = 0 if is_best else state.stale + 1
    state.validations, state.validated = _validations_due(job), state.step
    if is_best and job.place.first:
        save_pretrained(job.best_guess, job.bundle_config, job.run.best)
    log.write("validation", state.step, *_described(outcome, is_best))
    save(job)
    if job.place.first:
        draw_curves(job.run.folder)
    return Validated(state.step, outcome, is_best)


def _validations_due(job: Job) -> int:
    return int(job.budget.progress(job.state.step, job.state.seconds) * job.recipe.validations)


def _validation_is_due(job: Job) -> bool:
    return _validations_due(job) > job.state.validations


def _is_finished(job: Job) -> bool:
    state, patience = job.state, job.recipe.patience
    stale = patience is not None and state.stale >= patience
    return stale or job.budget.is_spent(state.step, state.seconds)


def _set_rate(job: Job) -> None:
    state, recipe = job.state, job.recipe
    rate = rate_at(recipe.schedule, job.budget, state.step, state.seconds, recipe.lr, recipe.warmup)
    for group in job.optimizer.param_groups:
        group["lr"] = rate


def _seed_step(job: Job) -> None:
    """Make dropout a function of seed, step and process, so that resuming repeats it."""
    entropy = (job.recipe.seed, 3, job.state.step, job.place.rank)
    torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))


def _stepped(job: Job, slices: int, loss: float) -> Stepped:
    state = job.state
    return Stepped(
        step=state.step,
        epoch=(state.step - 1) // job.sampler.per_epoch + 1,
        slices=slices,
        loss=loss,
        lr=job.optimizer.param_groups[0]["lr"],
        progress=job.budget.progress(state.step, state.seconds),
    )


def _described(outcome: Outcome, is_best: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what everybody wants to see of a validation, and the details."""
    cases = {case: _known(dice) for case, dice in outcome.cases.items()}
    values = {**_known({"mean_dice": outcome.mean_dice}), "dice": _known(outcome.dice)}
    return values, {"best": is_best, "cases": cases}


def _known(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def _open_log(job: Job) -> Log | Silence:
    if not job.place.first:
        return Silence()
    done = {"train": job.state.step, "validation": job.state.validated}
    return Log(job.run.folder, done, job.recipe.loggers, job.recipe.model_dump())

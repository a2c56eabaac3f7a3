"""What can go wrong in a step, told in words that help."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from transunet.errors import TransUNetError, first_line
from transunet.training.job import Job
from transunet.training.sampler import Draw
from transunet.training.step import NonFiniteLossError

_COMPILER = ("torch._dynamo", "torch._inductor")


@contextmanager
def explained(job: Job) -> Iterator[None]:
    """Turn what the next batch and the step on it raise into errors that say what to do."""
    try:
        yield
    except NonFiniteLossError as error:
        raise NonFiniteLossError(_non_finite(job, error)) from None
    except torch.OutOfMemoryError as error:
        raise TransUNetError(_out_of_memory(job)) from error
    except TransUNetError:
        raise
    except RuntimeError as error:
        if "DataLoader worker" in str(error):
            raise TransUNetError(_dead_worker(job, str(error))) from error
        if job.recipe.compile and type(error).__module__.startswith(_COMPILER):
            raise TransUNetError(_not_compiled(error)) from error
        raise


def _non_finite(job: Job, error: NonFiniteLossError) -> str:
    draws = job.sampler.batch(job.state.step)
    kept = job.run.checkpoint.is_file()
    good = f"the last good state is kept in {job.run.folder}" if kept else "nothing was saved yet"
    return (
        f"{error} At step {job.state.step}, in a batch of {_cases(job, draws)}; {good}. Look at "
        "these cases; if they are sound, start again with a lower learning rate (--lr), with --set "
        f"clip_norm=1{_precision_hint(job)}."
    )


def _precision_hint(job: Job) -> str:
    return "" if job.recipe.precision == "fp32" else ", or with --set precision=fp32"


def _cases(job: Job, draws: Sequence[Draw]) -> str:
    slices: dict[str, list[int]] = {}
    for _, index in draws:
        case, number = job.dataset.locate(index)
        slices.setdefault(case, []).append(number)
    return ", ".join(
        f"{case} (slice {' '.join(map(str, sorted(numbers)))})"
        for case, numbers in sorted(slices.items())
    )


def _out_of_memory(job: Job) -> str:
    recipe = job.recipe
    remedies = [
        f"--set accumulate={2 * recipe.accumulate} (the same batch in smaller pieces)",
        f"--batch-size auto or less than {recipe.batch_size}",
        f"--image-size less than {max(recipe.size)}",
    ]
    if recipe.precision == "fp32" and job.device.type != "cpu":
        remedies.append("--set precision=bf16")
    if not recipe.gradient_checkpointing:
        remedies.append("--set gradient_checkpointing=true")
    return (
        f"{job.device} has too little memory for a step of {recipe.model}. Lower one of: "
        f"{'; '.join(remedies)}. Start a new run with it: a run keeps its recipe."
    )


def _not_compiled(error: RuntimeError) -> str:
    reason = first_line(error)
    return (
        f"torch.compile failed: {reason} It needs a C++ compiler (and Triton on a GPU). Train "
        "without it: leave out --set compile=true."
    )


def _dead_worker(job: Job, message: str) -> str:
    return (
        f"A process that prepares batches died ({message.splitlines()[0]}). Often the machine's "
        f"memory was full: use fewer --workers (now {job.workers}; 0 for none). Go on with: "
        f"transunet train --resume {job.run.folder}"
    )

"""What can go wrong in a step, told in words that help."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from transunet.data.checks.problems import DataProblemError, GeometryProblemError
from transunet.errors import ConfigError, TransUNetError, first_line, is_full_disk
from transunet.training.sampler import Draw
from transunet.training.step import NonFiniteLossError
from transunet.training.trainer import Job

_COMPILER = ("torch._dynamo", "torch._inductor")
_IN_WORKER = re.compile(r"Caught (\w+) in DataLoader worker process")
"""How PyTorch begins what a data worker raised. An error whose class takes more than a text, such
as a problem with data, arrives as a `RuntimeError`."""
_PROBLEMS = (DataProblemError.__name__, GeometryProblemError.__name__)


@contextmanager
def explained(job: Job) -> Iterator[None]:
    """Turn what the next batch and the step on it raise into errors that say what to do.

    What has been explained passes as it is, so that one `explained` may stand within another.
    """
    try:
        yield
    except Exception as error:
        if message := _explanation(job, error):
            raise TransUNetError(message) from error
        raise


def non_finite(job: Job, error: NonFiniteLossError) -> str:
    """Return what became NaN, in which cases, and what to do."""
    draws = job.sampler.batch(job.state.step)
    kept = job.run.checkpoint.is_file()
    good = f"the last good state is kept in {job.run.folder}" if kept else "nothing was saved yet"
    return (
        f"{error} At step {job.state.step}, in a batch of {_cases(job, draws)}; {good}. Look at "
        "these cases; if they are sound, start again with a lower learning rate (--lr), with --set "
        f"clip_norm=1{_precision_hint(job)}."
    )


def _explanation(job: Job, error: Exception) -> str | None:
    """Return what to say instead of `error`; None where it says all, or is a fault of ours."""
    if is_full_disk(error) and (type(error) is ConfigError or not _is_ours(error)):
        return _full_disk(job)
    raised = _IN_WORKER.match(str(error))
    if raised and (isinstance(error, TransUNetError | OSError) or raised[1] in _PROBLEMS):
        return f"{_raised_in_worker(error, raised[1])} {_go_on(job, 'Then')}"
    if _is_ours(error):
        return None
    if isinstance(error, torch.OutOfMemoryError):
        return _out_of_memory(job)
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return _dead_worker(job, str(error))
    if job.recipe.compile and type(error).__module__.startswith(_COMPILER):
        return _not_compiled(error)
    if isinstance(error, OSError):
        return _input_or_output(job, error)
    return None


def _is_ours(error: Exception) -> bool:
    return isinstance(error, TransUNetError)


def _raised_in_worker(error: Exception, name: str) -> str:
    """Return what a data worker said, without the traceback that PyTorch puts before it."""
    return str(error).rstrip().rpartition(f"{name}: ")[2] or name


def _full_disk(job: Job) -> str:
    return f"No space is left on the disk of {job.run.folder}. {_go_on(job, 'Make room, then')}"


def _input_or_output(job: Job, error: OSError) -> str:
    return f"{error.filename or job.run.folder}: {error.strerror or error}. {_go_on(job, 'Then')}"


def _go_on(job: Job, when: str) -> str:
    kept = job.run.checkpoint.is_file()
    state = "The last checkpoint is whole" if kept else "Nothing was saved yet"
    return f"{state}. {when}: transunet train --resume {job.run.folder}"


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


def _not_compiled(error: Exception) -> str:
    reason = first_line(error)
    return (
        f"torch.compile failed: {reason} It needs a C++ compiler (and Triton on a GPU). Train "
        "without it: leave out --set compile=true."
    )


def _dead_worker(job: Job, message: str) -> str:
    return (
        f"A process that prepares batches died ({message.splitlines()[0]}). Often the machine's "
        f"memory was full, or a container's shared memory (docker run --shm-size): use fewer "
        f"--workers (now {job.workers}; 0 for none). Go on with: transunet train --resume "
        f"{job.run.folder}"
    )

"""What can go wrong in a step, told in words that help."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from transunet.data.checks.problems import DataProblemError, GeometryProblemError
from transunet.errors import ConfigError, TransUNetError, first_line, is_full_disk
from transunet.training.step import NonFiniteLossError
from transunet.training.trainer import Trainer

_COMPILER = ("torch._dynamo", "torch._inductor")
_IN_WORKER = re.compile(r"Caught (\w+) in DataLoader worker process")
"""How PyTorch begins what a data worker raised. An error whose class takes more than a text, such
as a problem with data, arrives as a `RuntimeError`."""
_PROBLEMS = (DataProblemError.__name__, GeometryProblemError.__name__)


@contextmanager
def explained(trainer: Trainer) -> Iterator[None]:
    """Turn what the next batch and the step on it raise into errors that say what to do.

    What has been explained passes as it is, so that one `explained` may stand within another.
    """
    try:
        yield
    except Exception as error:
        said, folder, recipe = str(error), trainer.folder, trainer.recipe
        kept = trainer.checkpoint.is_file()
        state = "The last checkpoint is whole" if kept else "Nothing was saved yet"
        go_on = f"transunet train --resume {folder}"
        explained_already = isinstance(error, TransUNetError)
        raised = _IN_WORKER.match(said)
        if is_full_disk(error) and (type(error) is ConfigError or not explained_already):
            message = f"No space is left on the disk of {folder}. {state}. Make room, then: {go_on}"
        elif raised and (explained_already or isinstance(error, OSError) or raised[1] in _PROBLEMS):
            # Without the traceback that PyTorch puts before it.
            reason = said.rstrip().rpartition(f"{raised[1]}: ")[2] or raised[1]
            message = f"{reason} {state}. Then: {go_on}"
        elif explained_already:
            raise
        elif isinstance(error, torch.OutOfMemoryError):
            remedies = [
                f"--set accumulate={2 * recipe.accumulate} (the same batch in smaller pieces)",
                f"--batch-size auto or less than {recipe.batch_size}",
                f"--image-size less than {max(recipe.size)}",
            ]
            if recipe.precision == "fp32" and trainer.device.type != "cpu":
                remedies.append("--set precision=bf16")
            if not recipe.gradient_checkpointing:
                remedies.append("--set gradient_checkpointing=true")
            message = (
                f"{trainer.device} has too little memory for a step of {recipe.model}. Lower one "
                f"of: {'; '.join(remedies)}. Start a new run with it: a run keeps its recipe."
            )
        elif isinstance(error, RuntimeError) and "DataLoader worker" in said:
            message = (
                f"A process that prepares batches died ({said.splitlines()[0]}). Often the "
                "machine's memory was full, or a container's shared memory (docker run "
                f"--shm-size): use fewer --workers (now {trainer.workers}; 0 for none). Go on "
                f"with: {go_on}"
            )
        elif recipe.compile and type(error).__module__.startswith(_COMPILER):
            message = (
                f"torch.compile failed: {first_line(error)} It needs a C++ compiler (and Triton on "
                "a GPU). Train without it: leave out --set compile=true."
            )
        elif isinstance(error, OSError):
            message = (
                f"{error.filename or folder}: {error.strerror or error}. {state}. Then: {go_on}"
            )
        else:  # a fault of ours
            raise
        raise TransUNetError(message) from error


def non_finite(trainer: Trainer, error: NonFiniteLossError) -> str:
    """Return what became NaN, in which cases, and what to do."""
    slices: dict[str, list[int]] = {}
    for key in trainer.sampler.batch(trainer.state.step):
        case, number = trainer.dataset.locate(key.sample)
        slices.setdefault(case, []).append(number)
    kind = "slice" if trainer.recipe.axes == 2 else "patch"
    cases = ", ".join(
        f"{case} ({kind} {' '.join(map(str, sorted(numbers)))})"
        for case, numbers in sorted(slices.items())
    )
    kept = trainer.checkpoint.is_file()
    good = f"the last good state is kept in {trainer.folder}" if kept else "nothing was saved yet"
    fp32 = "" if trainer.recipe.precision == "fp32" else ", or with --set precision=fp32"
    return (
        f"{error} At step {trainer.state.step}, in a batch of {cases}; {good}. Look at these "
        "cases; if they are sound, start again with a lower learning rate (--lr), with --set "
        f"clip_norm=1{fp32}."
    )

"""What the tests of training run and look at."""

import time
from collections.abc import Iterator
from pathlib import Path

import torch

import forks
from transunet.training.loop import Stepped, Validated, train
from transunet.training.recipe import Recipe
from transunet.training.runs import Run, begin, prepare_folds
from transunet.training.trainer import Trainer

STEPS = 12
SETTINGS = [
    *("--model", "testing", "--image-size", "32", "--batch-size", "3"),
    *("--set", "validations=2", "--iterations", str(STEPS), "--set", "ema=0.9"),
    *("--set", "deep_supervision=[0.5]", "--set", "dropout=0.1", "--set", "foreground=0.5"),
    *("--set", "checkpoint_minutes=0", "--device", "cpu"),
]

# The command, without the curves, which take longer than training here.
COMMAND = """
from transunet.cli.main import main
from transunet.training import loop
loop.draw_curves = lambda folder: None
"""


def steps(job: Trainer) -> list[Stepped]:
    """Train to the end and return the steps."""
    return [event for event in train(job) if isinstance(event, Stepped)]


def validations(job: Trainer) -> list[Validated]:
    """Train to the end and return the validations."""
    return [event for event in train(job) if isinstance(event, Validated)]


def open_folds(folder: Path, dataset: Path, recipe: Recipe, **data: object) -> Run:
    """Begin a cross-validation."""
    run = begin(folder, dataset, recipe, **data)
    prepare_folds(run)
    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return everything numeric that a run ended with."""
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    return dict(_tensors(checkpoint))


def _tensors(value: object, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _tensors(part, f"{name}/{key}")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Return whether two runs ended with the same numbers, bit by bit."""
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def launch(*arguments: object, code: str | None = None) -> forks.Process:
    """Start the command in a process of its own; `code` is what runs instead of `main()`."""
    return forks.Process(COMMAND + (code or "main()"), *arguments)


def finish(process: forks.Process) -> str:
    output, _ = process.communicate(timeout=300)
    return output


def steps_logged(folder: Path) -> int:
    log = folder / "log.jsonl"
    return log.read_text().count('"event": "train"') if log.exists() else 0


def wait_for_step(process: forks.Process, folder: Path, step: int) -> None:
    while steps_logged(folder) < step and process.poll() is None:
        time.sleep(0.02)

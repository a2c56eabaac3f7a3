"""What the tests of training look at."""

from collections.abc import Iterator
from pathlib import Path

import torch

from transunet.training.job import Job
from transunet.training.loop import Stepped, Validated, train


def steps(job: Job) -> list[Stepped]:
    """Train to the end and return the steps."""
    return [event for event in train(job) if isinstance(event, Stepped)]


def validations(job: Job) -> list[Validated]:
    """Train to the end and return the validations."""
    return [event for event in train(job) if isinstance(event, Validated)]


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

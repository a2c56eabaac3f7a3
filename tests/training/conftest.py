"""A toy data set, prepared once, and runs on it that take seconds."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from small_data import decathlon, describe_decathlon, rng, save, write_pair
from transunet.data.layouts import open_dataset
from transunet.data.prepare import prepare
from transunet.training.recipe import Recipe, load_recipe
from transunet.training.runs import start
from transunet.training.trainer import Trainer

__all__ = ["decathlon", "rng", "save"]  # fixtures, beside those below

# The smallest variant: one transformer block of width 1, and the decoder.
SMALL = {"model": "testing", "image_size": 32, "batch_size": 3, "iterations": 6, "validations": 2}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep torch's global state, and the machine's other cores, to the others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _no_curves(without_curves: None) -> None:
    """Of all runs here."""


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Decathlon data set of five cases: a bright disc and a brighter spot in noise."""
    root = tmp_path_factory.mktemp("data") / "Task99_Toy"
    for number in range(5):
        write_case(root, number)
    return describe_decathlon(root, ["disc", "spot"], [f"toy_{number}" for number in range(5)])


def write_case(root: Path, number: int) -> None:
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[:24, :28]
    label = np.zeros((24, 28, 4), np.uint8)
    for z in range(4):
        for value, radius in ((1, 7), (2, 4)):
            row, column = rng.uniform(8, 16, 2)
            label[(rows - row) ** 2 + (columns - column) ** 2 < radius**2, z] = value
    image = (100 * label + rng.normal(0, 20, label.shape)).astype(np.int16)
    write_pair(root, f"toy_{number}", image, label)


@pytest.fixture(scope="session")
def store(toy: Path) -> Path:
    """The toy data set, prepared."""
    path = toy.parent / "store"
    prepare(open_dataset(toy), path)
    return path


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    """Make a small recipe: `recipe("modern", lr=0.1)`."""

    def make(name: str = "paper", **changes: object) -> Recipe:
        return load_recipe(name, SMALL | changes)

    return make


@pytest.fixture
def job(tmp_path: Path, store: Path, recipe: Callable[..., Recipe]) -> Callable[..., Trainer]:
    """Begin a run on the CPU: `job("modern", folder="run", workers=1, lr=0.1)`."""

    def make(
        name: str = "paper", folder: str = "run", workers: int = 0, **changes: object
    ) -> Trainer:
        return start(
            tmp_path / folder, store, recipe(name, **changes), device="cpu", workers=workers
        )

    return make

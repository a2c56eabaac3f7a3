"""A run of a few steps on five cases, and an evaluation of it."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from small_data import describe_decathlon, write_pair
from transunet.batch.run import predict_cases
from transunet.data.inputs import find_inputs
from transunet.evaluation.evaluate import EvaluationRequest, evaluate, write_report
from transunet.inference.predictor import Predictor
from transunet.training.loop import Validated, train
from transunet.training.recipe import Recipe, load_recipe
from transunet.training.runs import start

SMALL = {"model": "testing", "image_size": 32, "batch_size": 3, "iterations": 4, "validations": 2}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_dataset(root: Path, numbers: range, name: str) -> Path:
    """A Decathlon data set of discs; `name` is the second structure's."""
    rows, columns = np.mgrid[:24, :28]
    for number in numbers:
        rng = np.random.default_rng(number)
        label = np.zeros((24, 28, 3), np.uint8)
        for value, radius in ((1, 7), (2, 4)):
            row, column = rng.uniform(8, 16, 2)
            label[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = value
        image = (100 * label + rng.normal(0, 20, label.shape)).astype(np.int16)
        write_pair(root, f"toy_{number}", image, label)
    cases = [f"toy_{number}" for number in numbers]
    return describe_decathlon(root, ["disc", name], cases, licence="CC-BY 4.0")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "Toy", range(5), "<b>spot|")


@contextmanager
def without_pictures() -> Iterator[None]:
    """Train without curves, which take longer than the few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transunet.training.loop.draw_curves", lambda folder: None)
        yield


@pytest.fixture(scope="session")
def recipe() -> Callable[..., Recipe]:
    """Make a recipe of a few steps: `recipe(folds=2)`."""
    return lambda **changes: load_recipe("paper", SMALL | changes)


@pytest.fixture(scope="session")
def run(dataset: Path, recipe: Callable[..., Recipe]) -> Path:
    """A run that has ended."""
    folder = dataset.parent / "run"
    with without_pictures():
        for _ in train(start(folder, dataset, recipe(), device="cpu")):
            pass
    (folder / "curves.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture(scope="session")
def begun(dataset: Path, run: Path, recipe: Callable[..., Recipe]) -> Path:
    """A run that was left after its first validation, on the other's store."""
    folder = dataset.parent / "begun"
    trainer = start(folder, run / "store", recipe(), device="cpu")
    with without_pictures(), closing(train(trainer)) as events:
        next(event for event in events if isinstance(event, Validated))
    return folder


@pytest.fixture(scope="session")
def report(dataset: Path, run: Path) -> Path:
    """An evaluation of the run on two new cases and on one that it may have seen."""
    folder = dataset.parent
    new = write_dataset(folder / "new", range(4, 7), "<b>spot|")
    predictor = Predictor.from_pretrained(run / "best", device="cpu", engine="eager")
    predict_cases(predictor, find_inputs([new / "imagesTr"], channels=1), folder / "labels")
    result = evaluate(folder / "labels", EvaluationRequest(references=new))
    write_report(result, folder / "report", 0)
    return folder / "report"

"""What a run tells afterwards: one JSON object per line, and the same numbers for trackers.

`log.jsonl` is the record; everything else, such as the curves, can be made from it. TensorBoard
files are written when its package is there (extra `train`), Weights & Biases and MLflow when the
recipe asks for them.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from transunet.errors import ConfigError
from transunet.files import atomic_path, write_text

_POINTS = 500  # of the loss's curve: means over so many stretches, so that the trend is seen

Tracker = tuple[Callable[[int, Mapping[str, float]], object], Callable[[], object]]
"""Where numbers go besides the file: what takes a step and its values, and what ends it."""


@contextmanager
def open_log(
    folder: Path, done: Mapping[str, int], trackers: Sequence[str], settings: Mapping[str, Any]
) -> Iterator[Callable[..., None]]:
    """Open the record of a run, continued where a checkpoint left it.

    Args:
        folder: the run's.
        done: event -> last step of which it may tell; later lines are cut off, since they will come
            again.
        trackers: names in `TRACKERS`.
        settings: the recipe, for trackers that show it.

    Yields:
        What adds a line: `write(event, step, values, **details)`. The numbers among the values also
        go to the trackers, as `event/name`.
    """
    path = folder / "log.jsonl"
    if path.exists():
        lines = map(_parsed, path.read_text(encoding="utf-8").splitlines())
        kept = [line for line in lines if line and line["step"] <= done.get(line["event"], -1)]
        write_text("".join(json.dumps(line) + "\n" for line in kept), path)
    step = max(done.values())
    opened = [TRACKERS[name](folder, step, settings) for name in trackers]
    with suppress(ModuleNotFoundError):
        opened.append(_tensorboard(folder, step, settings))
    with ExitStack() as stack:
        for _, end in opened:
            stack.callback(end)
        file = stack.enter_context(path.open("a", encoding="utf-8"))

        def write(event: str, step: int, values: Mapping[str, Any], **details: Any) -> None:
            line = {"event": event, "step": step, **values, **details}
            file.write(json.dumps(line) + "\n")
            file.flush()
            numbers = dict(_numbers(values, event))
            for send, _ in opened:
                send(step, numbers)

        yield write


def read_log(folder: Path, event: str) -> list[dict[str, Any]]:
    """Return the whole lines of `folder/log.jsonl` that tell of `event`."""
    path = folder / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [entry for entry in map(_parsed, lines) if entry and entry["event"] == event]


def _numbers(values: Mapping[str, Any], name: str) -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{name}/{key}")
        elif isinstance(value, float):
            yield f"{name}/{key}", value


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        return dict(json.loads(line))
    except json.JSONDecodeError:  # the process was killed while writing it
        return None


def _tensorboard(folder: Path, step: int, settings: Mapping[str, Any]) -> Tracker:
    tensorboard = import_module("torch.utils.tensorboard")
    before = threading.excepthook

    def tell(arguments: threading.ExceptHookArgs) -> None:
        if not type(arguments.thread).__module__.startswith("tensorboard"):
            before(arguments)

    # What its thread raises comes again with the next call, where we can act: no traceback of it.
    if getattr(before, "__qualname__", "") != tell.__qualname__:
        threading.excepthook = tell
    writer = tensorboard.SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def send(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return send, writer.close


def _wandb(folder: Path, step: int, settings: Mapping[str, Any]) -> Tracker:
    # By its id, resuming goes on with the same curves.
    id_file = folder / "wandb.id"
    known = id_file.read_text(encoding="utf-8") if id_file.exists() else uuid4().hex
    id_file.write_text(known, encoding="utf-8")
    run = import_module("wandb").init(
        project="transunet",
        name=folder.name,
        dir=folder,
        id=known,
        resume="allow",
        config=dict(settings),
    )
    return lambda step, values: run.log(dict(values), step=step), run.finish


def _mlflow(folder: Path, step: int, settings: Mapping[str, Any]) -> Tracker:
    mlflow = import_module("mlflow")
    mlflow.set_experiment("transunet")
    id_file = folder / "mlflow.id"
    known = id_file.read_text(encoding="utf-8") if id_file.exists() else None
    run = mlflow.start_run(run_id=known, run_name=folder.name)
    id_file.write_text(run.info.run_id, encoding="utf-8")
    mlflow.log_params(dict(settings))
    return lambda step, values: mlflow.log_metrics(dict(values), step=step), mlflow.end_run


TRACKERS: dict[str, Callable[[Path, int, Mapping[str, Any]], Tracker]] = {
    "wandb": _wandb,
    "mlflow": _mlflow,
}


def check_trackers(names: Sequence[str]) -> None:
    """Make sure that the packages of the trackers that were asked for are installed.

    Raises:
        ConfigError: naming the first that is not.
    """
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(
                f"The recipe asks for the logger {name!r}, which is not installed. Install it "
                f"with: pip install {name}; or leave it out of loggers."
            )


def draw_curves(folder: Path) -> Path | None:
    """Draw the figure of `curves_of` as `folder/curves.png`; None without matplotlib."""
    if find_spec("matplotlib") is None:  # extra `train`
        return None
    path = folder / "curves.png"
    with atomic_path(path) as partial:
        curves_of(folder).savefig(partial, dpi=120)
    return path


def curves_of(folder: Path) -> Any:
    """Return a figure of a run: its losses and learning rate, and the held-out cases' Dice.

    The step whose network was kept as the best is marked in both.
    """
    figure = import_module("matplotlib.figure").Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    training, validations = read_log(folder, "train"), read_log(folder, "validation")
    at = [entry["step"] for entry in validations]

    steps, losses = ([entry[key] for entry in training] for key in ("step", "loss"))
    left.plot(_thinned(steps), _thinned(losses), color="tab:blue", label="training")
    held_out = np.array([entry.get("loss") for entry in validations], float)  # None becomes NaN
    if np.isfinite(held_out).any():  # runs of earlier versions have none
        left.plot(at, held_out, "o-", color="tab:orange", markersize=3, label="held-out samples")
    left.set(xlabel="step", ylabel="loss", title="Loss")
    rates = left.twinx()
    rates.plot(steps, [entry["lr"] for entry in training], color="tab:gray", linewidth=0.8)
    rates.set_ylabel("learning rate", color="tab:gray")

    for name in validations[-1]["dice"] if validations else ():
        values = np.array([entry["dice"][name] for entry in validations], float)
        right.plot(at, values, linewidth=0.8, label=name)
    means = np.array([entry["mean_dice"] for entry in validations], float)
    right.plot(at, means, color="black", label="mean")
    right.set(xlabel="step", ylabel="Dice", title="Held-out cases", ylim=(0, 1))
    best = [entry for entry in validations if entry["best"]]
    if best:
        step, dice = best[-1]["step"], best[-1]["mean_dice"]
        for axes in (left, right):
            axes.axvline(step, color="tab:green", linewidth=0.8, linestyle="--")
        told = f"best: step {step}" + ("" if dice is None else f", mean {dice:.3f}")
        right.plot([step], [np.nan if dice is None else dice], "*", color="tab:green", label=told)
    for axes in (left, right):
        axes.legend(fontsize="small")
    return figure


def _thinned(values: list[float]) -> list[float]:
    parts = np.array_split(np.asarray(values, float), min(len(values), _POINTS) or 1)
    return [float(part.mean()) for part in parts if len(part)]

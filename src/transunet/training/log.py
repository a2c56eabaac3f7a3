"""What a run tells afterwards: one JSON object per line, and the same numbers for trackers.

`log.jsonl` is the record; everything else, such as the curves, can be made from it. TensorBoard
files are written when its package is there (extra `train`), Weights & Biases and MLflow when the
recipe asks for them.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol
from uuid import uuid4

import numpy as np

from transunet.errors import ConfigError
from transunet.files import atomic_path

EMPTY: Mapping[str, Any] = MappingProxyType({})
_POINTS = 500  # of the loss's curve: means over so many stretches, so that the trend is seen


class Tracker(Protocol):
    """Where numbers go besides the file."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values that belong to `step`."""

    def close(self) -> None:
        """Write what is left."""


class Log:
    """The record of one run, continued where a checkpoint left it.

    Args:
        folder: the run's.
        done: event -> last step of which it may tell; later lines are cut off, since they will come
            again.
        trackers: names in `TRACKERS`.
        settings: the recipe, for trackers that show it.
    """

    def __init__(
        self,
        folder: Path,
        done: Mapping[str, int],
        trackers: Sequence[str],
        settings: Mapping[str, Any],
    ) -> None:
        self.path = folder / "log.jsonl"
        if self.path.exists():
            lines = map(_parsed, self.path.read_text(encoding="utf-8").splitlines())
            kept = [line for line in lines if line and line["step"] <= done.get(line["event"], -1)]
            with atomic_path(self.path) as partial:
                partial.write_text(
                    "".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8"
                )
        step = max(done.values())
        self._trackers = [TRACKERS[name](folder, step, settings) for name in trackers]
        with suppress(ModuleNotFoundError):
            self._trackers.append(_TensorBoard(folder, step, settings))
        self._file = self.path.open("a", encoding="utf-8")

    def write(
        self, event: str, step: int, values: Mapping[str, Any], details: Mapping[str, Any] = EMPTY
    ) -> None:
        """Add one line; the numbers among `values` also go to the trackers, as `event/name`."""
        line = {"event": event, "step": step, **values, **details}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        numbers = dict(_numbers(values, event))
        for tracker in self._trackers:
            tracker.scalars(step, numbers)

    def close(self) -> None:
        """Write what is left."""
        self._file.close()
        for tracker in self._trackers:
            tracker.close()


class Silence:
    """The record of a process that does not write."""

    def write(
        self, event: str, step: int, values: Mapping[str, Any], details: Mapping[str, Any] = EMPTY
    ) -> None:
        """Take nothing down."""

    def close(self) -> None:
        """Nothing is left."""


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


class _TensorBoard:
    def __init__(self, folder: Path, step: int, settings: Mapping[str, Any]) -> None:
        tensorboard = import_module("torch.utils.tensorboard")
        _leave_errors_to_the_next_call("tensorboard")
        self._writer = tensorboard.SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


def _leave_errors_to_the_next_call(package: str) -> None:
    """Have threads of `package` print no traceback: what they raise comes again where we can act.

    TensorBoard writes in a thread; its next call raises what that thread did.
    """
    before = threading.excepthook

    def tell(arguments: threading.ExceptHookArgs) -> None:
        if not type(arguments.thread).__module__.startswith(package):
            before(arguments)

    if getattr(before, "package", None) != package:
        tell.package = package  # type: ignore[attr-defined]
        threading.excepthook = tell


class _WandB:
    def __init__(self, folder: Path, step: int, settings: Mapping[str, Any]) -> None:
        # By its id, resuming goes on with the same curves.
        id_file = folder / "wandb.id"
        known = id_file.read_text(encoding="utf-8") if id_file.exists() else uuid4().hex
        id_file.write_text(known, encoding="utf-8")
        self._run = import_module("wandb").init(
            project="transunet",
            name=folder.name,
            dir=folder,
            id=known,
            resume="allow",
            config=dict(settings),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    def __init__(self, folder: Path, step: int, settings: Mapping[str, Any]) -> None:
        self._mlflow = import_module("mlflow")
        self._mlflow.set_experiment("transunet")
        id_file = folder / "mlflow.id"
        known = id_file.read_text(encoding="utf-8") if id_file.exists() else None
        run = self._mlflow.start_run(run_id=known, run_name=folder.name)
        id_file.write_text(run.info.run_id, encoding="utf-8")
        self._mlflow.log_params(dict(settings))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


TRACKERS: dict[str, Callable[[Path, int, Mapping[str, Any]], Tracker]] = {
    "wandb": _WandB,
    "mlflow": _MLflow,
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
    """Draw `folder/curves.png`: loss and learning rate by step, Dice by validation.

    Without matplotlib (extra `train`), return None.
    """
    if find_spec("matplotlib") is None:
        return None
    figure = import_module("matplotlib.figure").Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)

    entries = read_log(folder, "train")
    steps, losses = ([entry[key] for entry in entries] for key in ("step", "loss"))
    left.plot(_thinned(steps), _thinned(losses), color="tab:blue")
    left.set(xlabel="step", ylabel="loss", title="Training")
    rates = left.twinx()
    rates.plot(steps, [entry["lr"] for entry in entries], color="tab:gray", linewidth=0.8)
    rates.set_ylabel("learning rate")

    entries = read_log(folder, "validation")
    steps = [entry["step"] for entry in entries]
    for name in entries[-1]["dice"] if entries else ():
        values = np.array([entry["dice"][name] for entry in entries], float)  # None becomes NaN
        right.plot(steps, values, linewidth=0.8, label=name)
    means = np.array([entry["mean_dice"] for entry in entries], float)
    right.plot(steps, means, color="black", label="mean")
    right.set(xlabel="step", ylabel="Dice", title="Held-out cases", ylim=(0, 1))
    if entries:
        right.legend(fontsize="small")

    path = folder / "curves.png"
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=120)
    return path


def _thinned(values: list[float]) -> list[float]:
    parts = np.array_split(np.asarray(values, float), min(len(values), _POINTS) or 1)
    return [float(part.mean()) for part in parts if len(part)]

"""What a run tells afterwards: one JSON object per line, and the same numbers for trackers.

`log.jsonl` is the record; everything else can be made from it. TensorBoard files are written when
its package is there (extra `train`), Weights & Biases and MLflow when the recipe asks for them.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol
from uuid import uuid4

from transunet.errors import ConfigError
from transunet.files import atomic_path

EMPTY: Mapping[str, Any] = MappingProxyType({})


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
        _cut(self.path, done)
        step = max(done.values())
        self._trackers = [TRACKERS[name](folder, step, settings) for name in trackers]
        self._trackers += _tensorboard_if_there(folder, step)
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


def _cut(path: Path, done: Mapping[str, int]) -> None:
    if not path.exists():
        return
    entries = map(_parsed, path.read_text(encoding="utf-8").splitlines())
    kept = [json.dumps(entry) + "\n" for entry in entries if entry and _told(entry, done)]
    with atomic_path(path) as partial:
        partial.write_text("".join(kept), encoding="utf-8")


def _told(entry: dict[str, Any], done: Mapping[str, int]) -> bool:
    return bool(entry["step"] <= done.get(entry["event"], -1))


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
        known = _id(folder, "wandb") or uuid4().hex
        _keep_id(folder, "wandb", known)
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
        run = self._mlflow.start_run(run_id=_id(folder, "mlflow"), run_name=folder.name)
        _keep_id(folder, "mlflow", run.info.run_id)
        self._mlflow.log_params(dict(settings))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


def _id(folder: Path, name: str) -> str | None:
    """Return by what a tracker knows the run, so that resuming goes on with the same curves."""
    path = folder / f"{name}.id"
    return path.read_text(encoding="utf-8") if path.exists() else None


def _keep_id(folder: Path, name: str, known: str) -> None:
    (folder / f"{name}.id").write_text(known, encoding="utf-8")


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


def _tensorboard_if_there(folder: Path, step: int) -> list[Tracker]:
    try:
        return [_TensorBoard(folder, step, {})]
    except ModuleNotFoundError:
        return []

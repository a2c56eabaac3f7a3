"""The folder of a training run: what lies where, and whether it may be begun or gone on with.

RUN/run.json        what was asked for: data set, store, recipe; written first
RUN/recipe.json     the whole recipe in effect, with what was derived
RUN/store/          prepared slices, where the data set came unprepared
RUN/log.jsonl       every step and validation
RUN/checkpoint.pt   what resuming needs
RUN/best, RUN/last  bundles
RUN/curves.png, RUN/tensorboard
RUN/.lock           held by the process that trains it; RUN/.lock.json says which that is
"""

import logging
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from json import JSONDecodeError, dumps, loads
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from transunet.data.preprocessing import Preprocessing
from transunet.data.splits import Splits
from transunet.data.store import MANIFEST, Store
from transunet.errors import ConfigError
from transunet.files import atomic_path, writable_folder
from transunet.optional import own_version
from transunet.settings import Configuration
from transunet.training.distributed import Processes
from transunet.training.recipe import Recipe
from transunet.weights.catalog import SOURCES

FORMAT = 1
_PATIENCE = 10.0
"""Seconds for which a lock is waited for: data workers, which hold it too, may outlive a killed
process by five."""

_log = logging.getLogger(__name__)


class RunInUseError(ConfigError):
    """Another process trains this run."""


class Record(Configuration):
    """What a run was asked to do."""

    format: int = FORMAT
    transunet: str = ""
    """Version that began the run."""
    dataset: str
    """The data set or the store: absolute, or relative to the run's folder where it lies there."""
    store: str
    """Where the prepared slices are, likewise."""
    recipe: Recipe
    """As asked for, before anything was derived; the path of weights is absolute."""
    layout: str | None = None
    """The data set's; None to recognise it."""
    ignore: int | None = None
    """The value in label maps of what nobody labelled, where one was given."""
    preprocessing: Preprocessing | None = None
    """How the data set is to be prepared, where the weights decide; None by the data set."""
    splits: Splits | None = None
    """Which cases train and validate; None in a run of a version that drew them at every start."""
    group_by: str | None = None
    """The pattern that keeps cases together, where one was given."""
    launch: str = ""
    """Which torchrun began it, if one did."""


@dataclass(frozen=True)
class Run:
    """A run's folder and what it was asked to do."""

    folder: Path
    record: Record

    @classmethod
    def begin(
        cls,
        folder: Path,
        dataset: Path,
        store: Path | None,
        recipe: Recipe,
        *,
        layout: str | None = None,
        ignore: int | None = None,
        preprocessing: Preprocessing | None = None,
        splits: Splits | None = None,
        group_by: str | None = None,
        launch: str = "",
    ) -> Self:
        """Make the folder of a new run; a `dataset` that is a prepared store is used as it is.

        Raises:
            ConfigError: when something is there already, or it cannot be written.
        """
        refuse_if_taken(folder)
        writable_folder(folder)
        given = dataset if is_store(dataset) else store
        record = Record(
            transunet=own_version(),
            dataset=_recorded(dataset, folder),
            store=_recorded(given or folder / "store", folder),
            recipe=_with_absolute_weights(recipe),
            layout=layout,
            ignore=ignore,
            preprocessing=preprocessing,
            splits=splits,
            group_by=group_by,
            launch=launch,
        )
        run = cls(folder, record)
        run._write_record()
        return run

    @classmethod
    def reopen(cls, folder: Path) -> Self:
        """Open the folder of a run that was begun.

        Raises:
            ConfigError: when no run was begun there, or by another version.
        """
        path = folder / "run.json"
        if not path.is_file():
            raise ConfigError(
                f"There is no run to resume in {folder}: it has no run.json. Start one with: "
                f"transunet train DATASET -o {folder}"
            )
        try:
            values = loads(path.read_text(encoding="utf-8"))
        except (JSONDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read ({error}). Start a new run.") from None
        if isinstance(values, dict) and values.get("format") != FORMAT:
            raise ConfigError(
                f"{path} has format {values.get('format')!r}, this version reads {FORMAT}. Resume "
                f"with transunet {values.get('transunet')}, which began the run."
            )
        return cls(folder, Record.from_json(values, str(path)))

    @property
    def dataset(self) -> Path:
        """The data set or the store that was asked for; it moves along where the run holds it."""
        return Path(os.path.normpath(self.folder.resolve() / self.record.dataset))

    @property
    def store(self) -> Path:
        """Where the prepared slices are; they move along where the run holds them."""
        recorded = Path(os.path.normpath(self.folder.resolve() / self.record.store))
        if not recorded.exists() and recorded.name == "store":  # older versions noted it absolute
            for whole in (self.folder.resolve(), self.folder.resolve().parent):
                if (whole / "run.json").is_file() and is_store(whole / "store"):
                    return whole / "store"
        return recorded

    def with_data_at(self, dataset: Path) -> Self:
        """Return the run with its data set, which was moved, at `dataset`, and remember that.

        Raises:
            ConfigError: when the data set that the run was begun with is where it was.
        """
        if dataset.resolve() == self.dataset.resolve():
            return self
        if self.dataset.exists():
            raise ConfigError(
                f"The run in {self.folder} was begun with the data in {self.dataset}, not with "
                f"those in {dataset}. Leave the data set out to go on with it, or start a new run "
                "with -o."
            )
        moved = {"dataset": _recorded(dataset, self.folder)}
        if self.record.store == self.record.dataset:
            moved["store"] = moved["dataset"]
        run = replace(self, record=self.record.replace(**moved))
        run._write_record()
        return run

    @contextmanager
    def locked(self, processes: Processes, patience: float = _PATIENCE) -> Iterator[None]:
        """Keep the run from other launches; all `processes` of this one come here together.

        The lock is the operating system's, which releases it when its holder ends in whatever way.
        Within one thread it may be taken again.

        Args:
            processes: those that share the run's batches; the first one holds the lock.
            patience: seconds to wait for another holder; below 0 without end.

        Raises:
            RunInUseError: when another process holds it; the message says which one.
            ConfigError: when the folder cannot be written to.
        """
        lock = FileLock(self.folder / ".lock", is_singleton=True)
        try:
            refusal = self._refusal(lock, patience) if processes.first else None
            if refusal := processes.gather(refusal)[0]:
                raise RunInUseError(refusal)
            yield
        finally:
            if processes.first:
                lock.release()

    def _refusal(self, lock: FileLock, patience: float) -> str | None:
        """Acquire the lock; return what to say where that cannot be."""
        writable_folder(self.folder)
        holder = self.folder / ".lock.json"
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            return (
                f"Another process trains the run in {self.folder}{_described_holder(holder)}. Wait "
                "until it ends, or stop it; then go on with: transunet train --resume "
                f"{self.folder}"
            )
        except (OSError, NotImplementedError) as error:
            _log.warning(
                "%s lies on a file system without locks (%s): see to it that no other process "
                "trains this run at the same time.",
                self.folder,
                getattr(error, "strerror", None) or error,
            )
            return None
        with atomic_path(holder) as partial:
            partial.write_text(
                dumps(
                    {
                        "host": platform.node(),
                        "process": os.getpid(),
                        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
                    }
                ),
                encoding="utf-8",
            )
        return None

    def _write_record(self) -> None:
        with atomic_path(self.folder / "run.json") as partial:
            partial.write_text(self.record.model_dump_json(indent=2), encoding="utf-8")

    @property
    def checkpoint(self) -> Path:
        """What resuming needs."""
        return self.folder / "checkpoint.pt"

    @property
    def best(self) -> Path:
        """The bundle with the largest Dice on the held-out cases."""
        return self.folder / "best"

    @property
    def last(self) -> Path:
        """The bundle of the last validation."""
        return self.folder / "last"

    def recipe(self) -> Recipe | None:
        """Return the recipe in effect, or None while it has not been derived."""
        path = self.folder / "recipe.json"
        if not path.is_file():
            return None
        return Recipe.from_json(loads(path.read_text(encoding="utf-8")), str(path))

    def keep_recipe(self, recipe: Recipe) -> None:
        """Write the recipe in effect."""
        with atomic_path(self.folder / "recipe.json") as partial:
            partial.write_text(recipe.model_dump_json(indent=2), encoding="utf-8")

    def refuse_another(self, recipe: Recipe) -> None:
        """Make sure that `recipe` is the one that this run was begun with.

        Raises:
            ConfigError: naming every setting that differs.
        """
        changes = differences(self.record.recipe, _with_absolute_weights(recipe))
        if changes:
            listed = "; ".join(changes)
            raise ConfigError(
                f"The run in {self.folder} was begun with another recipe: {listed}. Resume it as "
                f"it was (transunet train --resume {self.folder}), or start a new run in another "
                f"folder; --weights {self.last} takes over what was learned."
            )

    def sweep(self) -> None:
        """Remove what an interrupted write left behind."""
        for leftover in self.folder.rglob(".partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)


def _recorded(path: Path, folder: Path) -> str:
    """Return how a run in `folder` notes `path`: relative where both can only move together.

    That is, where `path` lies in the run's folder, or in that of its cross-validation.
    """
    whole = folder.parent if (folder.parent / "run.json").is_file() else folder
    if path.resolve().is_relative_to(whole.resolve()):
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    return str(path.resolve())


def _with_absolute_weights(recipe: Recipe) -> Recipe:
    """Return `recipe` with the path of its weights such that it holds in every folder."""
    if recipe.weights in {"auto", "none", *SOURCES}:
        return recipe
    return recipe.replace(weights=str(Path(recipe.weights).expanduser().resolve()))


def _described_holder(path: Path) -> str:
    try:
        holder = loads(path.read_text(encoding="utf-8"))
        return f" (process {holder['process']} on {holder['host']}, since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # it has this moment taken the lock
        return ""


def is_store(folder: Path) -> bool:
    """Return whether `folder` is a prepared store, and not a data set yet to be prepared."""
    return (folder / MANIFEST).is_file() and (folder / "cases").is_dir()


def refuse_if_taken(folder: Path) -> None:
    """Make sure that nothing lies at `folder`.

    Raises:
        ConfigError: when something does; the message says how to go on with it if it is a run.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if (folder / "run.json").is_file():
        raise ConfigError(
            f"{folder} holds a run already. Go on with it: transunet train --resume {folder}; or "
            "choose another folder."
        )
    raise ConfigError(f"{folder} is not an empty folder. Choose another one for the run.")


def differences(before: Configuration, now: Configuration) -> list[str]:
    """Return `setting: before -> now` for every setting that differs."""
    old, new = flat(before.model_dump(mode="json")), flat(now.model_dump(mode="json"))
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in new if old.get(key) != new[key]]


def data_stamp(store: Store) -> str:
    """Return a hash of what a store's slices were made from, to notice that they are others."""
    lines = [f"{name} {case.made_with} {case.hashes}" for name, case in sorted(store.cases.items())]
    return sha256("\n".join(lines).encode()).hexdigest()


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested `values` as one level, keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict)
        found |= flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return found

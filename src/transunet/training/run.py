"""The folder of a training run: what lies where, and whether it may be begun or gone on with.

RUN/run.json        what was asked for: data set, store, recipe; written first
RUN/recipe.json     the whole recipe in effect, with what was derived
RUN/store/          prepared slices, where the data set came unprepared
RUN/log.jsonl       every step and validation
RUN/checkpoint.pt   what resuming needs
RUN/best, RUN/last  bundles
RUN/curves.png, RUN/tensorboard
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from json import JSONDecodeError, loads
from pathlib import Path
from typing import Any, Self

from transunet.atomic import atomic_path, writable_folder
from transunet.configuration import Configuration
from transunet.data.store import MANIFEST, Store
from transunet.errors import ConfigError
from transunet.extras import own_version
from transunet.training.recipe import Recipe

FORMAT = 1


class Record(Configuration):
    """What a run was asked to do."""

    format: int = FORMAT
    transunet: str = ""
    """Version that began the run."""
    dataset: str
    """The data set or the store, absolute."""
    store: str
    """Where the prepared slices are, absolute."""
    recipe: Recipe
    """As asked for, before anything was derived."""
    layout: str | None = None
    """The data set's; None to recognise it."""
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
            dataset=str(dataset.resolve()),
            store=str((given or folder / "store").resolve()),
            recipe=recipe,
            layout=layout,
            launch=launch,
        )
        with atomic_path(folder / "run.json") as partial:
            partial.write_text(record.model_dump_json(indent=2), encoding="utf-8")
        return cls(folder, record)

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
        changes = differences(self.record.recipe, recipe)
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

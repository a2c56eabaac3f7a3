"""What a dossier is about: a run, one of its folds, a cross-validation, a bundle, an export."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transunet.backends.opening import config_of, is_exported
from transunet.bundle.bundle_config import CONFIG, MODEL, BundleConfig, read_config, trust_of
from transunet.bundle.trust_config import Trust
from transunet.data.store import Store
from transunet.errors import ConfigError, TransUNetError, first_line
from transunet.training.log import read_log
from transunet.training.recipe import Recipe
from transunet.training.runs import Run


@dataclass(frozen=True)
class Subject:
    """The weights that a dossier is about, and what is known of how they came about."""

    source: Path
    """As it was given."""
    networks: tuple[Path, ...]
    """A bundle's folder or an exported file; of a cross-validation the best bundle of each fold."""
    config: BundleConfig
    """The first one's."""
    run: Run | None = None
    """What trained it, where that is beside it."""
    folds: tuple[Run, ...] = ()
    """Those that have begun, where `run` is a cross-validation."""
    store: Store | None = None
    """What it was trained on, where that is still there."""
    without_store: str = ""
    """Why it is not."""

    @property
    def folder(self) -> Path:
        """The run's or bundle's folder, or that of the exported file."""
        return self.source if self.source.is_dir() else self.source.parent

    @property
    def weight_files(self) -> list[Path]:
        """The files that hold the weights."""
        return [path / MODEL if path.is_dir() else path for path in self.networks]

    @property
    def trained(self) -> tuple[Run, ...]:
        """The runs with a log: the folds of a cross-validation, else the run."""
        return self.folds or ((self.run,) if self.run else ())

    @property
    def recipe(self) -> Recipe | None:
        """The recipe in effect, or as asked for while it has not been derived."""
        return (self.run.recipe() or self.run.record.recipe) if self.run else None

    @property
    def trust(self) -> Trust | None:
        """What the network knows of its mistakes; of a cross-validation, its ensemble."""
        folders = [path for path in self.networks if path.is_dir()]
        return trust_of([read_config(path) for path in folders] or [self.config])

    def validations(self) -> list[dict[str, Any]]:
        """Of each run, what its log tells of the validation that its network was kept after."""
        kept = []
        for run, network in zip(self.trained, self.networks, strict=False):
            entries = read_log(run.folder, "validation")
            if network.name == "best":
                entries = [entry for entry in entries if entry["best"]]
            kept += entries[-1:]
        return kept


def open_subject(source: Path) -> Subject:
    """Find the weights and the records at `source`.

    Args:
        source: the folder of a run (its best bundle), of a bundle, or an exported file.

    Raises:
        ConfigError: when there is nothing of the kind, or no network yet.
        DataError: when a record is damaged.
    """
    source = source.expanduser()
    if not source.exists():
        raise ConfigError(f"There is no run, bundle or exported file {source}. Check the path.")
    if source.is_file() and not is_exported(source):
        raise ConfigError(
            f"{source} is no exported network. Give the folder of a run or of a bundle, or a file "
            "that `transunet export` wrote."
        )
    if is_exported(source):
        return Subject(source, (source,), config_of(source))
    if (source / "run.json").is_file():
        run = Run.reopen(source)
        folds = [Run.reopen(fold) for fold in run.folds if (fold / "run.json").is_file()]
        begun = [(each, _network_of(each.folder)) for each in folds or [run]]
        found = [(each, network) for each, network in begun if network]
        if not found:
            raise ConfigError(
                f"{source}: no network has been validated yet, so there is nothing to tell of. Try "
                "again after the first validation."
            )
        runs, networks = zip(*found, strict=True)
        kept = runs if run.has_folds else ()
        return _with_store(Subject(source, networks, read_config(networks[0]), run, kept))
    if not ((source / CONFIG).is_file() and (source / MODEL).is_file()):
        raise ConfigError(
            f"{source} is neither a run (it has no run.json) nor a bundle (it has no {CONFIG} with "
            f"{MODEL}). Give the folder of a run or of a bundle, or an exported file."
        )
    whole = source.resolve()
    of_run = whole.name in ("best", "last") and (whole.parent / "run.json").is_file()
    run_beside = Run.reopen(whole.parent) if of_run else None
    return _with_store(Subject(source, (whole,), read_config(whole), run_beside))


def _network_of(run: Path) -> Path | None:
    bundles = (run / name for name in ("best", "last"))
    return next((bundle for bundle in bundles if (bundle / MODEL).is_file()), None)


def _with_store(subject: Subject) -> Subject:
    if subject.run is None:
        return subject
    try:
        return replace(subject, store=Store.open(subject.run.store))
    except TransUNetError as error:
        return replace(subject, without_store=first_line(error))

"""The cases that a run held out, by their original files, and the network that did not see them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from transunet.bundle.bundle_config import read_config
from transunet.data.cases import file_problems, raise_first
from transunet.data.prepare import changed_files
from transunet.data.store import Store
from transunet.errors import DataError
from transunet.inference.predictor import Predictor
from transunet.training.runs import Run
from transunet.trust.fitting import HeldOutCase
from transunet.trust.held_out import held_out_cases


def out_of_fold(
    begun: Run, device: str | None = None, most: int | None = None
) -> Iterator[tuple[Predictor, list[HeldOutCase]]]:
    """Yield the best network of a run, or of each fold, and the cases that it held out.

    Args:
        begun: a run, or a cross-validation whose folds are finished.
        device: where the networks compute; the best one there is if not given.
        most: cases of each fold, drawn if there are more; all if not given.

    Raises:
        ConfigError, DataError: when a case's original files are gone or not as they were.
    """
    for run in map(Run.reopen, begun.folds) if begun.has_folds else [begun]:
        yield best_predictor(run, device), validation_cases(run, begun, most)


def best_predictor(run: Run, device: str | None = None) -> Predictor:
    """Return the predictor of a run's best network, computed as it was trained.

    Raises:
        ConfigError, DataError, WeightsError: when the bundle is missing or damaged.
    """
    return Predictor.from_pretrained(run.folder / "best", device=device, engine="eager", force=True)


def validation_cases(
    run: Run, begun: Run | None = None, most: int | None = None
) -> list[HeldOutCase]:
    """Return the cases that `run` validated on, by their original images and label maps.

    Args:
        run: has a best network.
        begun: what was begun with the data set: the run itself, or its cross-validation.
        most: how many are drawn if there are more; all if not given.

    Raises:
        ConfigError, DataError: when their files are gone or not as they were.
    """
    begun, store = begun or run, Store.open(run.store)
    names = _drawn(run.record.split.validation, most)
    if not names:
        return []
    dataset = begun.original_data()
    there = {case.name: case for case in dataset.cases}
    chosen = []
    for name in names:
        if name not in there:
            raise DataError(
                f"{dataset.folder} no longer has the case {name} that {store.path} was made of."
            )
        raise_first(file_problems(there[name]))
        if changed := changed_files(dataset, there[name], store.cases[name]):
            raise DataError(
                f"{', '.join(changed)} in {dataset.folder} is not what {store.path} was made of: "
                "it has changed since."
            )
        chosen.append(replace(there[name], group=store.cases[name].group))
    labels = read_config(run.folder / "best").labels
    return held_out_cases(replace(dataset, cases=tuple(chosen)), labels)


def _drawn(names: Sequence[str], most: int | None) -> list[str]:
    if most is None or len(names) <= most:
        return list(names)
    return sorted(np.random.default_rng(0).choice(sorted(names), most, replace=False).tolist())

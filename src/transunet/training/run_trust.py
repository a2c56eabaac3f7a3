"""What the networks of a run, or of a cross-validation, learn of their own mistakes at its end."""

from collections.abc import Callable
from dataclasses import replace

from transunet.bundle.bundle_config import keep_ensemble_trust, keep_ranges, keep_trust
from transunet.bundle.trust_config import Trust
from transunet.training.distributed import ALONE
from transunet.training.out_of_fold import best_predictor, out_of_fold, validation_cases
from transunet.training.run_lock import locked
from transunet.training.runs import Run
from transunet.trust.fitting import Evidence, evidence_of, fit_trust, trust_from, worsened_copies
from transunet.trust.integers import measure_ranges

MOST = 40
"""Held-out cases of one network: so many tell what there is to know, and more take longer."""

Progress = Callable[[int, int], None]
"""Called with the predictions done and those in all."""


def fit_best(run: Run, device: str | None = None, progress: Progress | None = None) -> Trust | None:
    """Fit what RUN/best knows of its mistakes on the validation cases, and keep it in the bundle.

    Before that, measure how large its activations get, for int8.

    Args:
        run: finished.
        device: where the network computes; the best one there is if not given.
        progress: called with the predictions done and those in all.

    Returns:
        None where no case was held out.

    Raises:
        RunInUseError: when another process trains the run.
        ConfigError, DataError, GeometryError: when a case's files are gone or not as they were.
    """
    with locked(run.folder, ALONE):
        cases = validation_cases(run, most=MOST)
        if not cases:
            return None
        best = run.folder / "best"
        keep_ranges(best, measure_ranges(best, cases, device))
        trust = fit_trust(best_predictor(run, device), cases, progress=progress)
        keep_trust(best, trust)
        return trust


def fit_folds(parent: Run, device: str | None = None, progress: Progress | None = None) -> Trust:
    """Fit what each fold's best network knows of its mistakes, and their ensemble; return that.

    No case is unseen by all members of the ensemble: what it knows is what each member showed on
    the cases that it had not seen, all of them together.

    Args:
        parent: a cross-validation whose folds are finished.
        device: where the networks compute; the best one there is if not given.
        progress: called with the predictions done and those in all, anew for each fold.

    Raises:
        RunInUseError: when another process trains it.
        ConfigError, DataError, GeometryError: when a case's files are gone or not as they were.
    """
    with locked(parent.folder, ALONE):
        pooled: list[Evidence] = []
        copies = worsened_copies(sum(len(part.validation) for part in parent.record.splits.parts))
        bundles = [folder / "best" for folder in parent.folds]
        for bundle, (predictor, cases) in zip(
            bundles, out_of_fold(parent, device, MOST), strict=True
        ):
            keep_ranges(bundle, measure_ranges(bundle, cases, device))
            evidence = list(evidence_of(predictor, cases, copies, progress=progress))
            keep_trust(bundle, trust_from(predictor.structures, evidence))
            pooled += [replace(case, features=None) for case in evidence]  # each network's differ
        trust = trust_from(predictor.structures, pooled)
        keep_ensemble_trust(bundles, trust)
        return trust

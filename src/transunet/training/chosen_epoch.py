"""Whether cases that are measured had a part in training a network, or in choosing its epoch."""

import os
from collections.abc import Collection
from math import nan
from pathlib import Path

from transunet.evaluation.audit import ChosenEpoch
from transunet.files import read_json
from transunet.training.log import read_log


def chosen_epoch(bundle: Path, measured: Collection[str]) -> ChosenEpoch | None:
    """Return how a network was chosen, as the log beside it tells; None where there is no log.

    Args:
        bundle: RUN/best or RUN/last, or RUN, which stands for its best.
        measured: names of the cases that are measured.

    Raises:
        DataError: for a run whose `run.json` is damaged.
    """
    run = bundle if (bundle / "log.jsonl").is_file() else bundle.parent
    validations = read_log(run, "validation")
    if not validations:
        return None
    record = read_json(run / "run.json", "Give the whole folder of a training run.")
    part = record["splits"]["parts"][record["recipe"].get("fold") or 0]
    best = next(entry for entry in reversed(validations) if entry["best"])
    # The last network was chosen by nothing, and so was the best of one.
    chosen = bundle.name != "last" and len(validations) > 1
    dice, last_dice = (
        nan if entry["mean_dice"] is None else entry["mean_dice"]
        for entry in (best, validations[-1])
    )
    return ChosenEpoch(
        run=os.path.normpath(run),
        validations=len(validations) if chosen else 0,
        dice=dice if chosen else last_dice,
        last_dice=last_dice,
        measured=len(measured),
        chosen_by=tuple(sorted(set(measured) & set(best["cases"]))) if chosen else (),
        trained_on=tuple(sorted(set(measured) & set(part["train"]))),
    )

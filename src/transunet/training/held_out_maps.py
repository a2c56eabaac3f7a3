"""The label maps of the cases that a run held out, each by the network that did not see it.

RUN/held-out/labels       on the images' own grid; its manifest.json, written last, tells the
                          network of each
RUN/held-out/report.html, metrics.csv, metrics.json      all metrics, over all of these cases
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from transunet.batch.case_records import told_labels
from transunet.batch.outputs import label_name, write_labels
from transunet.data.cases import Case
from transunet.data.processes import Progress
from transunet.errors import ConfigError
from transunet.evaluation.evaluate import (
    EvaluationRequest,
    EvaluationResult,
    evaluate,
    write_report,
)
from transunet.files import write_json
from transunet.training.log import read_log
from transunet.training.out_of_fold import out_of_fold
from transunet.training.runs import Run

FOLDER = "held-out"
_CHOSEN = (
    "Each case was predicted by the best network of the run or fold that held it out. Which epoch "
    "was the best was chosen by these very cases: the figures flatter slightly."
)


def held_out_maps(run: Run, device: str | None = None, progress: Progress | None = None) -> Path:
    """Predict each case by the network that did not see it; return the label maps' folder.

    What is there already stays. Of a case that several folds held out, the first one's counts.

    Args:
        run: a run or a cross-validation that has ended.
        device: where the networks compute; the best one there is if not given.
        progress: called after each case.

    Raises:
        ConfigError: when training has not ended, or held out no case.
        ConfigError, DataError: when a case's files are gone or not as they were.
    """
    folder = run.folder / FOLDER / "labels"
    if (folder / "manifest.json").is_file():
        return folder
    if unfinished := [each for each in run.folds or [run.folder] if not read_log(each, "end")]:
        raise ConfigError(
            f"{unfinished[0]} has not been trained to the end. Go on with: transunet train "
            f"--resume {run.folder}"
        )
    parts = run.record.splits.parts if run.has_folds else (run.record.split,)
    total = len({name for part in parts for name in part.validation})
    if not total:
        raise ConfigError(
            f"{run.folder} held out no case. Train with held-out cases (--set holdout=0.2), or "
            "cross-validate: transunet train DATASET -o RUN --folds 5"
        )
    told: dict[str, Any] = {}
    for predictor, cases in out_of_fold(run, device):
        for case in cases:
            image, _ = case.read()
            path = folder / label_name(Case(case.name, (Path(image.name),), None))
            if not path.exists():
                labels = predictor(image)
                write_labels(labels, path, predictor.labels, predictor.regions)
            network = Path(os.path.relpath(predictor.sources[0], folder)).as_posix()
            output = path.relative_to(folder).as_posix()
            told.setdefault(case.name, {"outputs": [output], "network": network})
            if progress:
                progress(len(told), total, case.name)
    write_json({**told_labels(predictor), "cases": told}, folder / "manifest.json")
    return folder


def report_held_out(
    run: Run, device: str | None = None, progress: Progress | None = None
) -> tuple[EvaluationResult, list[Path]]:
    """Measure the held-out label maps by all metrics and write the report.

    Arguments and errors are those of `held_out_maps`.

    Returns:
        The evaluation, and the files of the report.
    """
    labels = held_out_maps(run, device, progress)
    data = run.original_data()
    request = EvaluationRequest(data.folder, layout=data.layout, ignore=data.ignore, subset=True)
    result = evaluate(labels, request)
    evaluation = replace(result.evaluation, notes=(*result.evaluation.notes, _CHOSEN))
    result = replace(result, evaluation=evaluation)
    return result, write_report(result, run.folder / FOLDER)

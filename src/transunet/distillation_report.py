"""What a student kept of its teacher: Dice, time, memory and size, on cases that neither learned.

RUN/distillation.json        the figures
RUN/distillation/NETWORK     its label maps
"""

import logging
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from math import isfinite
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from transunet.backends.conversion import converted
from transunet.backends.opening import candidates, is_exported, open_network
from transunet.batch.case_records import told_labels
from transunet.batch.outputs import label_name, write_labels
from transunet.bundle.bundle_config import MODEL, keep_ranges, locate, read_config
from transunet.data.cases import Case
from transunet.data.formats import read_image
from transunet.data.layouts import open_dataset
from transunet.data.processes import Progress
from transunet.data.splits import group_of
from transunet.data.store import Store
from transunet.device import used_memory
from transunet.errors import ConfigError, DataError
from transunet.evaluation.bootstrap import Interval, bootstrap_means, mean_foreground, nanmean
from transunet.evaluation.comparison import PairedComparison
from transunet.evaluation.evaluate import EvaluationRequest, evaluate
from transunet.evaluation.records import Evaluation
from transunet.files import write_json
from transunet.inference.predictor import Predictor
from transunet.training.out_of_fold import validation_cases
from transunet.training.runs import Run
from transunet.training.teacher import BundleTeacher, Taught, teacher_of
from transunet.trust.integers import measure_ranges

RECORD, FOLDER = "distillation.json", "distillation"
CHOSEN = (
    "The held-out cases chose the epoch of the student, and maybe of the teacher: the figures "
    "flatter slightly. Give cases that chose nothing with --data."
)
_log = logging.getLogger("transunet")
TEACHER, STUDENT, INTEGERS = "teacher", "student", "student, int8"


@dataclass(frozen=True)
class NetworkFigures:
    """What is measured of one network; None is what is not known of another tool's."""

    name: str
    dice: float
    """Mean over structures of each one's mean over cases, with the references."""
    dice_95: Interval
    kept: float | None
    """Share of the teacher's Dice; None where there is no teacher's."""
    kept_95: Interval | None
    gain: float | None
    """The student's Dice minus this one's, case by case; None of the student itself."""
    gain_95: Interval | None
    p_value: float | None
    """Two-sided Wilcoxon signed-rank test of that."""
    agreement: float | None
    """Dice with the teacher's label maps."""
    seconds: float | None = None
    """Median from an image in memory to its label map."""
    core_seconds: float | None = None
    """The same of the processor's work, which other programs do not disturb."""
    memory_mib: float | None = None
    """The most that the process ever held, its libraries included."""
    megabytes: float | None = None
    """Of the weights."""
    engine: str | None = None
    precision: str | None = None


def report(
    run: Run,
    dataset: Path | None = None,
    others: Sequence[Path] = (),
    device: str | None = None,
    engine: str = "auto",
    progress: Progress | None = None,
) -> list[NetworkFigures]:
    """Measure teacher and student, and write RUN/distillation.json.

    Args:
        run: with a teacher, that has ended.
        dataset: labelled cases that nobody trained on; if not given, those that the run held out.
        others: bundles to compare with, such as the same student without a teacher.
        device: where they compute; the best one there is if not given.
        engine: what computes them; int8 by what its file is for.
        progress: called after each case.

    Raises:
        ConfigError: when the run has no teacher or no best network, or there is no case to measure.
        ConfigError, DataError, WeightsError: when what is needed is gone or damaged.
    """
    recipe, best = run.recipe(), run.folder / "best"
    if recipe is None or recipe.distillation is None:
        raise ConfigError(
            f"{run.folder} was not taught by a teacher. Train with one: transunet distill "
            "TEACHER... --data STORE -o RUN"
        )
    if run.has_folds:
        raise ConfigError(
            f"{run.folder} is a cross-validation. Give one of its folds: {run.fold(0)}"
        )
    for bundle in (best, *others):
        read_config(bundle)  # or what is wrong with it
    data = open_dataset(dataset) if dataset else run.original_data()
    labelled = [case for case in data.cases if case.label and case.label.exists()]
    if dataset is None:
        names = {*run.record.split.validation}
        labelled = [case for case in labelled if case.name in names]
    if not labelled:
        raise ConfigError(f"{run.folder} held out no case. Give labelled cases: --data DATASET")
    folder = run.folder / FOLDER
    networks: dict[str, tuple[Sequence[str], bool]] = {STUDENT: ([str(best)], False)}
    if _computes_in_int8(best, run, device):
        networks[INTEGERS] = ([str(best)], False)
    networks |= {str(other): ([str(other)], False) for other in others}
    store = Store.open(run.store)
    teacher = teacher_of(recipe.distillation, Taught.of(store), device)
    measured: dict[str, Mapping[str, Any]] = {}
    if isinstance(teacher, BundleTeacher):
        networks = {TEACHER: (teacher.settings.teachers, teacher.settings.mirror)} | networks
    elif _copied(teacher.label_maps, labelled, folder / TEACHER):
        measured[TEACHER] = {}
    for name, (sources, mirror) in networks.items():
        how = ("auto", "int8", "cpu") if name == INTEGERS else (engine, "auto", device)
        measured[name] = _measured(sources, mirror, labelled, folder / _plain(name), how, progress)
    request = EvaluationRequest(data.folder, layout=data.layout, ignore=data.ignore, subset=True)
    evaluations = {name: evaluate(folder / _plain(name), request).evaluation for name in measured}
    subjects = [group_of(case) for case in sorted(labelled, key=lambda case: case.name)]
    figures = []
    for name, evaluation in evaluations.items():
        agreed = None
        if TEACHER in measured and name != TEACHER:
            alike = EvaluationRequest(folder / TEACHER, subset=True)
            agreed = evaluate(folder / _plain(name), alike).evaluation
        sides = evaluations[STUDENT], evaluations.get(TEACHER), agreed
        figures.append(figures_of(name, evaluation, *sides, subjects, measured[name]))
    told = {
        "cases": len(labelled),
        "data": str(data.folder),
        "note": CHOSEN if dataset is None else None,
        "distillation": recipe.distillation.model_dump(mode="json"),
        "networks": [_without_nan(asdict(each)) for each in figures],
    }
    write_json(told, run.folder / RECORD)
    return figures


def _computes_in_int8(best: Path, run: Run, device: str | None) -> bool:
    """Whether the student does so here, its ranges being measured first; if not, say why."""
    try:
        candidates(best, "auto", "int8", "cpu")  # or which package is missing
        if read_config(best).ranges is None:
            keep_ranges(best, measure_ranges(best, validation_cases(run), device))
        return open_network(best, "cpu", precision="int8").precision == "int8"
    except (ConfigError, DataError) as error:
        _log.warning("int8 is not measured: %s", error)
        return False


def figures_of(
    name: str,
    evaluation: Evaluation,
    student: Evaluation,
    teacher: Evaluation | None,
    agreement: Evaluation | None,
    subjects: Sequence[str],
    took: Mapping[str, Any],
) -> NetworkFigures:
    """Return what evaluations of the same cases say of one network.

    Args:
        name: of the network.
        evaluation: its label maps, with the references.
        student: the student's.
        teacher: the teacher's; None where there is none.
        agreement: the network's label maps, with the teacher's in the references' place.
        subjects: whose each case is, in the order of the cases' names.
        took: the fields from `seconds` on.
    """
    dice = evaluation.metrics[0]
    values = evaluation.values(dice)
    means = nanmean(bootstrap_means(values, subjects=subjects), 1)
    mean, kept, kept_95, test = mean_foreground(values), None, None, None
    if evaluation is not student:
        test = PairedComparison(student, evaluation).overall[dice.key]
    if teacher is not None and evaluation is not teacher:
        reference = teacher.values(dice)
        kept = mean / mean_foreground(reference)
        # The same cases are drawn of both.
        kept_95 = _interval(means / nanmean(bootstrap_means(reference, subjects=subjects), 1))
    return NetworkFigures(
        name=name,
        dice=mean,
        dice_95=_interval(means),
        kept=kept,
        kept_95=kept_95,
        gain=test.mean_difference if test else None,
        gain_95=test.interval_95 if test else None,
        p_value=test.p_value if test else None,
        agreement=mean_foreground(agreement.values(dice)) if agreement else None,
        **took,
    )


def _interval(resampled: Any) -> Interval:
    low, high = np.nanpercentile(resampled, (2.5, 97.5))
    return float(low), float(high)


def _copied(maps: Mapping[str, Path], cases: Sequence[Case], folder: Path) -> bool:
    """Copy another tool's label maps of these cases, if it has made all of them."""
    if not {case.name for case in cases} <= maps.keys():
        _log.info("The teacher's Dice is not known: its folder lacks label maps of these cases.")
        return False
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for case in cases:
        shutil.copy(maps[case.name], folder)
    for beside in ("dataset.json", "manifest.json"):
        if (path := maps[cases[0].name].parent / beside).is_file():
            shutil.copy(path, folder)
    return True


def _measured(
    sources: Sequence[str],
    mirror: bool,
    cases: Sequence[Case],
    folder: Path,
    how: tuple[str, str, str | None],
    progress: Progress | None,
) -> dict[str, Any]:
    """Predict in a process of its own, whose memory is this network's alone.

    `how`: engine, precision and device.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        opened = process.submit(_open, sources, mirror, *how, cases[0])
        about: dict[str, Any] = opened.result()
        seconds, core_seconds = [], []
        for done, case in enumerate(cases, start=1):
            *took, memory = process.submit(_predict, case, folder).result()
            seconds.append(took[0])
            core_seconds.append(took[1])
            if progress:
                progress(done, len(cases), f"{folder.name} {case.name}")
    files = [Path(s) if is_exported(s) else locate(s, MODEL) for s in sources]
    if how[1] == "int8":
        files = [converted(s, read_config(s), about["engine"], "int8").path for s in sources]
    files += [f.with_suffix(".bin") for f in files if f.suffix == ".xml"]
    return {
        **about,
        "seconds": median(seconds),
        "core_seconds": median(core_seconds),
        "memory_mib": memory,
        "megabytes": sum(file.stat().st_size for file in files) / 1e6,
    }


_predictor: Predictor | None = None  # of the process that measures one network


def _open(
    sources: Sequence[str],
    mirror: bool,
    engine: str,
    precision: str,
    device: str | None,
    first: Case,
) -> dict[str, Any]:
    global _predictor
    _predictor = Predictor.from_pretrained(
        sources, device=device, engine=engine, precision=precision, mirror=mirror, force=True
    )
    _predictor(read_image(first.images, first.series))  # what is made for the first image alone
    return {"engine": _predictor.engine, "precision": _predictor.precision}


def _predict(case: Case, folder: Path) -> tuple[float, float, float | None]:
    """Write a label map; return seconds, the processor's, and the most MiB held so far."""
    assert _predictor is not None  # opened before
    image = read_image(case.images, case.series)
    started, worked = time.perf_counter(), time.process_time()
    labels = _predictor(image, warn=lambda _: None)
    seconds, work = time.perf_counter() - started, time.process_time() - worked
    write_labels(labels, folder / label_name(case), _predictor.labels, _predictor.regions)
    if not (folder / "manifest.json").is_file():
        write_json(told_labels(_predictor), folder / "manifest.json")
    return seconds, work, used_memory() / 2**20 or None


def _plain(name: str) -> str:
    """Return a name of a folder for a network."""
    return "-".join(part for part in re.split(r"[^\w.]+", name) if part)


def _without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not isfinite(v) else v for k, v in values.items()}

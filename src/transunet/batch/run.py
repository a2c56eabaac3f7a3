"""Many cases into one folder: what is done is not done again, what fails does not stop the rest.

A folder gets, for every case, its label map and `cases/NAME.json`, and together `statistics.json`
and `manifest.json`. Several processes may work on one folder at once (see `claims`).
"""

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transunet.batch import locks
from transunet.batch.case_queue import Job, Queue, Status
from transunet.batch.case_records import write_record
from transunet.batch.failures import FAULTS, in_words
from transunet.batch.manifest import now, summarise
from transunet.batch.outputs import Format, MapFormat, label_name, write_labels
from transunet.batch.prediction_sheet import write_sheet
from transunet.data.cases import Case
from transunet.data.formats import FORMATS, suffix_of
from transunet.data.formats.dicom.segmentation import check_source
from transunet.data.volume import Volume
from transunet.drawing.figures import check_figure_path
from transunet.errors import ConfigError, TransUNetError
from transunet.inference.predictor import Predictor, Warn
from transunet.inference.prefetch import map_in_thread, prefetch
from transunet.inference.read_input import read_image
from transunet.inference.slice_inference import Progress
from transunet.inference.structure_volumes import measure_structures

Watch = Callable[[str], Progress | None]
"""Called with a case's name when it begins; returns what is told of its slices."""


@dataclass(frozen=True)
class Wanted:
    """What is written for each case beside the label map, and how."""

    format: Format = "same"
    probabilities: MapFormat | None = None
    uncertainty: bool = False
    overwrite: bool = False
    both: bool = False
    """Label maps of both procedures, in the folders `native` and `paper`."""
    view: bool = False
    """A sheet of slices with the labels on them, in the folder `sheets`."""


@dataclass(frozen=True)
class Outcome:
    """How a case ended."""

    case: str
    status: Status
    error: TransUNetError | None = None
    warnings: tuple[str, ...] = ()
    """What makes the image doubtful for the bundle."""


def predict_file(
    bundle: Predictor | Path | str | Sequence[Path | str],
    image: Path | str | Sequence[Path | str],
    output: Path | str,
    *,
    series: str | int | None = None,
    progress: Progress | None = None,
    probabilities: Path | None = None,
    uncertainty: Path | None = None,
    **settings: Any,
) -> Path:
    """Segment an image file and write its label map to `output`; return that path.

    The label map has the image's shape, affine and units. It appears when it is complete.

    Args:
        bundle: a predictor (many files: make it once), a bundle, or the bundles of an ensemble.
        image: a file, or one file per channel; a DICOM series is a folder, a `.zip` or its files.
        output: the label map's file; its suffix chooses the format (or `.npz`).
        series: which of several DICOM series: its UID, or its number in the list, from 1.
        progress: called with the slices done and the slices in all.
        probabilities: as `Predictor.__call__`.
        uncertainty: as `Predictor.__call__`.
        settings: the predictor's, where it is made here; `force=True` for an image of another
            kind than training saw.

    Raises:
        DataError, GeometryError: when the image cannot be used.
        ConfigError: for a path that does not exist, settings that cannot work, or an output that
            cannot be written.
    """
    if not isinstance(bundle, Predictor):
        bundle = Predictor.from_pretrained(bundle, **settings)
    elif settings:
        raise ConfigError(
            f"A predictor was given, which has its own settings; found {', '.join(settings)} too."
        )
    output = Path(output)
    if output.suffix.lower() != ".npz" and suffix_of(output) is None:
        raise ConfigError(f"{output}: label maps are written as .npz, {', '.join(FORMATS)}.")
    paths = [Path(path) for path in ([image] if isinstance(image, Path | str) else image)]
    try:
        volume = read_image(paths, series)
        if output.suffix.lower() == ".dcm":  # told before it is computed
            check_source(volume, bundle.labels)
        labels = bundle(volume, progress, probabilities=probabilities, uncertainty=uncertainty)
    except FAULTS as error:
        raise in_words(error, paths[0]) from None
    write_labels(labels, output, bundle.labels)
    return output


def predict_cases(
    predictor: Predictor,
    cases: Sequence[Case],
    folder: Path,
    wanted: Wanted | None = None,
    watch: Watch | None = None,
    ended: Callable[[Outcome], object] | None = None,
) -> list[Outcome]:
    """Segment every case into `folder`, as far as no other process does, and say how each ended.

    It returns when all cases are finished, by whomever.

    Args:
        predictor: what segments them.
        cases: from `find_inputs`.
        folder: where everything is written.
        wanted: what is written.
        watch: called when a case begins.
        ended: called when a case has ended.

    Raises:
        ConfigError: when the folder cannot be written to, another process is predicting into it
            with other settings, or what is wanted excludes each other.
    """
    worker = Worker(predictor, folder, wanted or Wanted(), watch or (lambda _: None))
    outcomes = []
    for outcome in worker.work(cases):
        outcomes.append(outcome)
        if ended is not None:
            ended(outcome)
    return outcomes


@dataclass(eq=False)
class _Computed:
    job: Job
    start: float
    image: Volume | None = None
    labels: dict[str, Volume] = field(default_factory=dict)
    """By what they are in `_outputs`: "labels", and "paper" beside those of native."""
    error: BaseException | None = None
    warnings: list[str] = field(default_factory=list)


class Worker:
    """One process's share of a run."""

    def __init__(self, predictor: Predictor, folder: Path, wanted: Wanted, watch: Watch) -> None:
        self.predictor, self.folder, self.wanted, self.watch = predictor, folder, wanted, watch
        _check(predictor, wanted)
        self.settings = {
            **predictor.settings,
            **({"procedure": "both"} if wanted.both else {}),
            "format": wanted.format,
            "probabilities": wanted.probabilities,
            "uncertainty": wanted.uncertainty,
        }
        content = json.dumps([predictor.fingerprint, self.settings], sort_keys=True)
        self.key = hashlib.sha256(content.encode()).hexdigest()
        self.by = f"{socket.gethostname()} {os.getpid()} {predictor.device}"

    def work(self, cases: Sequence[Case]) -> Iterator[Outcome]:
        """Do what is to be done, and yield how each case ended; see `predict_cases`."""
        started = now()
        about = f"{', '.join(self.predictor.sources)} {self.settings}"
        with locks.session(self.folder, self.key, about) as run:
            queue = Queue(self.folder, self.key, run, self._outputs, self.wanted.overwrite)
            try:
                # The next image is read and the last label map written beside the computing.
                computed = map(self._compute, prefetch(queue.jobs(cases)))
                yield from map_in_thread(self._store, computed)
            finally:
                queue.give_back()
            summarise(self.folder, self.predictor, self.settings, started)

    def _outputs(self, case: Case) -> dict[str, str]:
        """What is written for a case, the label map first, relative to the folder."""
        name = label_name(case, self.wanted.format)
        found = {"labels": name}
        if self.wanted.both:
            found = {"labels": f"native/{name}", "paper": f"paper/{name}"}
        if self.wanted.view:
            found["sheet"] = f"sheets/{case.name}.png"
        if self.wanted.probabilities:
            found["probabilities"] = f"probabilities/{case.name}.{self.wanted.probabilities}"
        if self.wanted.uncertainty:
            found["uncertainty"] = f"uncertainty/{case.name}.nii"
        return found

    def _compute(self, job: Job) -> "_Computed | Outcome":
        if job.record is None:
            return self._ended(job, job.status or "failed", job.error)
        done = _Computed(job, time.perf_counter())
        try:
            done.image = job.image()
            if self.wanted.format == "dicom-seg":  # told before it is computed
                check_source(done.image, self.predictor.labels)
            done.labels = self._labelled(job.case, done.image, done.warnings.append)
        except FAULTS as error:
            done.error = error
        return self._store(done) if job.large else done  # not held while the next is computed

    def _labelled(self, case: Case, image: Volume, warn: Warn) -> dict[str, Volume]:
        progress = self.watch(case.name)
        if self.wanted.both:
            found = self.predictor.by_procedure(image, progress, warn)
            return {"labels": found["native"], "paper": found["paper"]}
        files = {what: self.folder / name for what, name in self._outputs(case).items()}
        labels = self.predictor(
            image,
            progress,
            probabilities=files.get("probabilities"),
            uncertainty=files.get("uncertainty"),
            warn=warn,
        )
        return {"labels": labels}

    def _store(self, done: "_Computed | Outcome") -> Outcome:
        if isinstance(done, Outcome):
            return done
        job, error = done.job, done.error
        assert job.record is not None  # else it would have ended
        try:
            record = replace(job.record, by=self.by, **self._written(done))
        except FAULTS as fault:
            error = fault
            told = str(in_words(fault, job.case.images[0]))
            record = replace(job.record, by=self.by, status="failed", problem=told)
        write_record(self.folder, record)
        return self._ended(job, "failed" if error else "done", error, record.warnings)

    def _written(self, done: _Computed) -> dict[str, Any]:
        """Write the label maps; return what the record says of a case that is done."""
        if done.error is not None:
            raise done.error
        image, files = done.image, self._outputs(done.job.case)
        assert image is not None
        for what, labels in done.labels.items():
            write_labels(labels, self.folder / files[what], self.predictor.labels)
        settings = self.predictor.preprocessing
        if "sheet" in files:
            path = self.folder / files["sheet"]
            write_sheet(image, done.labels["labels"], self.predictor.labels, settings, path)
        axis = settings.stored_axis(image)
        structures = measure_structures(done.labels["labels"], image, self.predictor.labels, axis)
        seconds = round(time.perf_counter() - done.start, 3)
        return {
            "status": "done",
            "seconds": seconds,
            "structures": structures,
            "warnings": tuple(done.warnings),
        }

    def _ended(
        self,
        job: Job,
        status: Status,
        error: BaseException | None,
        warnings: tuple[str, ...] = (),
    ) -> Outcome:
        job.claim.give_back()
        told = in_words(error, job.case.images[0]) if error else None
        return Outcome(job.case.name, status, told, warnings)


def _check(predictor: Predictor, wanted: Wanted) -> None:
    if wanted.view:
        check_figure_path(Path("sheet.png"))  # matplotlib is missed before any work
    if wanted.both and (predictor.window or wanted.probabilities or wanted.uncertainty):
        raise ConfigError(
            "Both procedures give label maps only, of whole slices. Leave out --window, "
            "--probabilities and --uncertainty, or choose one procedure."
        )

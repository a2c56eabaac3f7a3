"""Predictions into files: one image to one file, or many cases into one folder.

A folder gets, for every case, its label map and `cases/NAME.json`, and together `statistics.json`
and `manifest.json`. What is done is not done again, what fails does not stop the rest, and several
processes may work on one folder at once.
"""

import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from transunet.batch.case_queue import claim_cases, join_run
from transunet.batch.case_records import (
    PredictionRecord,
    content_hash,
    read_record,
    record_path,
    remove_partials,
    write_record,
    write_summaries,
)
from transunet.batch.outputs import (
    OPENED_BY_VIEWERS,
    LabelFormat,
    ProbabilityFormat,
    label_name,
    write_colour_tables,
    write_labels,
    write_measurements,
    write_sheet,
)
from transunet.data.cases import Case
from transunet.data.clicks import Click
from transunet.data.formats import FORMATS, open_image, read_image, read_labels, suffix_of
from transunet.data.inputs import LOCKS_FOLDER
from transunet.data.volume import Volume
from transunet.errors import (
    MACHINE_ERRORS,
    ConfigError,
    DataError,
    TransUNetError,
    as_user_error,
)
from transunet.files import writable_folder
from transunet.inference.postprocessing import measure_structures
from transunet.inference.predictor import Predictor
from transunet.inference.prefetch import map_in_thread, prefetch
from transunet.inference.slice_inference import Progress
from transunet.trust.assessment import Assessment, predict_and_assess

_SMALL = 1 << 26  # voxels of images read while another is computed: 256 MiB as float32

OnCaseStart = Callable[[str], Progress | None]
"""Called with a case's name when it begins; returns what is called with what is done."""


@dataclass(frozen=True)
class OutputOptions:
    """What is written for each case beside the label map, and how."""

    format: LabelFormat = "same"
    probabilities: ProbabilityFormat | None = None
    uncertainty: bool = False
    overwrite: bool = False
    both: bool = False
    """Label maps of both procedures, in the folders `native` and `paper`."""
    view: bool = False
    """A sheet of slices with the labels on them, in the folder `sheets`."""
    report: bool = False
    """A DICOM measurement report of each DICOM segmentation, in the folder `reports`."""
    soft_dice: bool = False
    """In the records, each structure's soft Dice where the bundle does not know what to expect."""

    @property
    def is_dicom(self) -> bool:
        """Whether label maps are written as DICOM segmentations, of either kind."""
        return self.format in ("dicom-seg", "dicom-labelmap")

    @property
    def is_labelmap(self) -> bool:
        """Whether a DICOM segmentation has a number per voxel, not a bit per segment."""
        return self.format == "dicom-labelmap"


@dataclass(frozen=True)
class Corrections:
    """What a person says of the cases by clicks."""

    clicks: Mapping[str, Sequence[Click]]
    """Of each case by its name; those that are not there have none."""
    previous: Path | None = None
    """The label maps that are corrected: a folder of them, or a single case's file; None for what
    the network finds."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that labels depend on."""
        clicks = {
            name: [click.model_dump(mode="json", exclude_none=True) for click in of_case]
            for name, of_case in sorted(self.clicks.items())
        }
        return {"clicks": clicks, "previous": str(self.previous) if self.previous else None}

    def file_of(self, case: Case) -> Path | None:
        """Return the label map of `case` that is corrected; None for what the network finds.

        Raises:
            ConfigError: where there is none.
        """
        if self.previous is None:
            return None
        names = dict.fromkeys((label_name(case), f"{case.name}.nii.gz", f"{case.name}.npz"))
        files = [self.previous / name for name in names]
        if not self.previous.is_dir():
            files = [self.previous]
        path = next((file for file in files if file.is_file()), None)
        if path is None:
            raise ConfigError(
                f"There is no label map {files[0]} to correct. Give the folder that `transunet "
                "predict` wrote, or leave --previous out."
            )
        return path


Status = Literal["done", "kept", "elsewhere", "failed"]
"""done: by this process; kept: by an earlier run; elsewhere: by another process of this run."""


@dataclass(frozen=True)
class CaseOutcome:
    """How a case ended."""

    case: str
    status: Status
    error: TransUNetError | None = None
    warnings: tuple[str, ...] = ()
    """What makes the image doubtful for the bundle."""
    structures: Mapping[str, Any] = field(default_factory=dict)
    """Name -> what was measured and is expected, as in `statistics.json`."""


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
        progress: called with the slices or patches done, and those in all.
        probabilities: a file to write every class's probability to, `.npy` or `.nii`.
        uncertainty: such a file for the normalised entropy.
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
        volume, told = read_image(paths, series), {}
        if output.suffix.lower() == ".dcm":  # told before it is computed
            from transunet.data.formats.dicom.segmentation import check_source

            check_source(volume, bundle.labels, bundle.regions)
            told = {"fingerprint": bundle.fingerprint}
        labels = bundle(volume, progress, probabilities=probabilities, uncertainty=uncertainty)
    except MACHINE_ERRORS as error:
        raise as_user_error(error, paths[0]) from None
    write_labels(labels, output, bundle.labels, bundle.regions, **told)
    return output


def predict_cases(
    predictor: Predictor,
    cases: Sequence[Case],
    folder: Path,
    options: OutputOptions | None = None,
    on_case_start: OnCaseStart | None = None,
    on_case_end: Callable[[CaseOutcome], object] | None = None,
    corrections: Corrections | None = None,
) -> list[CaseOutcome]:
    """Segment every case into `folder`, as far as no other process does, and say how each ended.

    It returns when all cases are finished, by whomever.

    Args:
        predictor: what segments them.
        cases: from `find_inputs`.
        folder: where everything is written.
        options: what is written.
        on_case_start: called when a case begins.
        on_case_end: called when a case has ended.
        corrections: by clicks, which the bundle was trained for.

    Raises:
        ConfigError: when the folder cannot be written to, another process is predicting into it
            with other settings, or options exclude each other.
    """
    options = options or OutputOptions()
    if options.view:
        from transunet.drawing.figures import check_figure_path

        check_figure_path(Path("sheet.png"))  # matplotlib is missed before any work
    more = options.probabilities or options.uncertainty or options.report
    if options.both and (predictor.window or more):
        raise ConfigError(
            "Both procedures give label maps only, of whole slices. Leave out --window, "
            "--probabilities, --uncertainty and --report, or choose one procedure."
        )
    if corrections and (options.both or options.probabilities or options.uncertainty):
        raise ConfigError(
            "Clicks correct label maps, and give no probabilities and no second procedure. Leave "
            "out --probabilities, --uncertainty and --procedure, or --clicks."
        )
    if options.report and not options.is_dicom:
        raise ConfigError(
            "A report refers to a DICOM segmentation. Give --format dicom-seg or dicom-labelmap "
            "with --report."
        )
    writable_folder(folder)
    settings = {
        **predictor.settings,
        **({"procedure": "both"} if options.both else {}),
        **({"soft_dice": True} if options.soft_dice else {}),
        "format": options.format,
        "probabilities": options.probabilities,
        "uncertainty": options.uncertainty,
        **(corrections.settings if corrections else {}),
    }
    if predictor.fitted is not None:  # what is told, and probabilities, depend on it
        settings["trust"] = sha256(predictor.fitted.model_dump_json().encode()).hexdigest()
    key = json.dumps([predictor.fingerprint, settings], sort_keys=True)
    digest = sha256(key.encode()).hexdigest()
    batch = _Batch(predictor, folder, options, on_case_start, digest, corrections)
    started = datetime.now(UTC)
    outcomes: list[CaseOutcome] = []
    ended: Iterable[CaseOutcome]
    with ExitStack() as stack:
        together = int(os.environ.get("WORLD_SIZE", "1")) > 1  # under torchrun
        others = (folder / LOCKS_FOLDER).glob("worker-*.lock")  # of processes at work on it
        if len(cases) == 1 and not together and not any(others):
            ended = map(batch.store, map(batch.compute, map(batch.begin, cases)))
        else:
            about = f"{', '.join(predictor.sources)} {settings}"
            batch.run = stack.enter_context(join_run(folder, batch.key, about))
            claimed = claim_cases(folder, cases, stack.enter_context(ExitStack()))
            # The next image is read and the last label map written beside the computing.
            jobs = prefetch(batch.begin(case, claim) for case, claim in claimed)
            computed = map(batch.compute, stack.enter_context(closing(jobs)))
            ended = map_in_thread(batch.store, computed)
        for outcome in ended:
            outcomes.append(outcome)
            if on_case_end is not None:
                on_case_end(outcome)
    write_summaries(folder, predictor, settings, started)
    if any(label_name(case, options.format).endswith(OPENED_BY_VIEWERS) for case in cases):
        write_colour_tables(predictor.labels, folder)
    return outcomes


@dataclass(eq=False)
class _CaseJob:
    """A case on its way through reading, computing and writing."""

    case: Case
    files: dict[str, Path]
    """What is written for it: the label map ("labels") first."""
    claim: FileLock | None
    record: PredictionRecord | None = None
    """What stands in the folder while the case is being done."""
    outcome: CaseOutcome | None = None
    """Set once the case has ended."""
    read: Callable[[], Volume] | None = None
    error: BaseException | None = None
    previous: Path | None = None
    """The label map that clicks correct, where there is one."""
    large: bool = False
    """Too large to be held together with another."""
    start: float = 0.0
    image: Volume | None = None
    labels: dict[str, Volume] = field(default_factory=dict)
    """By their name in `files`: "labels", and "paper" beside those of native."""
    warnings: list[str] = field(default_factory=list)
    assessment: Assessment = field(default_factory=Assessment)


@dataclass(eq=False)
class _Batch:
    """One process's share of the cases of an output folder, each through three stages."""

    predictor: Predictor
    folder: Path
    options: OutputOptions
    on_case_start: OnCaseStart | None
    key: str
    """SHA-256 of bundle and settings."""
    corrections: Corrections | None = None
    run: str = field(default_factory=lambda: uuid.uuid4().hex)

    def begin(self, case: Case, claim: FileLock | None = None) -> _CaseJob:
        """Return a job that has ended already, or that has begun, its image read if it is small."""
        name = label_name(case, self.options.format)
        files = {"labels": name}
        if self.options.both:
            files = {"labels": f"native/{name}", "paper": f"paper/{name}"}
        if self.options.view:
            files["sheet"] = f"sheets/{case.name}.png"
        if self.options.report:
            files["report"] = f"reports/{case.name}.dcm"
        if self.options.probabilities:
            files["probabilities"] = f"probabilities/{case.name}.{self.options.probabilities}"
        if self.options.uncertainty:
            files["uncertainty"] = f"uncertainty/{case.name}.nii"
        job = _CaseJob(case, {what: self.folder / file for what, file in files.items()}, claim)
        digest = previous = ""
        try:
            digest = content_hash(case.images)
            job.previous = self.corrections.file_of(case) if self.corrections else None
            previous = content_hash([job.previous]) if job.previous else ""
        except (TransUNetError, OSError) as error:
            job.error = error
        job.outcome = self._known_outcome(job, (digest, case.series or "", previous))
        if job.outcome is not None:
            return job
        remove_partials([*job.files.values(), record_path(self.folder, case.name)])
        job.record = PredictionRecord(
            case=case.name,
            status="begun",
            key=self.key,
            run=self.run,
            images=(case.origin,) if case.origin else tuple(map(str, case.images)),
            images_sha256=digest,
            series=case.series or "",
            previous_sha256=previous,
            outputs=tuple(files.values()),
            by=f"{socket.gethostname()} {os.getpid()} {self.predictor.device}",
        )
        write_record(self.folder, job.record)
        if job.error is None:
            try:
                voxels, job.read = open_image(case.images, case.series)
                job.large = voxels > _SMALL
                if not job.large:
                    job.image = job.read()
            except (TransUNetError, OSError, MemoryError) as error:
                job.error = error  # told in its turn
        return job

    def _known_outcome(self, job: _CaseJob, read: tuple[str, ...]) -> CaseOutcome | None:
        """What becomes of a case given what stands in the folder: None, if it is to be done.

        `read`: the image's SHA-256, its series, and the SHA-256 of the label map to correct.
        """
        case, label_map = job.case, job.files["labels"]
        record = read_record(self.folder, case.name)
        problem = None
        if record is not None and record.run == self.run and record.status != "begun":
            if record.status == "done":
                return CaseOutcome(case.name, "elsewhere", structures=record.structures)
            problem = record.problem
        elif self.options.overwrite:
            return None
        elif record is None and label_map.exists():
            problem = (
                f"{label_map} exists and was not written by a prediction. Choose another output "
                "folder, or give --overwrite to replace it."
            )
        elif record is not None and record.status == "done":
            before = (record.images_sha256, record.series, record.previous_sha256)
            if record.key == self.key and before == read:
                whole = all(file.exists() for file in job.files.values())
                kept = CaseOutcome(case.name, "kept", structures=record.structures)
                return kept if whole else None
            other = "another bundle or other settings"
            if record.key == self.key:
                other = "another image" if before[:2] != read[:2] else "another label map"
            elif self.corrections:
                other = "another bundle, other clicks or other settings"
            problem = (
                f"{case.name}: the output folder holds its label map made from {other}. Choose "
                "another output folder, or give --overwrite to replace it."
            )
        return CaseOutcome(case.name, "failed", DataError(problem)) if problem else None

    def compute(self, job: _CaseJob) -> _CaseJob:
        """Segment the image of a job that has begun."""
        if job.outcome is not None:
            return job
        job.start = time.perf_counter()
        try:
            if job.error is not None:
                raise job.error
            if job.image is None:
                assert job.read is not None  # else there would be an error
                job.image = job.read()
            if self.options.is_dicom:  # told before it is computed
                from transunet.data.formats.dicom.segmentation import check_source

                names, regions = self.predictor.labels, self.predictor.regions
                check_source(job.image, names, regions, labelmap=self.options.is_labelmap)
            progress = self.on_case_start(job.case.name) if self.on_case_start else None
            if self.options.both:
                maps = self.predictor.by_procedure(job.image, progress, job.warnings.append)
                job.labels = {"labels": maps["native"], "paper": maps["paper"]}
            elif self.corrections:  # of what comes of clicks, nothing is known to be expected
                job.labels["labels"] = self.predictor.correct(
                    job.image,
                    self.corrections.clicks.get(job.case.name, ()),
                    read_labels(job.previous, job.image.grid) if job.previous else None,
                    warn=job.warnings.append,
                )
            else:
                asked = {name: job.files.get(name) for name in ("probabilities", "uncertainty")}
                job.labels["labels"], job.assessment = predict_and_assess(
                    self.predictor,
                    job.image,
                    progress,
                    self.options.soft_dice,
                    warn=job.warnings.append,
                    **asked,
                )
                job.warnings += job.assessment.unlike
        except MACHINE_ERRORS as error:
            job.error = as_user_error(error, job.case.images[0])
        if job.large:
            self.store(job)  # so that it is not held while the next one is computed
        return job

    def store(self, job: _CaseJob) -> CaseOutcome:
        """Write a case's files and its record."""
        if job.outcome is None:
            assert job.record is not None  # else the case would have ended before
            error, names = None, self.predictor.labels
            try:
                if job.error is not None:
                    raise job.error
                assert job.image is not None
                preprocessing, labels = self.predictor.preprocessing, job.labels["labels"]
                told = {
                    "labelmap": self.options.is_labelmap,
                    "fingerprint": self.predictor.fingerprint,
                }
                for what, label_map in job.labels.items():
                    write_labels(label_map, job.files[what], names, self.predictor.regions, **told)
                if "sheet" in job.files:
                    write_sheet(job.image, labels, names, preprocessing, job.files["sheet"])
                axis = preprocessing.plane_axis(job.image)
                structures = job.assessment.added_to(
                    measure_structures(labels, job.image, names, axis, self.predictor.regions)
                )
                if "report" in job.files:
                    write_measurements(
                        job.files["labels"], job.image, structures, job.files["report"]
                    )
                record = replace(
                    job.record,
                    status="done",
                    structures=structures,
                    seconds=round(time.perf_counter() - job.start, 3),
                    warnings=tuple(job.warnings),
                )
            except MACHINE_ERRORS as fault:
                error = as_user_error(fault, job.case.images[0])
                record = replace(job.record, status="failed", problem=str(error))
            write_record(self.folder, record)
            status: Status = "failed" if error else "done"
            job.outcome = CaseOutcome(
                job.case.name, status, error, record.warnings, record.structures
            )
            job.image, job.labels = None, {}  # not held while another case is computed
        if job.claim is not None:
            job.claim.release()
        return job.outcome

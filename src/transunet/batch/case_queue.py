"""Which case is next: claimed from a shared folder, compared with what is known of it, and read."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from transunet.batch.case_records import Record, content_hash, read_record, sweep, write_record
from transunet.batch.locks import Claim
from transunet.data.cases import Case
from transunet.data.volume import Volume
from transunet.errors import DataError, TransUNetError
from transunet.inference.read_input import open_image

_SMALL = 1 << 26  # voxels of images read while another is computed: 256 MiB as float32
_WAIT = 0.2  # seconds between looks at cases that other processes have

Status = Literal["done", "kept", "elsewhere", "failed"]
"""done: by this process; kept: by an earlier run; elsewhere: by another process of this run."""


@dataclass(eq=False)
class Job:
    """One claimed case: to be done, or known to have ended."""

    case: Case
    claim: Claim
    status: Status | None = None
    """None: it is to be done."""
    error: TransUNetError | OSError | MemoryError | None = None
    record: Record | None = None
    """What stands in the folder while it is being done."""
    large: bool = False
    """Too large to be held together with another."""
    _image: Volume | None = field(default=None, repr=False)
    _read: Callable[[], Volume] | None = field(default=None, repr=False)

    def image(self) -> Volume:
        """Return the image, which was read ahead if it is small.

        Raises:
            DataError, GeometryError, ConfigError: when it cannot be used.
        """
        if self.error is not None:
            raise self.error
        if self._image is not None:
            return self._image
        return (self._read or open_image(self.case)[1])()

    def read_ahead(self) -> None:
        """Read the image if it is small; what is wrong with it is told when it is asked for."""
        try:
            size, self._read = open_image(self.case)
            self.large = size > _SMALL
            if not self.large:
                self._image = self._read()
        except (TransUNetError, OSError, MemoryError) as error:
            self.error = error


class Queue:
    """The cases of one run, shared with every process that works on the folder.

    Args:
        folder: the output folder.
        key: SHA-256 of bundle and settings.
        run: the run's name, the same in all its processes.
        outputs: a case's files relative to the folder, the label map first.
        overwrite: do finished cases again, and replace what stands there.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        run: str,
        outputs: Callable[[Case], Mapping[str, str]],
        overwrite: bool,
    ) -> None:
        self.folder, self.key, self.run = folder, key, run
        self.outputs, self.overwrite = outputs, overwrite
        self._claims: list[Claim] = []

    def jobs(self, cases: Sequence[Case]) -> Iterator[Job]:
        """Yield every case once, claimed; those that others work on last, when they are done."""
        waiting = list(cases)
        while waiting:
            before = len(waiting)
            for case in list(waiting):
                claim = Claim(self.folder, case.name)
                if claim.take():
                    waiting.remove(case)
                    self._claims.append(claim)
                    yield self._job(case, claim)
            if len(waiting) == before:
                time.sleep(_WAIT)

    def give_back(self) -> None:
        """Let others have whatever is still claimed."""
        for claim in self._claims:
            claim.give_back()

    def _job(self, case: Case, claim: Claim) -> Job:
        record = read_record(self.folder, case.name)
        if record is not None and record.run == self.run and record.status != "begun":
            return _ended_elsewhere(case, claim, record)
        job = Job(case, claim)
        try:
            digest = content_hash(case.images)
        except OSError as error:
            job.error, digest = error, ""
        if not self.overwrite:
            job.status, job.error = self._standing(case, record, digest, job.error)
        if job.status is None:
            self._begin(job, digest)
        return job

    def _begin(self, job: Job, digest: str) -> None:
        sweep(self.folder, job.case.name)
        job.record = Record(
            case=job.case.name,
            status="begun",
            key=self.key,
            run=self.run,
            images=tuple(map(str, job.case.images)),
            images_sha256=digest,
            series=job.case.series or "",
            outputs=tuple(self.outputs(job.case).values()),
        )
        write_record(self.folder, job.record)
        if job.error is None:
            job.read_ahead()

    def _standing(
        self,
        case: Case,
        record: Record | None,
        digest: str,
        error: TransUNetError | OSError | MemoryError | None,
    ) -> tuple[Status | None, TransUNetError | OSError | MemoryError | None]:
        """What becomes of a case given what stands in the folder: nothing, if it is to be done."""
        files = [self.folder / name for name in self.outputs(case).values()]
        if record is not None and record.status != "done":
            return None, error
        if record is None:
            return (None, error) if not files[0].exists() else ("failed", _not_ours(files[0]))
        same = (record.images_sha256, record.series) == (digest, case.series or "")
        if record.key == self.key and same:
            kept = all(file.exists() for file in files)
            return ("kept", None) if kept else (None, error)
        what = "another image" if record.key == self.key else "another bundle or other settings"
        return "failed", _other(case, what)


def _ended_elsewhere(case: Case, claim: Claim, record: Record) -> Job:
    if record.status == "failed":
        return Job(case, claim, "failed", DataError(record.problem))
    return Job(case, claim, "elsewhere")


def _not_ours(path: Path) -> DataError:
    return DataError(
        f"{path} exists and was not written by a prediction. Choose another output folder, or give "
        "--overwrite to replace it."
    )


def _other(case: Case, what: str) -> DataError:
    return DataError(
        f"{case.name}: the output folder holds its label map made from {what}. Choose another "
        "output folder, or give --overwrite to replace it."
    )

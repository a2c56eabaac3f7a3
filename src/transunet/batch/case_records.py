"""What is known of each case in an output folder, and the folder's summaries of it.

A record is `cases/NAME.json` in the output folder. A case whose record says that it was done with
the same bundle, settings and image is not done again. `manifest.json` says which bundle and
software made the folder and how each case ended, `statistics.json` what was found.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from transunet.batch.case_queue import summary_lock
from transunet.data.formats import files_of
from transunet.data.walking import walk
from transunet.files import write_json
from transunet.inference.predictor import Predictor
from transunet.optional import DISTRIBUTION, versions_of

_RECORDS = "cases"
_PACKAGES = (DISTRIBUTION, "torch", "onnxruntime", "openvino", "numpy", "scipy", "nibabel")


@dataclass(frozen=True)
class PredictionRecord:
    """One case in an output folder."""

    case: str
    status: Literal["begun", "done", "failed"]
    key: str
    """SHA-256 of bundle and settings."""
    run: str
    """The run that wrote it."""
    images: tuple[str, ...]
    images_sha256: str
    """Of the images' contents; empty where they could not be read."""
    series: str = ""
    """Which of several DICOM series at that path, where it was chosen."""
    outputs: tuple[str, ...] = ()
    """The files written, relative to the output folder."""
    by: str = ""
    """Host, process and device."""
    seconds: float = 0.0
    problem: str = ""
    warnings: tuple[str, ...] = ()
    """What makes the image doubtful for the bundle."""
    structures: dict[str, Any] = field(default_factory=dict)
    """Name -> voxels, volume_ml, slices and mean_intensity."""


def record_path(folder: Path, case: str) -> Path:
    """Return where the record of `case` lies."""
    return folder / _RECORDS / f"{case}.json"


def read_record(folder: Path, case: str) -> PredictionRecord | None:
    """Return what is known of `case` in `folder`; None for nothing, or nothing readable."""
    try:
        values = json.loads(record_path(folder, case).read_text(encoding="utf-8"))
        return PredictionRecord(**values)
    except (OSError, ValueError, TypeError):
        return None


def write_record(folder: Path, record: PredictionRecord) -> None:
    """Write a record; it appears when it is complete.

    Raises:
        ConfigError: when the folder cannot be written to, or the disk is full.
    """
    write_json(asdict(record), record_path(folder, record.case))


def write_summaries(
    folder: Path, predictor: Predictor, settings: Mapping[str, Any], started: str
) -> None:
    """Write `manifest.json` and `statistics.json` of all that is recorded in `folder`.

    Raises:
        ConfigError: when the folder cannot be written to.
    """
    with summary_lock(folder):
        records = _all_records(folder)
        cases = {}
        for record in records:
            always = ("status", "seconds", "images", "images_sha256", "outputs", "by")
            entry = {name: getattr(record, name) for name in always}
            for name in ("series", "problem", "warnings"):
                if getattr(record, name):
                    entry[name] = getattr(record, name)
            cases[record.case] = entry
        manifest = {
            "bundle": {"sources": predictor.sources, "sha256": predictor.fingerprint},
            "labels": predictor.labels,
            "settings": settings,
            "batch_size": predictor.batch_size,
            "engine": predictor.engine,
            "precision": predictor.precision,
            "device": predictor.device,
            "versions": versions_of(_PACKAGES),
            "started": started,
            "finished": time_now(),
            "cases": cases,
        }
        write_json(manifest, folder / "manifest.json")
        done = {record.case: record.structures for record in records if record.status == "done"}
        write_json(done, folder / "statistics.json")


def _all_records(folder: Path) -> list[PredictionRecord]:
    names = []
    for inner, folders, files in os.walk(folder / _RECORDS):
        folders[:] = [name for name in folders if not name.startswith(".partial-")]
        below = Path(inner).relative_to(folder / _RECORDS)
        names += [(below / file[:-5]).as_posix() for file in files if file.endswith(".json")]
    return [record for name in sorted(names) if (record := read_record(folder, name))]


def time_now() -> str:
    """Return the time, to the second, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def content_hash(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of the files' contents, one after the other.

    Of a folder, of all files in it; of an array or a pair, also of the file that belongs to it.

    Raises:
        OSError: when one cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        for part in walk(path).files if path.is_dir() else files_of(path):
            with part.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            digest.update(b"|")
    return digest.hexdigest()


def remove_partials(paths: Iterable[Path]) -> None:
    """Remove what a killed process left half-written of `paths`, which nobody else writes now."""
    for path in paths:
        for scratch in list(path.parent.glob(".partial-*")):
            if (scratch / path.name).exists():
                shutil.rmtree(scratch, ignore_errors=True)

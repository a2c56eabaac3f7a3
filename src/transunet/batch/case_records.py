"""What is known of each case in an output folder, and the folder's summaries of it.

A record is `cases/NAME.json` in the output folder. A case whose record says that it was done with
the same bundle, settings and image is not done again. `manifest.json` says which bundle and
software made the folder and how each case ended, `statistics.json` what was found, and
`statistics.csv` the same as a table.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from transunet.data.formats import files_of
from transunet.data.inputs import LOCKS_FOLDER
from transunet.files import writable_folder, write_json, write_rows
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
    previous_sha256: str = ""
    """Of the label map that clicks corrected, where there was one."""
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
    folder: Path, predictor: Predictor, settings: Mapping[str, Any], started: datetime
) -> None:
    """Write manifest and statistics of all that is recorded in `folder`.

    Other processes that do so at the same time wait for each other.

    Raises:
        ConfigError: when the folder cannot be written to.
    """
    with FileLock(writable_folder(folder / LOCKS_FOLDER) / "summary.lock"):
        names = []
        for inner, folders, files in os.walk(folder / _RECORDS):
            folders[:] = [name for name in folders if not name.startswith(".partial-")]
            below = Path(inner).relative_to(folder / _RECORDS)
            names += [(below / file[:-5]).as_posix() for file in files if file.endswith(".json")]
        cases, statistics = {}, {}
        for name in sorted(names):
            if (record := read_record(folder, name)) is None:
                continue
            always = ("status", "seconds", "images", "images_sha256", "outputs", "by")
            entry = {name: getattr(record, name) for name in always}
            sometimes = ("series", "problem", "warnings")
            entry |= {name: value for name in sometimes if (value := getattr(record, name))}
            cases[record.case] = entry
            if record.status == "done":
                statistics[record.case] = record.structures
                if look := needing_a_look(record.structures):
                    entry["look"] = look
        manifest = {
            "bundle": {"sources": predictor.sources, "sha256": predictor.fingerprint},
            **told_labels(predictor),
            "settings": settings,
            "batch_size": predictor.batch_size,
            "engine": predictor.engine,
            "precision": predictor.precision,
            "device": predictor.device,
            "versions": versions_of(_PACKAGES),
            "started": started.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "cases": cases,
        }
        if predictor.fitted is not None:
            looks = [entry["look"] for entry in cases.values() if "look" in entry]
            manifest["look"] = {"cases": len(looks), "structures": sum(map(len, looks))}
        write_json(manifest, folder / "manifest.json")
        write_json(statistics, folder / "statistics.json")
        channels = [channel.name for channel in predictor.preprocessing.channels]
        write_rows(_table(statistics, channels), folder / "statistics.csv")


def told_labels(predictor: Predictor) -> dict[str, Any]:
    """Return what a manifest says of the values in label maps, from which their names are read."""
    regions = [region.model_dump(mode="json") for region in predictor.regions]
    return {"labels": predictor.labels, **({"regions": regions} if regions else {})}


def needing_a_look(structures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names of the structures of a case that a person should look at."""
    return [name for name, figures in structures.items() if figures.get("look")]


def _table(
    statistics: Mapping[str, Mapping[str, Mapping[str, Any]]], channels: Sequence[str]
) -> Iterator[list[Any]]:
    """Yield the table's head, and a row per case and structure; empty is what is not known."""
    measured = ("voxels", "volume_ml", "slices")
    expected = ("look", "reason", "expected_dice", "expected_within")
    intensities = [f"mean_intensity_{channel}" for channel in channels]
    bounds = ("volume_low_ml", "volume_high_ml")
    yield ["case", "structure", *measured, *intensities, *expected, *bounds]
    for case, structures in statistics.items():
        for name, figures in structures.items():
            yield [
                *(case, name, *(figures[key] for key in measured)),
                *(figures["mean_intensity"] or [None] * len(channels)),
                *map(figures.get, expected),
                *figures.get("volume_interval_ml", (None, None)),
            ]


def content_hash(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of the files' contents, one after the other.

    Of a folder, of all files in it; of an array or a pair, also of the file that belongs to it.

    Raises:
        OSError: when one cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        if path.is_dir():
            from transunet.data.walking import walk

            parts = walk(path).files
        else:
            parts = files_of(path)
        for part in parts:
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

"""What an output folder says of itself: which bundle and software, which cases, what was found."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transunet.batch.case_records import Record, all_records
from transunet.batch.locks import together
from transunet.batch.outputs import write_values
from transunet.inference.predictor import Predictor
from transunet.optional import DISTRIBUTION, versions_of

MANIFEST = "manifest.json"
STATISTICS = "statistics.json"
_WHERE_THERE = ("series", "problem", "warnings")
_PACKAGES = (DISTRIBUTION, "torch", "onnxruntime", "openvino", "numpy", "scipy", "nibabel")


def summarise(
    folder: Path, predictor: Predictor, settings: Mapping[str, Any], started: str
) -> None:
    """Write `manifest.json` and `statistics.json` of all that is recorded in `folder`.

    Raises:
        ConfigError: when the folder cannot be written to.
    """
    with together(folder):
        records = all_records(folder)
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
            "finished": now(),
            "cases": {record.case: _told(record) for record in records},
        }
        write_values(folder / MANIFEST, manifest)
        found = {record.case: record.structures for record in records if record.status == "done"}
        write_values(folder / STATISTICS, found)


def now() -> str:
    """Return the time, to the second, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _told(record: Record) -> dict[str, Any]:
    names = ("status", "seconds", "images", "images_sha256", "outputs", "by")
    told = {name: getattr(record, name) for name in names}
    return told | {key: value for key in _WHERE_THERE if (value := getattr(record, key))}

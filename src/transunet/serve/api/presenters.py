"""Records as the API answers them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, overload

from transunet.serve.api.schemas import Bundle, Image, Job, Label, Suitability
from transunet.serve.bundles import Served, colour
from transunet.serve.image_records import ImageRecord, JobRecord
from transunet.serve.jobs.database import Store
from transunet.serve.jobs.queue import JobQueue
from transunet.serve.jobs.result_files import fitting


def bundle(served: Served) -> Bundle:
    """Return what is told of a bundle."""
    architecture = served.config.architecture
    labels = sorted(served.config.labels.items())
    return Bundle(
        id=served.id,
        name=served.name,
        labels=[Label(index=i, name=name, color=colour(i)) for i, name in labels if i],
        channels=served.channels,
        architecture=architecture.name,
        image_size=architecture.image_size,
        layers=architecture.num_layers,
        heads=architecture.num_heads,
    )


def image(record: ImageRecord, bundles: Mapping[str, Served]) -> Image:
    """Return what is told of an image, and of how the bundles suit it."""
    known: dict[str, Any] = {
        key: value for key, value in record.facts.items() if key in Image.model_fields
    }
    return Image(
        id=record.id,
        name=record.name,
        result_formats=fitting(record.facts),
        suitability=[
            _suitability(served, record)
            for served in bundles.values()
            if len(served.channels) == record.facts["channels"]
        ],
        created=moment(record.created),
        expires=moment(record.expires),
        **known,
    )


def _suitability(served: Served, record: ImageRecord) -> Suitability:
    refusal, warnings = served.mismatch(record.facts)
    return Suitability(bundle=served.id, refusal=refusal, warnings=list(warnings))


def job(record: JobRecord, store: Store, queue: JobQueue) -> Job:
    """Return what is told of a job, with how far it is."""
    done, total = queue.progress.get(record.id, (0, None))
    if record.status == "done":
        done, total = record.slices or 0, record.slices
    known = {key: value for key, value in vars(record).items() if key in Job.model_fields}
    known |= {
        "slices_done": done,
        "slices_total": total,
        "position": store.position(record.id) if record.status == "queued" else None,
    }
    times = {key: moment(known[key]) for key in ("created", "started", "finished", "expires")}
    return Job(**{**known, **times})


@overload
def moment(seconds: float) -> str: ...
@overload
def moment(seconds: None) -> None: ...
def moment(seconds: float | None) -> str | None:
    """Return a time as ISO 8601 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

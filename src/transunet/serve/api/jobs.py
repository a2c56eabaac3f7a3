"""Jobs: queued, followed, cancelled, removed."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from transunet.errors import ConfigError
from transunet.inference.postprocessing import classes_named
from transunet.serve.api import presenters
from transunet.serve.api.dependencies import Here, Id, faults, file_faults
from transunet.serve.api.error_responses import ApiError
from transunet.serve.api.schemas import Job, JobRequest
from transunet.serve.bundles import Served
from transunet.serve.image_records import ImageRecord
from transunet.serve.service import Service

router = APIRouter(tags=["jobs"])

_STILL_HERE_SECONDS = 15.0  # between two signs of life, so that no proxy gives the stream up
_TAKEN = faults("not_found", "wrong_channels", "wrong_modality", "unusable", "invalid_request",
                "queue_full", "too_large", "storage_full")  # fmt: skip
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {}},
        "description": "`status` (the job, when its state or place changes), `progress` "
        "(`slices_done`, `slices_total`), at last `end` (the job). Lines that begin with a colon "
        "are signs of life.",
    }
}


@router.post("/jobs", status_code=201, responses=_TAKEN)
def submit(wanted: JobRequest, request: Request, response: Response, here: Here) -> Job:
    """Queue the segmentation of an image."""
    image, served = here.image(wanted.image), here.bundle(wanted.bundle)
    _check(image, served, wanted)
    warnings = _suitability(image, served, wanted.force)
    here.space.check()
    settings = wanted.model_dump(exclude={"image", "bundle"})
    job = here.queue.submit(image, served.id, settings, warnings)
    response.headers["Location"] = f"{request.url.path}/{job.id}"
    return presenters.job(job, here.store, here.queue)


@router.get("/jobs", responses=faults())
def jobs(here: Here) -> list[Job]:
    """List the jobs, oldest first."""
    return [presenters.job(job, here.store, here.queue) for job in here.store.jobs()]


@router.get("/jobs/{id}", responses=faults("not_found"))
def job(here: Here, id: Id) -> Job:
    """Tell about a job."""
    return presenters.job(here.job(id), here.store, here.queue)


@router.get(
    "/jobs/{id}/events",
    response_class=StreamingResponse,
    responses={**_STREAM, **file_faults("not_found")},
)
def events(here: Here, id: Id) -> StreamingResponse:
    """Follow a job until it is over, as server-sent events."""
    here.job(id)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(here, id), media_type="text/event-stream", headers=headers)


@router.post("/jobs/{id}/cancel", responses=faults("not_found", "busy"))
def cancel(here: Here, id: Id) -> Job:
    """Stop a job, or take it out of the queue."""
    found = here.job(id)
    if not here.queue.cancel(id):
        raise ApiError("busy", f"The job is {found.status}; there is nothing to cancel.")
    return presenters.job(here.job(id), here.store, here.queue)


@router.delete("/jobs/{id}", status_code=204, responses=faults("not_found"))
def delete(here: Here, id: Id) -> None:
    """Remove a job and its result; one that is running is cancelled."""
    here.job(id)
    here.queue.forget(id)


def _suitability(image: ImageRecord, served: Served, force: bool) -> list[str]:
    """Return what makes the image doubtful for the bundle; refuse one of another kind."""
    contradiction, doubts = served.mismatch(image.facts)
    if contradiction is None:
        return list(doubts)
    if not force:
        raise ApiError(
            "wrong_modality",
            f"{image.name}: {contradiction}.",
            'Choose a bundle for such images, or send "force": true to segment it all the same.',
        )
    return [f"Segmented although {contradiction}.", *doubts]


async def _events(here: Service, id_: str) -> AsyncIterator[str]:
    last: dict[str, Any] = {}
    with here.queue.bell.listening() as rung:
        while not here.stopping:
            rung.clear()
            try:
                told = await asyncio.to_thread(_told, here, id_)
            except ApiError as error:  # it was removed in between
                yield _event("end", error.body)
                return
            for kind, value in _news(last, told):
                yield _event(kind, value)
            if told["status"] in ("done", "failed", "cancelled"):
                return
            last = told
            try:
                await asyncio.wait_for(rung.wait(), _STILL_HERE_SECONDS)
            except TimeoutError:
                yield ": still here\n\n"


def _told(here: Service, id_: str) -> dict[str, Any]:
    return presenters.job(here.job(id_), here.store, here.queue).model_dump(mode="json")


def _news(last: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found = []
    if any(last.get(key) != now[key] for key in ("status", "position")):
        found.append(("status", now))
    slices = {key: now[key] for key in ("slices_done", "slices_total")}
    if now["slices_total"] is not None and any(last.get(key) != slices[key] for key in slices):
        found.append(("progress", slices))
    if now["status"] in ("done", "failed", "cancelled"):
        found.append(("end", now))
    return found


def _event(kind: str, value: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(value)}\n\n"


def _check(image: ImageRecord, served: Served, wanted: JobRequest) -> None:
    channels = image.facts["channels"]
    if channels != len(served.channels):
        names = ", ".join(served.channels)
        raise ApiError(
            "wrong_channels",
            f"{image.name} has {channels} channels; {served.name} takes {len(served.channels)} "
            f"({names}).",
            "Upload one file per channel, in this order, or choose another bundle.",
        )
    if image.facts["obstacle"]:
        raise ApiError("unusable", f"{image.name}: {image.facts['obstacle']}", "Repair the image.")
    if wanted.window and wanted.procedure == "paper":
        message = "The paper's procedure resizes whole slices; it has no windows."
        raise ApiError("invalid_request", message, "Choose procedure native, or no window.")
    try:
        classes_named(wanted.largest_component, served.config.labels)
    except ConfigError as error:
        raise ApiError("invalid_request", str(error)) from None

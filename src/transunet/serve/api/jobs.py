"""Jobs: queued, followed, cancelled, removed."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from transunet.data.classes import classes_named
from transunet.errors import ConfigError
from transunet.serve.api.dependencies import CurrentService, Id, faults
from transunet.serve.api.schemas import Job, JobRequest
from transunet.serve.api_errors import ApiError
from transunet.serve.jobs.database import OVER, JobRecord, new_id
from transunet.serve.jobs.messages import UNCERTAINTY
from transunet.serve.service import Service

router = APIRouter(tags=["jobs"])

_ALIVE_SECONDS = 15.0  # between two signs of life, so that no proxy gives the stream up
LOOK_SECONDS = 0.05
"""Between two looks at a job that is followed."""
SUBMIT_FAULTS = faults("not_found", "wrong_channels", "wrong_modality", "unusable",
                        "invalid_request", "queue_full", "too_large", "storage_full")  # fmt: skip
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {}},
        "description": "`status` (the job, when its state or place changes), `progress` "
        "(`slices_done`, `slices_total`), at last `end` (the job). Lines that begin with a colon "
        "are signs of life.",
    }
}


@router.post("/jobs", status_code=201, responses=SUBMIT_FAULTS)
def submit_job(
    job_request: JobRequest, request: Request, response: Response, service: CurrentService
) -> Job:
    """Queue the segmentation of an image."""
    job = checked(job_request, service)
    service.queue.submit(job)
    response.headers["Location"] = f"{request.url.path}/{job.id}"
    return presented_job(job, service)


def checked(job_request: JobRequest, service: Service, batch: str | None = None) -> JobRecord:
    """Return the job that is asked for, which is not queued yet.

    Raises:
        ApiError: when its image, bundle and settings do not go together, or the disk is full.
    """
    image, served = service.image(job_request.image), service.bundle(job_request.bundle)
    channels, obstacle = image.metadata["channels"], image.metadata["obstacle"]
    if channels != len(served.channels):
        names = ", ".join(served.channels)
        raise ApiError(
            "wrong_channels",
            f"{image.name} has {channels} channels; {served.name} takes {len(served.channels)} "
            f"({names}).",
            "Upload one file per channel, in this order, or choose another model.",
        )
    if obstacle:
        raise ApiError("unusable", f"{image.name}: {obstacle}", "Repair the image.")
    if served.config.sampling.kind == "patches":
        if min(image.metadata["shape"]) == 1:
            raise ApiError(
                "unusable",
                f"{image.name} is a picture or a single plane; {served.name} takes volumes.",
                "Upload the whole volume, or choose a model of a 2D network.",
            )
        if job_request.window or job_request.procedure == "paper":
            message = f"{served.name} takes patches, which overlap already; these are for slices."
            raise ApiError("invalid_request", message, "Leave out window and procedure.")
    seen = served.config.training_data
    if job_request.mirror and seen and seen.unmirrored and not job_request.force:
        message = f"Training showed {served.name} no mirror images: it would label them badly."
        raise ApiError("invalid_request", message, "Leave out mirror, or force it.")
    if job_request.window and job_request.procedure == "paper":
        message = "The paper's procedure resizes whole slices; it has no windows."
        raise ApiError("invalid_request", message, "Choose procedure native, or no window.")
    try:
        classes_named(job_request.largest_component, served.config.structures)
    except ConfigError as error:
        raise ApiError("invalid_request", str(error)) from None
    refusal, warnings, _ = served.mismatch(image.metadata)
    if refusal is not None and not job_request.force:
        raise ApiError(
            "wrong_modality",
            f"{image.name}: {refusal}.",
            'Choose a model for such images, or send "force": true to segment it all the same.',
        )
    forced = [] if refusal is None else [f"Segmented although {refusal}."]
    service.quota.check()
    settings = job_request.model_dump(exclude={"image", "bundle"})
    told = [*forced, *warnings]
    return JobRecord(
        new_id(), image.id, served.id, settings, time.time(), warnings=told, batch=batch
    )


@router.get("/jobs", responses=faults())
def list_jobs(service: CurrentService) -> list[Job]:
    """List the jobs, oldest first."""
    return [presented_job(job, service) for job in service.database.jobs.values()]


@router.get("/jobs/{id}", responses=faults("not_found"))
def get_job(service: CurrentService, id: Id) -> Job:
    """Tell about a job."""
    return presented_job(service.job(id), service)


@router.get(
    "/jobs/{id}/events",
    response_class=StreamingResponse,
    responses={**_STREAM, **faults("not_found", json=False)},
)
def follow_job(service: CurrentService, id: Id) -> StreamingResponse:
    """Follow a job until it is over, as server-sent events."""
    service.job(id)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(service, id), media_type="text/event-stream", headers=headers)


@router.post("/jobs/{id}/cancel", responses=faults("not_found", "busy"))
def cancel_job(service: CurrentService, id: Id) -> Job:
    """Stop a job, or take it out of the queue."""
    job = service.job(id)
    if not service.queue.cancel(id):
        raise ApiError("busy", f"The job is {job.status}; there is nothing to cancel.")
    return presented_job(service.job(id), service)


@router.delete("/jobs/{id}", status_code=204, responses=faults("not_found"))
def delete_job(service: CurrentService, id: Id) -> None:
    """Remove a job and its result; one that is running is cancelled."""
    service.job(id)
    service.queue.forget(id)


def presented_job(record: JobRecord, service: Service) -> Job:
    """Return what is answered of a job."""
    done, total = service.queue.progress.get(record.id, (0, None))
    if record.status == "done":
        done, total = record.slices or 0, record.slices
    known = {key: value for key, value in vars(record).items() if key in Job.model_fields}
    queued = service.database.queued()
    position = queued.index(record.id) + 1 if record.id in queued else None
    mapped = (service.database.job_folder(record.id) / UNCERTAINTY).exists()
    unsure = record.status == "done" and mapped
    return Job(**known, slices_done=done, slices_total=total, position=position, uncertainty=unsure)


async def _events(service: Service, id_: str) -> AsyncIterator[str]:
    def event(kind: str, value: dict[str, Any]) -> str:
        return f"event: {kind}\ndata: {json.dumps(value)}\n\n"

    last: dict[str, Any] = {}
    told = time.monotonic()
    while not service.stopping:
        try:
            now = presented_job(service.job(id_), service).model_dump(mode="json")
        except ApiError as error:  # it was removed in between
            yield event("end", error.body)
            return
        slices = {key: now[key] for key in ("slices_done", "slices_total")}
        if now != last:
            told = time.monotonic()
        if any(last.get(key) != now[key] for key in ("status", "position")):
            yield event("status", now)
        if now["slices_total"] is not None and slices != {key: last.get(key) for key in slices}:
            yield event("progress", slices)
        if now["status"] in OVER:
            yield event("end", now)
            return
        if time.monotonic() > told + _ALIVE_SECONDS:
            told = time.monotonic()
            yield ": still here\n\n"
        last = now
        await asyncio.sleep(LOOK_SECONDS)

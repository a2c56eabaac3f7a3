"""One call: an image in, its label map out; for scripts, and images that take no minutes."""

import asyncio
import time
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse
from pydantic import ConfigDict, Field
from starlette.background import BackgroundTask

from transunet.serve.api.dependencies import CurrentService, faults
from transunet.serve.api.images import FILES, take_in
from transunet.serve.api.jobs import LOOK_SECONDS, checked, presented_job
from transunet.serve.api.results import RESULT_FILE, done_job, get_job_result
from transunet.serve.api.schemas import JobRequest, JobSettings
from transunet.serve.api_errors import ApiError
from transunet.serve.jobs.database import OVER, JobRecord
from transunet.serve.jobs.result_files import ResultFormat, check_possible
from transunet.serve.service import Service
from transunet.serve.uploads.accept import As
from transunet.serve.uploads.receive import received

router = APIRouter(tags=["results"])

_ANSWERS: dict[int | str, dict[str, Any]] = {
    **RESULT_FILE,
    202: {
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Job"}}},
        "description": "It takes longer, and goes on as the job at `Location`; image and job stay "
        "as any others do.",
    },
    **faults(
        "not_found", "too_slow", "too_large", "unknown_format", "unreadable", "several_series",
        "no_such_series", "wrong_channels", "wrong_modality", "unusable", "format_not_fitting",
        "queue_full", "worker_died", "not_done", json=False,
    ),
}  # fmt: skip


class SegmentQuery(JobSettings):
    """How the one call is to segment."""

    model_config = ConfigDict(extra="forbid")

    bundle: str | None = Field(
        default=None, description="May be left out where one bundle is served."
    )
    format: ResultFormat = Field(default="nifti", description="As of a job's result.")
    as_: As = Field(default="auto", alias="as", description="How several files go together.")
    series: str | None = Field(
        default=None, max_length=100, description="Which DICOM series, by number or UID."
    )
    wait_seconds: float = Field(default=60, ge=0, le=600, description="Then the answer is 202.")
    keep: bool = Field(default=False, description="Keep image and job, told in `Location`.")


@router.post("/segment", response_class=FileResponse, responses=_ANSWERS, openapi_extra=FILES)
async def segment_image(
    request: Request, service: CurrentService, query: Annotated[SegmentQuery, Query()]
) -> Any:
    """Segment an image in one call.

    It waits in the queue as any job does. With the answer image and job are gone, unless they are
    to be kept; so they are when the client leaves.
    """
    if query.bundle is None and len(service.bundles) > 1:
        message = f"Several bundles are served: {', '.join(service.bundles)}."
        raise ApiError("invalid_request", message, "Send bundle=ID with one of them.")
    served = service.bundle(query.bundle or next(iter(service.bundles)))
    service.queue.check_room()
    async with received(request, service) as upload:
        image = await take_in(service, upload, query.as_, query.series)
    try:
        check_possible(query.format, image.metadata)
        settings = query.model_dump(include=set(JobSettings.model_fields))
        job = checked(JobRequest(image=image.id, bundle=served.id, **settings), service)
        service.queue.submit(job)
        location = {"Location": f"{request.url.path.removesuffix('/segment')}/jobs/{job.id}"}
        job = await _followed(job, request, service, time.monotonic() + query.wait_seconds)
        if job.status not in OVER:
            answer = presented_job(job, service).model_dump(mode="json")
            return JSONResponse(answer, 202, location)
        if job.error is not None:
            raise ApiError(job.error["code"], job.error["message"], job.error.get("remedy"))
        file = await get_job_result(service, done_job(service, job.id).id, query.format)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_remove, service, image.id)
        raise
    if query.keep:
        file.headers.update(location)
    else:
        file.background = BackgroundTask(_remove, service, image.id)
    return file


async def _followed(job: JobRecord, request: Request, service: Service, end: float) -> JobRecord:
    """Return the job when it is over, or at `end`, or when the server stops.

    Raises:
        ApiError: when the client leaves, or somebody else removes the job.
    """
    while job.status not in OVER and time.monotonic() < end and not service.stopping:
        await asyncio.sleep(LOOK_SECONDS)
        if await request.is_disconnected():
            raise ApiError("malformed", "The client left before the job was over.")
        job = service.job(job.id)
    return job


def _remove(service: Service, image: str) -> None:
    for job in service.database.jobs.values():
        if job.image == image:
            service.queue.forget(job.id)
    service.remove_image(image)

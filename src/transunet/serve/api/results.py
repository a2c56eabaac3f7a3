"""What came out of a job: label maps, and how they agree with a reference."""

from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse

from transunet.serve.api.dependencies import GZIP, Here, Id, faults, file_faults, multipart
from transunet.serve.api.error_responses import ApiError
from transunet.serve.api.schemas import Comparison
from transunet.serve.image_records import JobRecord
from transunet.serve.jobs.messages import LABELS, OVERLAY
from transunet.serve.jobs.reference import score
from transunet.serve.jobs.result_files import MEDIA, SUFFIXES, ResultFormat, check_fits, convert
from transunet.serve.service import Service
from transunet.serve.uploads.file_names import download
from transunet.serve.uploads.quota import size_of
from transunet.serve.uploads.receive import received

router = APIRouter(tags=["results"])

_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            media: {"schema": {"type": "string", "format": "binary"}} for media in MEDIA.values()
        },
        "description": "The label map.",
    }
}
_BODY = multipart("file", {"type": "string", "format": "binary"})
_TAKEN = faults(
    "not_found", "not_done", "too_slow", "too_large", "unknown_format", "unreadable",
    "wrong_grid", "invalid_request", "storage_full",
)  # fmt: skip


@router.get(
    "/jobs/{id}/labels.nii.gz",
    response_class=FileResponse,
    responses={**GZIP, **file_faults("not_found", "not_done")},
)
def labels(here: Here, id: Id) -> FileResponse:
    """Return the label map as NIfTI for a viewer, lying as `volume.nii.gz` does."""
    _done(here, id)
    return FileResponse(here.job_folder(id) / OVERLAY, media_type="application/gzip")


@router.get(
    "/jobs/{id}/result",
    response_class=FileResponse,
    responses={
        **_FILE,
        **file_faults(
            "not_found", "not_done", "format_not_fitting", "invalid_request", "storage_full"
        ),
    },
)
async def result(
    here: Here,
    id: Id,
    format_: Annotated[
        ResultFormat, Query(alias="format", description="The image says which are possible.")
    ] = "nifti",
) -> FileResponse:
    """Return the label map as a file to keep, on the image's own grid."""
    job = await anyio.to_thread.run_sync(_done, here, id)
    image = await anyio.to_thread.run_sync(here.image, job.image)
    served = here.bundle(job.bundle)
    check_fits(format_, image.facts)
    folder, name = here.job_folder(id), LABELS
    if format_ != "nifti":
        name = f"result{SUFFIXES[format_]}"
        if not (folder / name).exists():
            await here.desk.run(
                convert,
                here.image_folder(image.id),
                image.facts,
                folder,
                format_,
                dict(served.config.labels),
            )
            await anyio.to_thread.run_sync(lambda: here.store.grown(id, size_of(folder)))
    called = download(image.facts["stem"], served.id, SUFFIXES[format_])
    return FileResponse(folder / name, media_type=MEDIA[format_], filename=called)


@router.post("/jobs/{id}/reference", responses=_TAKEN, openapi_extra=_BODY)
async def reference(
    request: Request,
    here: Here,
    id: Id,
    ignore: Annotated[
        int | None,
        Query(ge=1, le=65_535, description="The reference's value of what nobody labelled."),
    ] = None,
) -> Comparison:
    """Compare the label map with a reference that lies on the image's grid."""
    job = await anyio.to_thread.run_sync(_done, here, id)
    served = here.bundle(job.bundle)
    async with received(request, here) as (_, _, upload):
        if not upload.files:
            raise ApiError("malformed", "There is no file.", "Send one as the form field 'file'.")
        found = await here.desk.run(
            score,
            upload.files,
            here.job_folder(id),
            dict(served.config.labels),
            here.limits.voxels,
            here.limits.quota_bytes - here.store.used_bytes(),
            ignore,
        )
    return Comparison.model_validate(found)


def _done(here: Service, id_: str) -> JobRecord:
    job = here.job(id_)
    if job.status != "done":
        reason = {
            "queued": "The job is still waiting.",
            "running": "The job is still running.",
            "failed": "The job failed, so it has no result.",
            "cancelled": "The job was cancelled, so it has no result.",
        }[job.status]
        raise ApiError("not_done", reason, "Follow its events, and ask when it is done.")
    return job

"""What comes of images and jobs: label maps, how they agree with a reference, and attention."""

import asyncio
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from transunet.errors import TransUNetError
from transunet.serve.api.dependencies import GZIP, CurrentService, Id, faults, multipart
from transunet.serve.api.images import check_channels, check_voxel
from transunet.serve.api.schemas import AttentionRequest, Comparison, JobAttentionRequest
from transunet.serve.api_errors import ApiError, api_error
from transunet.serve.bundles import ServedBundle
from transunet.serve.jobs.database import ImageRecord, JobRecord, new_id
from transunet.serve.jobs.messages import LABELS, OVERLAY, UNCERTAINTY, AttentionTask
from transunet.serve.jobs.reference import score
from transunet.serve.jobs.result_files import RESULT_FORMATS, ResultFormat, check_possible, convert
from transunet.serve.service import Service
from transunet.serve.uploads.receive import received

router, attention = APIRouter(tags=["results"]), APIRouter(tags=["attention"])

_BINARY = {"schema": {"type": "string", "format": "binary"}}
RESULT_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {media: _BINARY for _, media in RESULT_FORMATS.values()},
        "description": "The label map.",
    },
    **faults("not_found", "not_done", "format_not_fitting", "invalid_request", "storage_full",
             json=False),
}  # fmt: skip
_BODY = multipart("file", {"type": "string", "format": "binary"})
_REFERENCE_FAULTS = faults(
    "not_found", "not_done", "too_slow", "too_large", "unknown_format", "unreadable",
    "wrong_grid", "invalid_request", "storage_full",
)  # fmt: skip
_NOT_DONE = {
    "queued": "The job is still waiting.",
    "running": "The job is still running.",
    "failed": "The job failed, so it has no result.",
    "cancelled": "The job was cancelled, so it has no result.",
}
_SLICE = {
    **GZIP,
    **faults("not_found", "no_attention", "wrong_channels", "unusable", "invalid_request",
             "too_large", "worker_died", "storage_full", json=False),
}  # fmt: skip

Question = AttentionRequest | JobAttentionRequest


@router.get(
    "/jobs/{id}/labels.nii.gz",
    response_class=FileResponse,
    responses={**GZIP, **faults("not_found", "not_done", json=False)},
)
def get_job_labels(service: CurrentService, id: Id) -> FileResponse:
    """Return the label map as NIfTI for a viewer, lying as `volume.nii.gz` does."""
    done_job(service, id)
    return FileResponse(service.database.job_folder(id) / OVERLAY, media_type="application/gzip")


@router.get(
    "/jobs/{id}/uncertainty.nii.gz",
    response_class=FileResponse,
    responses={**GZIP, **faults("not_found", "not_done", json=False)},
)
def get_job_uncertainty(service: CurrentService, id: Id) -> FileResponse:
    """Return where the network is unsure as NIfTI for a viewer, lying as `volume.nii.gz` does.

    Voxels hold the entropy of the calibrated probabilities in percent: 0 where it is certain, 100
    where all classes are alike.
    """
    done_job(service, id)
    path = service.database.job_folder(id) / UNCERTAINTY
    if not path.exists():
        raise ApiError(
            "not_found",
            "There is no map of doubt: the model's probabilities were not calibrated.",
            "Calibrate the model on held-out cases (transunet calibrate), and segment again.",
        )
    return FileResponse(path, media_type="application/gzip")


@router.get("/jobs/{id}/result", response_class=FileResponse, responses=RESULT_FILE)
async def get_job_result(
    service: CurrentService,
    id: Id,
    format_: Annotated[
        ResultFormat, Query(alias="format", description="The image says which are possible.")
    ] = "nifti",
) -> FileResponse:
    """Return the label map as a file to keep, on the image's own grid."""
    job = done_job(service, id)
    served, folder = service.bundle(job.bundle), service.database.job_folder(id)
    told = dict(served.config.labels), served.config.regions
    measure = partial(service.queue.measure, id)
    image = service.image(job.image)
    return await result_file(service, image, folder, format_, served.id, told, measure)


async def result_file(
    service: Service,
    image: ImageRecord,
    folder: Path,
    format_: ResultFormat,
    called: str,
    told: tuple[Any, ...],
    measure: Callable[[], None],
) -> FileResponse:
    """Return the label map in `folder` as a file to keep; it is converted only once.

    Args:
        service: the server's.
        image: that it is of.
        folder: the job's or label map's.
        format_: one of `RESULT_FORMATS`.
        called: what the file is called by, behind the image's name.
        told: what else `convert` takes: the labels' names, regions, and who made it.
        measure: notes the bytes that the folder takes.

    Raises:
        ApiError: when the image's headers do not allow it, or the disk is full.
    """
    check_possible(format_, image.metadata)
    suffix, media = RESULT_FORMATS[format_]
    name = LABELS if format_ == "nifti" else f"result{suffix}"
    if not (folder / name).exists():
        image_folder = service.database.image_folder(image.id)
        await service.parsers.run(convert, image_folder, image.metadata, folder, format_, *told)
        await anyio.to_thread.run_sync(measure)
    filename = f"{plain(image.metadata['stem']) or 'image'}_{called}{suffix}"
    return FileResponse(folder / name, media_type=media, filename=filename)


def plain(text: str) -> str:
    """Return what any file system takes as a part of a file name."""
    return re.sub(r'[\\/:*?"<>|\s]+', "_", text).strip("._")


@router.post("/jobs/{id}/reference", responses=_REFERENCE_FAULTS, openapi_extra=_BODY)
async def compare_job(
    request: Request,
    service: CurrentService,
    id: Id,
    ignore: Annotated[
        int | None,
        Query(ge=1, le=65_535, description="The reference's value of what nobody labelled."),
    ] = None,
) -> Comparison:
    """Compare the label map with a reference that lies on the image's grid."""
    job = done_job(service, id)
    config = service.bundle(job.bundle).config
    async with received(request, service) as upload:
        if not upload.files:
            raise ApiError("malformed", "There is no file.", "Send one as the form field 'file'.")
        comparison = await service.parsers.run(
            score,
            upload.files,
            service.database.job_folder(id),
            dict(config.labels),
            service.limits.voxels,
            service.quota.left,
            ignore,
            config.regions,
        )
    return Comparison.model_validate(comparison)


def done_job(service: Service, id_: str) -> JobRecord:
    """Return a job that is done.

    Raises:
        ApiError: when it is not, or there is none.
    """
    job = service.job(id_)
    if job.status != "done":
        remedy = "Follow its events, and ask when it is done."
        raise ApiError("not_done", _NOT_DONE[job.status], remedy)
    return job


@attention.post("/images/{id}/attention", response_class=FileResponse, responses=_SLICE)
async def explain_image(
    question: AttentionRequest, service: CurrentService, id: Id
) -> FileResponse:
    """Return attention as NIfTI of one slice that lies on the image's, float32 from 0 to 1."""
    return await _slice(service, service.image(id), service.bundle(question.bundle), question)


@attention.post("/jobs/{id}/attention", response_class=FileResponse, responses=_SLICE)
async def explain_job(
    question: JobAttentionRequest, service: CurrentService, id: Id
) -> FileResponse:
    """As of an image: the job's, with its bundle. The job need not be done."""
    job = service.job(id)
    return await _slice(
        service, service.image(job.image), service.bundle(question.bundle or job.bundle), question
    )


async def _slice(
    service: Service, image: ImageRecord, served: ServedBundle, question: Question
) -> FileResponse:
    architecture = served.config.architecture
    check_channels(image, served)
    check_voxel(image, question.voxel)
    for what, value, count in (
        ("layer", question.layer, architecture.layers),
        ("head", question.head, architecture.heads),
    ):
        if isinstance(value, int) and value >= count:
            message = f"There is no {what} {value}: {served.name} has {count}, from 0."
            raise ApiError("invalid_request", message)
    if question.layer == "rollout" and question.head != "mean":
        message = "The roll-out takes the mean of the heads."
        raise ApiError("invalid_request", message, "Send head 'mean', or choose a layer.")
    id_, folder = new_id(), service.database.image_folder(image.id)
    path = service.data / "scratch" / f"{id_}.nii.gz"  # removed when it is sent
    x, y, z = question.voxel
    task = AttentionTask(served.id, image, folder, path, (x, y, z), question.layer, question.head)
    try:
        await asyncio.wrap_future(service.worker.ask(id_, task))
    except TransUNetError as error:
        raise api_error(error, folder, "unusable") from None
    removal = BackgroundTask(Path.unlink, path, missing_ok=True)
    return FileResponse(path, media_type="application/gzip", background=removal)

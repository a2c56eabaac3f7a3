"""Where the network looks from a voxel, as one slice to lay over the image."""

import asyncio
from pathlib import Path

import anyio.to_thread
from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from transunet.errors import TransUNetError
from transunet.serve.api.dependencies import GZIP, CurrentService, Id, faults
from transunet.serve.api.schemas import AttentionRequest, JobAttentionRequest
from transunet.serve.api_errors import ApiError, api_error
from transunet.serve.bundles import ServedBundle
from transunet.serve.jobs.database import ImageRecord, new_id
from transunet.serve.jobs.messages import AttentionTask
from transunet.serve.service import Service

router = APIRouter(tags=["attention"])

_SLICE = {
    **GZIP,
    **faults("not_found", "no_attention", "wrong_channels", "unusable", "invalid_request",
             "too_large", "worker_died", "storage_full", json=False),
}  # fmt: skip

Question = AttentionRequest | JobAttentionRequest


@router.post("/images/{id}/attention", response_class=FileResponse, responses=_SLICE)
async def of_image(question: AttentionRequest, service: CurrentService, id: Id) -> FileResponse:
    """Return attention as NIfTI of one slice that lies on the image's, float32 from 0 to 1."""
    image = await anyio.to_thread.run_sync(service.image, id)
    return await _slice(service, image, service.bundle(question.bundle), question)


@router.post("/jobs/{id}/attention", response_class=FileResponse, responses=_SLICE)
async def of_job(question: JobAttentionRequest, service: CurrentService, id: Id) -> FileResponse:
    """As of an image: the job's, with its bundle. The job need not be done."""
    job = await anyio.to_thread.run_sync(service.job, id)
    image = await anyio.to_thread.run_sync(service.image, job.image)
    return await _slice(service, image, service.bundle(question.bundle or job.bundle), question)


async def _slice(
    service: Service, image: ImageRecord, served: ServedBundle, question: Question
) -> FileResponse:
    _check(image, served, question)
    path, folder = service.scratch_file(".nii.gz"), service.image_folder(image.id)
    x, y, z = question.voxel
    task = AttentionTask(
        served.id,
        image.id,
        folder,
        image.metadata,
        path,
        (x, y, z),
        question.layer,
        question.head,
    )
    try:
        await asyncio.wrap_future(service.worker.ask(new_id(), task))
    except TransUNetError as error:
        raise api_error(error, folder, "unusable") from None
    removal = BackgroundTask(Path.unlink, path, missing_ok=True)
    return FileResponse(path, media_type="application/gzip", background=removal)


def _check(image: ImageRecord, served: ServedBundle, question: Question) -> None:
    architecture, metadata = served.config.architecture, image.metadata
    if metadata["channels"] != len(served.channels):
        message = f"The image has {metadata['channels']} channels; {served.name} takes "
        raise ApiError("wrong_channels", f"{message}{len(served.channels)}.")
    if any(i >= size for i, size in zip(question.voxel, metadata["shape"], strict=True)):
        message = f"There is no voxel {question.voxel}: the image has {metadata['shape']}."
        raise ApiError("invalid_request", message)
    for what, value, count in (
        ("layer", question.layer, architecture.num_layers),
        ("head", question.head, architecture.num_heads),
    ):
        if isinstance(value, int) and value >= count:
            message = f"There is no {what} {value}: {served.name} has {count}, from 0."
            raise ApiError("invalid_request", message)
    if question.layer == "rollout" and question.head != "mean":
        message = "The roll-out takes the mean of the heads."
        raise ApiError("invalid_request", message, "Send head 'mean', or choose a layer.")

"""Where the network looks from a voxel, as one slice to lay over the image."""

import asyncio
from pathlib import Path

import anyio.to_thread
from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from transunet.errors import TransUNetError
from transunet.serve.api.dependencies import GZIP, Here, Id, file_faults
from transunet.serve.api.error_responses import ApiError, told
from transunet.serve.api.schemas import AttentionRequest, JobAttentionRequest
from transunet.serve.bundles import Served
from transunet.serve.image_records import ImageRecord, new_id
from transunet.serve.jobs.messages import Look
from transunet.serve.jobs.worker_client import WorkerDiedError
from transunet.serve.service import Service

router = APIRouter(tags=["attention"])

_SLICE = {
    **GZIP,
    **file_faults(
        "not_found", "no_attention", "wrong_channels", "unusable", "invalid_request", "too_large",
        "worker_died", "storage_full",
    ),
}  # fmt: skip


@router.post("/images/{id}/attention", response_class=FileResponse, responses=_SLICE)
async def of_image(wanted: AttentionRequest, here: Here, id: Id) -> FileResponse:
    """Return attention as NIfTI of one slice that lies on the image's, float32 from 0 to 1."""
    image = await anyio.to_thread.run_sync(here.image, id)
    return await _slice(here, image, here.bundle(wanted.bundle), wanted)


@router.post("/jobs/{id}/attention", response_class=FileResponse, responses=_SLICE)
async def of_job(wanted: JobAttentionRequest, here: Here, id: Id) -> FileResponse:
    """As of an image: the job's, with its bundle. The job need not be done."""
    job = await anyio.to_thread.run_sync(here.job, id)
    image = await anyio.to_thread.run_sync(here.image, job.image)
    return await _slice(here, image, here.bundle(wanted.bundle or job.bundle), wanted)


async def _slice(
    here: Service,
    image: ImageRecord,
    served: Served,
    wanted: AttentionRequest | JobAttentionRequest,
) -> FileResponse:
    _check(image, served, wanted)
    path = here.scratch_file(".nii.gz")
    x, y, z = wanted.voxel
    look = Look(
        new_id(),
        served.id,
        image.id,
        here.image_folder(image.id),
        image.facts,
        path,
        (x, y, z),
        wanted.layer,
        wanted.head,
    )
    try:
        await asyncio.wrap_future(here.hand.ask(look))
    except WorkerDiedError:
        message = "The process that computes it is being replaced."
        raise ApiError("worker_died", message, "Try again.", {"Retry-After": "5"}) from None
    except TransUNetError as error:
        raise told(error, here.image_folder(image.id), "unusable") from None
    return FileResponse(
        path, media_type="application/gzip", background=BackgroundTask(_remove, path)
    )


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _check(
    image: ImageRecord, served: Served, wanted: AttentionRequest | JobAttentionRequest
) -> None:
    architecture, shape = served.config.architecture, image.facts["shape"]
    if image.facts["channels"] != len(served.channels):
        message = f"The image has {image.facts['channels']} channels; {served.name} takes "
        raise ApiError("wrong_channels", f"{message}{len(served.channels)}.")
    if any(index >= size for index, size in zip(wanted.voxel, shape, strict=True)):
        message = f"There is no voxel {wanted.voxel}: the image has {shape}."
        raise ApiError("invalid_request", message)
    for what, value, count in (
        ("layer", wanted.layer, architecture.num_layers),
        ("head", wanted.head, architecture.num_heads),
    ):
        if isinstance(value, int) and value >= count:
            message = f"There is no {what} {value}: {served.name} has {count}, from 0."
            raise ApiError("invalid_request", message)
    if wanted.layer == "rollout" and wanted.head != "mean":
        message = "The roll-out takes the mean of the heads."
        raise ApiError("invalid_request", message, "Send head 'mean', or choose a layer.")

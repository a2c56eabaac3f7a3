"""Correcting a label map by clicks, while the image stays at hand in the worker."""

import asyncio
from pathlib import Path

from fastapi import APIRouter

from transunet.data.clicks import Click
from transunet.errors import ConfigError, TransUNetError
from transunet.serve.api.dependencies import CurrentService, Id, faults
from transunet.serve.api.label_maps import label_source
from transunet.serve.api.schemas import ClicksRequest, LabelBox
from transunet.serve.api_errors import ApiError, api_error
from transunet.serve.jobs.database import new_id
from transunet.serve.jobs.messages import OVERLAY, ClicksTask
from transunet.serve.service import Service

router = APIRouter(tags=["clicks"])

_FAULTS = faults("not_found", "not_done", "wrong_channels", "unusable", "worker_died")


@router.post("/images/{id}/clicks", responses=_FAULTS)
async def apply_clicks(request: ClicksRequest, service: CurrentService, id: Id) -> LabelBox:
    """Return the labels that clicks change, as the smallest box that holds them; empty for none.

    Only the slices (or patches) that hold new clicks are computed anew. Nothing is kept.
    """
    image, served = service.image(id), service.bundle(request.bundle)
    if not served.config.architecture.clicks:
        message = f"{served.name} takes no clicks, since it was not trained to follow them."
        raise ApiError("invalid_request", message, "Choose a bundle whose `clicks` is true.")
    if image.metadata["channels"] != len(served.channels):
        message = f"The image has {image.metadata['channels']} channels; {served.name} takes "
        raise ApiError("wrong_channels", f"{message}{len(served.channels)}.")
    if obstacle := image.metadata["obstacle"]:
        raise ApiError("unusable", f"{image.name}: {obstacle}", "Repair the image.")
    shape = image.metadata["shape"]
    for click in request.clicks:
        if any(at >= side for at, side in zip(click.voxel, shape, strict=True)):
            message = f"There is no voxel {click.voxel}: the image has {shape}."
            raise ApiError("invalid_request", message)
        try:
            Click(**click.model_dump()).label_in(served.config.structures)
        except ConfigError as error:
            raise ApiError("invalid_request", str(error)) from None
    box = request.edited
    if box and not all(
        0 < length <= side - start
        for start, length, side in zip(box.start, box.shape, shape, strict=True)
    ):
        message = f"edited: {box.shape} voxels from {box.start} on do not lie in {shape}."
        raise ApiError("invalid_request", message)
    task = ClicksTask(
        bundle=served.id,
        image=image,
        image_folder=service.database.image_folder(id),
        clicks=[click.model_dump() for click in request.clicks],
        applied=request.applied,
        parent=_parent(service, id, request.parent) if request.parent else None,
        edited=box.model_dump() if box else None,
    )
    try:
        answer = await asyncio.wrap_future(service.worker.ask(new_id(), task))
    except TransUNetError as error:
        raise api_error(error, task.image_folder, "unusable") from None
    return LabelBox(**answer)


def _parent(service: Service, image: str, id_: str) -> Path:
    """Return the file of the label map that clicks correct."""
    source = label_source(service, id_)
    if source.image != image:
        message = f"{id_} is a label map of another image."
        raise ApiError("invalid_request", message, "Give one of this image.")
    return source.folder / OVERLAY

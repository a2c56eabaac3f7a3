"""Correcting a label map by clicks, while the image stays at hand in the worker."""

import asyncio

from fastapi import APIRouter

from transunet.data.clicks import Click
from transunet.errors import ConfigError, TransUNetError
from transunet.serve.api.dependencies import CurrentService, Id, faults
from transunet.serve.api.images import check_channels, check_voxel
from transunet.serve.api.label_maps import label_source_of
from transunet.serve.api.schemas import ClicksRequest, LabelBox
from transunet.serve.api_errors import ApiError, api_error
from transunet.serve.jobs.database import new_id
from transunet.serve.jobs.messages import OVERLAY, ClicksTask

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
    check_channels(image, served)
    if obstacle := image.metadata["obstacle"]:
        raise ApiError("unusable", f"{image.name}: {obstacle}", "Repair the image.")
    shape = image.metadata["shape"]
    for click in request.clicks:
        check_voxel(image, click.voxel)
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
    parent = None
    if request.parent:
        of_this = "Give one of this image."
        parent = label_source_of(service, id, request.parent, of_this).folder / OVERLAY
    task = ClicksTask(
        bundle=served.id,
        image=image,
        image_folder=service.database.image_folder(id),
        clicks=[click.model_dump() for click in request.clicks],
        applied=request.applied,
        parent=parent,
        edited=box.model_dump() if box else None,
    )
    try:
        answer = await asyncio.wrap_future(service.worker.ask(new_id(), task))
    except TransUNetError as error:
        raise api_error(error, task.image_folder, "unusable") from None
    return LabelBox(**answer)

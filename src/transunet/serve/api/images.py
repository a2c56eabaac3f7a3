"""Images: taken in, looked at, removed."""

import time
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse

from transunet.serve.api import presenters
from transunet.serve.api.dependencies import GZIP, Here, Id, faults, file_faults, multipart
from transunet.serve.api.error_responses import ApiError
from transunet.serve.api.schemas import Image
from transunet.serve.image_records import ImageRecord
from transunet.serve.service import Service
from transunet.serve.uploads.accept import As
from transunet.serve.uploads.file_names import shown
from transunet.serve.uploads.inspection import VIEW, inspect
from transunet.serve.uploads.multipart import Upload
from transunet.serve.uploads.quota import size_of, telling_of_full_disks
from transunet.serve.uploads.receive import keep, received

router = APIRouter(tags=["images"])

_AS = ("auto", "channels", "series")
_BODY = multipart(
    "files",
    {
        "type": "array",
        "minItems": 1,
        "items": {"type": "string", "format": "binary"},
        "description": "One file; one per channel; or a DICOM series, as its files or as a zip.",
    },
)
_TAKEN = faults(
    "too_slow",
    "too_large",
    "unknown_format",
    "unreadable",
    "several_series",
    "no_such_series",
    "invalid_request",
    "storage_full",
)


@router.post("/images", status_code=201, responses=_TAKEN, openapi_extra=_BODY)
async def upload(
    request: Request,
    response: Response,
    here: Here,
    as_: Annotated[
        As, Query(alias="as", description="How several files go together; also a form field.")
    ] = "auto",
    series: Annotated[
        str | None,
        Query(max_length=100, description="Which DICOM series, by number or UID, if several."),
    ] = None,
) -> Image:
    """Take in an image."""
    async with received(request, here) as (id_, folder, files):
        as_ = _chosen(files.fields.get("as"), as_)
        series = files.fields.get("series") or series
        room = here.limits.quota_bytes - here.store.used_bytes()
        names = [path.name for path in files.files]
        facts = await here.desk.run(inspect, folder, names, as_, series, here.limits.voxels, room)
        record = await anyio.to_thread.run_sync(_kept, here, id_, folder, files, facts)
    response.headers["Location"] = f"{request.url.path}/{id_}"
    return presenters.image(record, here.bundles)


@router.get("/images/{id}", responses=faults("not_found"))
def image(here: Here, id: Id) -> Image:
    """Tell about an image."""
    return presenters.image(here.image(id), here.bundles)


@router.get(
    "/images/{id}/volume.nii.gz",
    response_class=FileResponse,
    responses={**GZIP, **file_faults("not_found")},
)
def volume(here: Here, id: Id) -> FileResponse:
    """Return the image as NIfTI for a viewer; a picture lies on an axial plane."""
    here.image(id)
    return FileResponse(here.image_folder(id) / VIEW, media_type="application/gzip")


@router.delete("/images/{id}", status_code=204, responses=faults("not_found", "busy"))
def delete(here: Here, id: Id) -> None:
    """Remove an image and all results for it."""
    here.remove_image(id)


def _chosen(field: str | None, query: As) -> As:
    if field is None:
        return query
    for known in _AS:
        if field == known:
            return known  # type: ignore[return-value]
    raise ApiError("invalid_request", f"as={field!r:.50}: expected one of {', '.join(_AS)}.")


def _kept(
    here: Service, id_: str, folder: Any, files: Upload, facts: dict[str, Any]
) -> ImageRecord:
    now = time.time()
    with telling_of_full_disks():
        size = size_of(folder)
        until = now + here.limits.keep_hours * 3600
        name = shown(files.names[0])
        if len(files.names) > 1:
            name = f"{name} and {len(files.names) - 1} more"
        facts["stem"] = facts["stem"] or shown(files.names[0]).removesuffix(".zip")
        record = ImageRecord(id_, name, facts, size, now, until)
        here.space.settled(id_)
        here.space.arrived(id_, size)  # with the view, which came on top
        keep(folder, here.image_folder(id_))
        try:
            here.store.add_image(record)
        except BaseException:
            keep(here.image_folder(id_), folder)  # to where it is removed
            raise
    here.metrics.count("transunet_uploads_total")
    here.metrics.count("transunet_upload_bytes_total", size)
    return record

"""Images: taken in, looked at, removed."""

import shutil
import time
from collections.abc import Sequence
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse

from transunet.data.checks.suitability import ImageFacts
from transunet.serve.api.dependencies import GZIP, CurrentService, Id, faults, multipart
from transunet.serve.api.schemas import Image, Suitability
from transunet.serve.api_errors import ApiError
from transunet.serve.bundles import ServedBundle
from transunet.serve.jobs.database import ImageRecord
from transunet.serve.jobs.result_files import possible_formats
from transunet.serve.service import Service
from transunet.serve.uploads.accept import As
from transunet.serve.uploads.inspection import UPLOAD, VIEW, inspect
from transunet.serve.uploads.receive import (
    Upload,
    arriving,
    kept_at,
    name_on_disk,
    received,
    shown_name,
)
from transunet.serve.uploads.sample import NAME, sample_for

router = APIRouter(tags=["images"])

_AS: tuple[As, ...] = ("auto", "channels", "series")
FILES = multipart(
    "files",
    {
        "type": "array",
        "minItems": 1,
        "items": {"type": "string", "format": "binary"},
        "description": "One file; one per channel; or a DICOM series, as its files or as a zip.",
    },
)
"""The body that brings an image."""
_UPLOAD_FAULTS = faults(
    "too_slow", "too_large", "unknown_format", "unreadable", "several_series", "no_such_series",
    "invalid_request", "storage_full",
)  # fmt: skip


@router.post("/images", status_code=201, responses=_UPLOAD_FAULTS, openapi_extra=FILES)
async def upload_image(
    request: Request,
    response: Response,
    service: CurrentService,
    as_: Annotated[
        As, Query(alias="as", description="How several files go together; also a form field.")
    ] = "auto",
    series: Annotated[
        str | None,
        Query(max_length=100, description="Which DICOM series, by number or UID, if several."),
    ] = None,
) -> Image:
    """Take in an image."""
    async with received(request, service) as upload:
        given = upload.fields.get("as", as_)
        chosen = [known for known in _AS if known == given]
        if not chosen:
            message = f"as={given!r:.50}: expected one of {', '.join(_AS)}."
            raise ApiError("invalid_request", message)
        record = await take_in(service, upload, chosen[0], upload.fields.get("series") or series)
    response.headers["Location"] = f"{request.url.path}/{upload.id}"
    return presented(record, service)


@router.post("/sample", status_code=201, responses=faults("no_sample"))
async def upload_sample(request: Request, response: Response, service: CurrentService) -> Image:
    """Take in a sample image to try: once, for as long as it is kept."""
    file = sample_for(service.bundles.values())
    if file is None:
        message = "There is no sample: it needs the package nilearn, and a model of one MR channel."
        raise ApiError("no_sample", message, "Upload an image of your own.")
    kept = [image for image in service.database.images.values() if image.metadata.get("sample")]
    if not kept:
        service.quota.check()
        async with arriving(service) as upload:
            (upload.folder / UPLOAD).mkdir(parents=True)
            upload.names.append(NAME)
            upload.files.append(upload.folder / UPLOAD / name_on_disk(NAME, ()))
            await anyio.to_thread.run_sync(shutil.copyfile, file, upload.files[0])
            kept = [await take_in(service, upload, "auto", None, sample=True)]
    response.headers["Location"] = f"{request.url.path.removesuffix('sample')}images/{kept[0].id}"
    return presented(kept[0], service)


@router.get("/images", responses=faults())
def list_images(service: CurrentService) -> list[Image]:
    """List the images, oldest first."""
    kept = sorted(service.database.images.values(), key=lambda image: image.created)
    return [presented(image, service) for image in kept]


@router.get("/images/{id}", responses=faults("not_found"))
def get_image(service: CurrentService, id: Id) -> Image:
    """Tell about an image."""
    return presented(service.image(id), service)


@router.get(
    "/images/{id}/volume.nii.gz",
    response_class=FileResponse,
    responses={**GZIP, **faults("not_found", json=False)},
)
def get_image_volume(service: CurrentService, id: Id) -> FileResponse:
    """Return the image as NIfTI for a viewer; a picture lies on an axial plane."""
    service.image(id)
    return FileResponse(service.database.image_folder(id) / VIEW, media_type="application/gzip")


@router.delete("/images/{id}", status_code=204, responses=faults("not_found", "busy"))
def delete_image(service: CurrentService, id: Id) -> None:
    """Remove an image and all results for it."""
    service.image(id)
    if not service.remove_image(id):
        message = "A job of this image is waiting or running."
        raise ApiError("busy", message, "Cancel the job before.")


async def take_in(
    service: Service, upload: Upload, as_: As, series: str | None, **more: Any
) -> ImageRecord:
    """Look at what has arrived, in another process, and keep it.

    Args:
        service: the server's.
        upload: the files.
        as_: how they go together.
        series: which of several DICOM series, if one was named.
        more: what else is to be known of the image.

    Raises:
        ApiError: when they are no image.
    """
    metadata = await service.parsers.run(
        inspect,
        upload.folder,
        [path.name for path in upload.files],
        as_,
        series,
        service.limits.voxels,
        service.quota.left,
    )
    return await anyio.to_thread.run_sync(_keep, service, upload, metadata | more)


def check_channels(image: ImageRecord, served: ServedBundle) -> None:
    """Refuse an image with another number of channels than a bundle takes."""
    if image.metadata["channels"] != len(served.channels):
        message = f"The image has {image.metadata['channels']} channels; {served.name} takes "
        raise ApiError("wrong_channels", f"{message}{len(served.channels)}.")


def check_voxel(image: ImageRecord, voxel: Sequence[int]) -> None:
    """Refuse a voxel that an image does not have."""
    if any(at >= side for at, side in zip(voxel, image.metadata["shape"], strict=True)):
        message = f"There is no voxel {voxel}: the image has {image.metadata['shape']}."
        raise ApiError("invalid_request", message)


def _keep(service: Service, upload: Upload, metadata: dict[str, Any]) -> ImageRecord:
    """Move an upload to where it is kept, and record it."""
    names, now = [shown_name(name) for name in upload.names], time.time()
    name = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    metadata["stem"] = metadata["stem"] or names[0].removesuffix(".zip")
    until = now + service.limits.keep_hours * 3600
    with kept_at(service.database.image_folder(upload.id), upload, service) as size:
        record = ImageRecord(upload.id, name, metadata, size, now, until)
        service.database.save(record)
    service.metrics.count("transunet_uploads_total")
    service.metrics.count("transunet_upload_bytes_total", size)
    return record


def presented(record: ImageRecord, service: Service) -> Image:
    """Return what is answered of an image."""
    metadata = record.metadata
    suitability = []
    for served in service.bundles.values():
        if len(served.channels) == metadata["channels"]:
            against = served.mismatch(metadata)
            suitability.append(
                Suitability(
                    bundle=served.id,
                    refusal=against.contradiction,
                    warnings=list(against.doubts),
                    doubtful_values=against.of_values,
                )
            )
    known = {**vars(record), **metadata}
    measured = metadata.get("measured")
    hounsfield = ImageFacts(**measured).hounsfield if measured else [False] * metadata["channels"]
    return Image(
        units=["HU" if is_ct else None for is_ct in hounsfield],
        result_formats=possible_formats(metadata),
        from_pacs="pacs" in metadata and service.settings.pacs is not None,
        suitability=suitability,
        kept=service.is_corrected(record.id),
        **{key: value for key, value in known.items() if key in Image.model_fields},
    )

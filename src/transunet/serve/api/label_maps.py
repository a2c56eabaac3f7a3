"""Label maps of an image that no job made: sent, corrected, compared, removed."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse

from transunet.bundle.bundle_config import BundleConfig
from transunet.data.regions import Region
from transunet.serve.api.dependencies import GZIP, CurrentService, Id, faults, multipart
from transunet.serve.api.results import RESULT_FILE, done_job, plain, result_file
from transunet.serve.api.schemas import Comparison, Correction, LabelMap
from transunet.serve.api_errors import ApiError
from transunet.serve.jobs.database import ImageRecord, LabelMapRecord
from transunet.serve.jobs.kept_labels import keep_correction, keep_given
from transunet.serve.jobs.messages import OVERLAY
from transunet.serve.jobs.reference import compare
from transunet.serve.jobs.result_files import ResultFormat
from transunet.serve.server_settings import API
from transunet.serve.service import Service
from transunet.serve.uploads.inspection import UPLOAD
from transunet.serve.uploads.quota import remove
from transunet.serve.uploads.receive import Upload, kept_at, received, shown_name

router = APIRouter(tags=["label maps"])

_LONGEST = 64  # characters, as in DICOM
_TEXT = {"type": "string", "maxLength": _LONGEST}
_FILE = {"type": "string", "format": "binary"}
_BUNDLE = {"type": "string", "description": "The bundle whose classes it holds."}
_GIVEN = multipart("file", _FILE, bundle=_BUNDLE)
_CORRECTION = multipart(
    "file",
    {**_FILE, "description": "As `labels.nii.gz` lies, in any format."},
    parent={"type": "string", "description": "The job or label map that was corrected."},
    author={**_TEXT, "description": "Who corrected it."},
    force={"type": "boolean", "description": "Keep it beside another correction of the parent."},
    bundle={**_BUNDLE, "description": "Names its classes where it has no parent."},
    names={"type": "string", "description": 'Structures that were added: `{"3": "cyst"}`.'},
)
_GIVEN_AS_FILE = "Segmentation given as a file, not computed here"
_GIVEN_AND_CORRECTED = "Segmentation given as a file, corrected by a person"
_UPLOAD_FAULTS = ("not_found", "too_slow", "unknown_format", "unreadable", "wrong_grid")


@dataclass(frozen=True)
class LabelSource:
    """A label map that the server keeps: a job's, one that was sent, or a correction."""

    id: str
    image: str
    folder: Path
    names: Mapping[int, str]
    """Label value -> name, without the background."""
    regions: Sequence[Region]
    automatic: bool
    """Whether a network found it, corrected or not."""


def label_source(service: Service, id_: str) -> LabelSource:
    """Return the label map with the id of a job or of itself.

    Raises:
        ApiError: when there is none, or the job is not done.
    """
    if id_ in service.database.jobs:
        job = done_job(service, id_)
        config = service.bundle(job.bundle).config
        folder = service.database.job_folder(id_)
        return LabelSource(id_, job.image, folder, _names(config), config.regions, True)
    record = service.label_map(id_)
    names = {int(value): name for value, name in record.names.items()}
    regions = [Region.model_validate(region) for region in record.regions]
    folder = service.database.label_map_folder(id_)
    return LabelSource(id_, record.image, folder, names, regions, record.automatic)


def label_source_of(service: Service, image: str, id_: str, remedy: str) -> LabelSource:
    """Return a label map that must be one of `image`.

    Raises:
        ApiError: as `label_source`; and with `remedy` where it is another image's.
    """
    source = label_source(service, id_)
    if source.image != image:
        message = f"{id_} is a label map of another image."
        raise ApiError("invalid_request", message, remedy)
    return source


def _names(config: BundleConfig) -> dict[int, str]:
    return {value: name for value, name in config.labels.items() if value}


@router.get("/images/{id}/labels", responses=faults("not_found"))
def list_label_maps(service: CurrentService, id: Id) -> list[LabelMap]:
    """List the label maps of an image that no job made, oldest first."""
    service.image(id)
    maps = service.database.label_maps.values()
    return [_presented(record) for record in maps if record.image == id]


@router.post(
    "/images/{id}/labels",
    status_code=201,
    responses=faults(*_UPLOAD_FAULTS),
    openapi_extra=_GIVEN,
)
async def send_label_map(
    request: Request, response: Response, service: CurrentService, id: Id
) -> LabelMap:
    """Take in a label map of an image, in any format that images may have, or a DICOM SEG."""
    image = service.image(id)
    async with received(request, service) as upload:
        named = upload.fields.get("bundle")
        config = service.bundle(named).config if named else None
        names = _names(config) if config else {}
        columns = await _parsed(
            service, keep_given, image, upload, names, config.regions if config else ()
        )

        def record(size: int) -> LabelMapRecord:
            name = shown_name(upload.names[0])
            return LabelMapRecord(upload.id, id, "given", name, time.time(), **columns, size=size)

        kept = await anyio.to_thread.run_sync(_keep, service, upload, id, record)
    response.headers["Location"] = f"{API}/labels/{upload.id}"
    return _presented(kept)


@router.post(
    "/images/{id}/corrections",
    status_code=201,
    responses=faults(*_UPLOAD_FAULTS, "superseded", "not_done"),
    openapi_extra=_CORRECTION,
)
async def save_correction(
    request: Request, response: Response, service: CurrentService, id: Id
) -> LabelMap:
    """Keep a label map that a person corrected or drew, as a version of its own.

    Refused as `superseded` where another correction of the same parent came first, unless `force`.
    """
    image = service.image(id)
    async with received(request, service) as upload:
        fields = upload.fields
        author = fields.get("author", "").strip() or None
        if author and (len(author) > _LONGEST or not author.isprintable()):
            message = f"author: expected at most {_LONGEST} characters that can be printed."
            raise ApiError("invalid_request", message)
        if (force := fields.get("force", "false").lower()) not in ("true", "false"):
            message = f"force={force!r:.20}: expected true or false."
            raise ApiError("invalid_request", message)
        parent, names, regions = _corrected(service, id, fields)
        if parent is not None and force == "false":
            _check_first(service, parent.id)
        columns = await _parsed(
            service,
            keep_correction,
            image,
            upload,
            names,
            regions,
            parent.folder if parent else None,
        )

        def record(size: int) -> LabelMapRecord:
            if parent is not None and force == "false":  # another one may have come meanwhile
                _check_first(service, parent.id)
            earlier = [
                int(each.name.split()[-1])
                for each in service.database.label_maps.values()
                if each.image == id and each.kind == "correction"
            ]
            return LabelMapRecord(
                upload.id,
                id,
                "correction",
                f"correction {max(earlier, default=0) + 1}",
                time.time(),
                **columns,
                parent=parent.id if parent else None,
                author=author,
                automatic=parent is not None and parent.automatic,
                size=size,
            )

        kept = await anyio.to_thread.run_sync(_keep, service, upload, id, record)
    response.headers["Location"] = f"{API}/labels/{upload.id}"
    return _presented(kept)


@router.get("/images/{id}/comparison", responses=faults("not_found", "not_done"))
async def compare_label_maps(
    service: CurrentService,
    id: Id,
    of: Annotated[str, Query(description="A job or label map of the image.")],
    with_: Annotated[
        str, Query(alias="with", description="Another one, which counts as the reference.")
    ],
) -> Comparison:
    """Compare two label maps of an image; structures are matched by name."""
    service.image(id)
    first, second = (
        label_source_of(service, id, each, "Compare two of the same image.") for each in (of, with_)
    )
    answer = await service.parsers.run(
        compare, first.folder, first.names, first.regions, second.folder, second.names
    )
    return Comparison.model_validate(answer)


@router.get("/labels/{id}", responses=faults("not_found"))
def get_label_map(service: CurrentService, id: Id) -> LabelMap:
    """Tell about a label map that no job made."""
    return _presented(service.label_map(id))


@router.delete("/labels/{id}", status_code=204, responses=faults("not_found"))
def delete_label_map(service: CurrentService, id: Id) -> None:
    """Remove a label map that no job made; corrections of it stay."""
    service.remove_label_map(id)


@router.get(
    "/labels/{id}/labels.nii.gz",
    response_class=FileResponse,
    responses={**GZIP, **faults("not_found", json=False)},
)
def get_label_map_labels(service: CurrentService, id: Id) -> FileResponse:
    """Return a label map as NIfTI for a viewer, lying as `volume.nii.gz` does."""
    folder = service.database.label_map_folder(service.label_map(id).id)
    return FileResponse(folder / OVERLAY, media_type="application/gzip")


@router.get("/labels/{id}/result", response_class=FileResponse, responses=RESULT_FILE)
async def get_label_map_result(
    service: CurrentService,
    id: Id,
    format_: Annotated[
        ResultFormat, Query(alias="format", description="The image says which are possible.")
    ] = "nifti",
) -> FileResponse:
    """Return a label map as a file to keep, on the image's own grid."""
    record, folder = service.label_map(id), service.database.label_map_folder(id)
    called, measure = plain(record.name.partition(".")[0]), partial(service.measure_label_map, id)
    image, told = service.image(record.image), told_of(service, record)
    return await result_file(service, image, folder, format_, called, told, measure)


def told_of(service: Service, record: LabelMapRecord) -> tuple[Any, ...]:
    """Return what `convert` takes of a label map: names, regions, how it was made and by whom."""
    source = label_source(service, record.id)
    made_by = "SEMIAUTOMATIC" if record.automatic else "MANUAL", record.author or ""
    described = ""
    if _began_as_given(service, record):  # DICOM has no type for what nobody knows the maker of
        described = _GIVEN_AS_FILE if record.kind == "given" else _GIVEN_AND_CORRECTED
    return {0: "background", **source.names}, source.regions, *made_by, described


def _began_as_given(service: Service, record: LabelMapRecord) -> bool:
    """Whether it, or what was corrected first on the way to it, is a file that was given."""
    while record.kind == "correction" and (
        parent := service.database.label_maps.get(record.parent or "")
    ):
        record = parent
    return record.kind == "given"


def _corrected(
    service: Service, image: str, fields: Mapping[str, str]
) -> tuple[LabelSource | None, dict[int, str], list[Region]]:
    """Return what was corrected, and the names and regions that a correction of it may hold."""
    parent, names, regions = None, dict[int, str](), list[Region]()
    if id_ := fields.get("parent"):
        parent = label_source_of(service, image, id_, "Send it to that image.")
        names, regions = dict(parent.names), list(parent.regions)
    elif bundle := fields.get("bundle"):
        config = service.bundle(bundle).config
        names = _names(config)
        regions = list(config.regions)
    for value, name in _added(fields.get("names", "{}")).items():
        if value in names:
            continue
        if name in names.values():  # structures are compared, and reported, by name
            message = f"names: there is a structure called {name!r} already; {value} is another."
            raise ApiError("invalid_request", message, "Give it a name of its own.")
        if regions:
            regions.append(Region(name=name, members=(value,), label=value))
        names[value] = name
    return parent, names, regions


def _added(text: str) -> dict[int, str]:
    """Read the names of structures that somebody added."""
    try:
        names = {int(value): str(name).strip() for value, name in json.loads(text).items()}
    except (ValueError, AttributeError):
        names = {0: ""}
    if all(0 < value < 2**16 and 0 < len(name) <= _LONGEST for value, name in names.items()):
        return names
    message = f"names={text!r:.50}: expected label values from 1 and their names as JSON."
    raise ApiError("invalid_request", message, 'Send names={"3": "cyst"}.')


def _check_first(service: Service, parent: str) -> None:
    """Raise `superseded` where somebody else's correction of `parent` came first."""
    for other in service.database.label_maps.values():
        if other.kind == "correction" and other.parent == parent:
            told = Correction(id=other.id, author=other.author, created=other.created)
            raise ApiError(
                "superseded",
                f"{other.author or 'Somebody'} corrected it already, on {told.created}; that is "
                f"{other.name}.",
                "Look at theirs, or keep yours beside it (force=true).",
                details={"correction": told.model_dump()},
            )


async def _parsed(
    service: Service,
    keep: Callable[..., dict[str, Any]],
    image: ImageRecord,
    upload: Upload,
    names: Mapping[int, str],
    regions: Sequence[Region],
    *more: Any,
) -> dict[str, Any]:
    """Have a label map checked and written in another process; return columns of its record."""
    if not upload.files:
        raise ApiError("malformed", "There is no file.", "Send one as the form field 'file'.")
    return await service.parsers.run(
        keep,
        upload.files,
        service.database.image_folder(image.id),
        image.metadata,
        upload.folder,
        dict(names),
        list(regions),
        service.limits.voxels,
        service.quota.left,
        *more,
    )


def _keep(
    service: Service, upload: Upload, image: str, record: Callable[[int], LabelMapRecord]
) -> LabelMapRecord:
    """Move a label map to where it is kept, and record it."""
    remove(upload.folder / UPLOAD)  # what was made of it is kept
    with (
        kept_at(service.database.label_map_folder(upload.id), upload, service) as size,
        service.database.lock,
    ):
        service.image(image)  # it may have been deleted meanwhile
        kept = record(size)
        service.database.save(kept)
    return kept


def _presented(record: LabelMapRecord) -> LabelMap:
    known = vars(record)
    return LabelMap(**{key: value for key, value in known.items() if key in LabelMap.model_fields})

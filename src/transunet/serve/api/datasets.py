"""The data set that corrections go into, and the worklist that leads through unlabelled images."""

import shutil
from pathlib import Path
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Response
from fastapi import Path as PathParameter
from pydantic import BaseModel, Field

from transunet.batch.worklist import Order, Worklist, WorklistCase
from transunet.data.additions import Classes
from transunet.data.formats import files_of
from transunet.data.walking import walk
from transunet.serve.api.dependencies import CurrentService, Id, faults
from transunet.serve.api.images import presented, take_in
from transunet.serve.api.label_maps import LabelSource, label_source_of
from transunet.serve.api.schemas import Image, Strict
from transunet.serve.api_errors import ApiError
from transunet.serve.jobs.database import ImageRecord
from transunet.serve.jobs.dataset_cases import add_to, look_for
from transunet.serve.server_settings import API
from transunet.serve.service import Service
from transunet.serve.uploads.inspection import UPLOAD
from transunet.serve.uploads.receive import Upload, arriving, name_on_disk

router = APIRouter(tags=["learning"])

_DATASET_FAULTS = ("not_found", "no_dataset", "dataset_unusable", "storage_full")
_Place = Annotated[int, PathParameter(ge=1, description="In the worklist, from 1.")]


class Acceptance(Strict):
    """A label map that is right."""

    labels: str = Field(description="The id of a job, or of a label map of the image.")


class DatasetState(BaseModel):
    """What the data set has."""

    name: str = Field(examples=["Dataset012_Liver"], description="Its folder's.")
    cases: int = Field(description="Training cases.")
    case: str | None = Field(description="The one that is this image; null where none is.")


class WorklistEntry(BaseModel):
    """An image of the worklist."""

    place: int = Field(description="From 1, the most doubtful one.")
    case: str
    dice: float = Field(description="What is expected, of the structure with the least.")
    structure: str
    reasons: list[str] = Field(description="What makes it doubtful.")
    image: str | None = Field(description="Its id, once it was opened and while it is kept.")
    added: str | None = Field(description="The case of the data set that it became; else null.")


class WorklistState(BaseModel):
    """Images in the order in which they are to be labelled."""

    order: Order = Field(description="What `dice` is.")
    cases: list[WorklistEntry]


@router.get("/images/{id}/dataset", responses=faults(*_DATASET_FAULTS))
async def get_dataset_state(service: CurrentService, id: Id) -> DatasetState:
    """Tell how many cases the data set has, and whether the image is one of them."""
    dataset, image = _dataset(service), service.image(id)
    folder = service.database.image_folder(id)
    case, cases = await service.parsers.run(look_for, dataset, folder, image.metadata)
    if case is not None:
        await anyio.to_thread.run_sync(_mark, service, image, case)
    return DatasetState(name=dataset.name, cases=cases, case=case)


@router.post(
    "/images/{id}/dataset",
    status_code=201,
    responses=faults(
        *_DATASET_FAULTS, "not_done", "in_dataset", "other_classes", "wrong_channels", "unusable"
    ),
)
async def add_to_dataset(acceptance: Acceptance, service: CurrentService, id: Id) -> DatasetState:
    """Add the image and a label map of it to the data set, as a training case."""
    dataset, image = _dataset(service), service.image(id)
    source = label_source_of(service, id, acceptance.labels, "Send it to that image.")
    if image.metadata["obstacle"]:
        message = f"{image.name}: {image.metadata['obstacle']}"
        raise ApiError("unusable", message, "Nothing can be learned from it.")
    added = await service.parsers.run(
        add_to,
        dataset,
        service.database.image_folder(id),
        image.metadata,
        source.folder,
        Classes(
            _channels(service, image, source), {0: "background", **source.names}, source.regions
        ),
    )
    await anyio.to_thread.run_sync(_mark, service, image, added.case)
    return DatasetState(name=dataset.name, cases=added.cases, case=added.case)


@router.get("/worklist", responses=faults("no_worklist"))
def get_worklist(service: CurrentService) -> WorklistState:
    """List the images that are to be labelled, the most doubtful one first."""
    listed, added = _worklist(service), service.added_cases
    opened = _opened(service)
    return WorklistState(
        order=listed.order,
        cases=[
            WorklistEntry(
                place=place,
                image=opened[case.key].id if case.key in opened else None,
                added=added.get(case.key),
                **case.model_dump(include={"case", "dice", "structure", "reasons"}),
            )
            for place, case in enumerate(listed.cases, 1)
        ],
    )


@router.post(
    "/worklist/{place}/image",
    status_code=201,
    responses=faults(
        *("not_found", "no_worklist", "too_large", "unknown_format", "unreadable"),
        *("several_series", "no_such_series", "storage_full"),
    ),
)
async def upload_from_worklist(response: Response, service: CurrentService, place: _Place) -> Image:
    """Take in an image of the worklist from the server's own disk, if it is not there yet."""
    cases = _worklist(service).cases
    if place > len(cases):
        raise ApiError("not_found", f"The worklist has {len(cases)} images, and no {place}.")
    case = cases[place - 1]
    record = _opened(service).get(case.key) or await _take_in_listed(service, case)
    response.headers["Location"] = f"{API}/images/{record.id}"
    return presented(record, service)


def _opened(service: Service) -> dict[str, ImageRecord]:
    """Images of worklists that are kept, by their key."""
    return {
        image.metadata["worklist"]: image
        for image in service.database.images.values()
        if "worklist" in image.metadata
    }


async def _take_in_listed(service: Service, case: WorklistCase) -> ImageRecord:
    service.quota.check()
    async with arriving(service) as upload:
        await anyio.to_thread.run_sync(_copy, service, case, upload)
        more = {"worklist": case.key, "stem": case.case}
        return await take_in(service, upload, "auto", case.series, **more)


def _copy(service: Service, case: WorklistCase, upload: Upload) -> None:
    """Copy a case's files to where uploads arrive, within the quota."""
    target = upload.folder / UPLOAD
    target.mkdir(parents=True)
    taken = set[str]()
    for image in case.images:
        if not image.exists():
            message = f"{case.case}: its file {image.name} is not there any more."
            raise ApiError("not_found", message, "Put it back, or make a new worklist.")
        for file in walk(image).files if image.is_dir() else files_of(image):
            service.quota.add_arriving(upload.id, file.stat().st_size)
            taken.add(name := name_on_disk(file.name, taken))
            shutil.copyfile(file, target / name)
    upload.names.append(case.images[0].name)
    upload.files.extend(target / name for name in sorted(taken))


def _mark(service: Service, image: ImageRecord, case: str) -> None:
    if key := image.metadata.get("worklist"):
        service.mark_added(key, case)


def _channels(service: Service, image: ImageRecord, source: LabelSource) -> list[str]:
    """What the image's channels are called: by the model that segmented it, else one that may.

    Raises:
        ApiError: when no model takes so many.
    """
    id_, maps = source.id, service.database.label_maps
    while id_ in maps and (parent := maps[id_].parent):
        id_ = parent
    job, count = service.database.jobs.get(id_), image.metadata["channels"]
    served = [*service.bundles.values()]
    if job and job.bundle in service.bundles:
        served.insert(0, service.bundles[job.bundle])
    for bundle in served:
        if len(bundle.channels) == count:
            return bundle.channels
    message = f"{image.name} has {count} channels, and no model that is served takes so many."
    raise ApiError("wrong_channels", message, "Serve a model that takes such images.")


def _dataset(service: Service) -> Path:
    if service.settings.dataset is None:
        remedy = "Start the server with --dataset FOLDER."
        raise ApiError("no_dataset", "This server has no data set to add to.", remedy)
    return service.settings.dataset


def _worklist(service: Service) -> Worklist:
    if service.worklist is None:
        remedy = "Start the server with --worklist FILE, which transunet queue writes."
        raise ApiError("no_worklist", "This server has no worklist.", remedy)
    return service.worklist

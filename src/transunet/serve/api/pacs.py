"""The PACS that the server was started with: its series fetched, results stored beside them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from transunet.data.formats.dicom.headers import read_dataset
from transunet.errors import TransUNetError
from transunet.integrations.dicomweb import Address, fetch_series, list_series, store
from transunet.serve.api.dependencies import CurrentService, Id, faults
from transunet.serve.api.images import presented, take_in
from transunet.serve.api.label_maps import told_of
from transunet.serve.api.results import done_job
from transunet.serve.api.schemas import Image, Strict
from transunet.serve.api_errors import ApiError
from transunet.serve.jobs.result_files import REPORT, SEGMENTATION, write_for_pacs
from transunet.serve.service import Service
from transunet.serve.uploads.inspection import UPLOAD
from transunet.serve.uploads.receive import Upload, arriving

router = APIRouter(tags=["pacs"])

_Uid = Annotated[str, Field(pattern=r"^[0-9.]{1,64}$", examples=["1.2.840.113619.2.1"])]
_Words = Annotated[str, Field(max_length=64)]


class PacsQuery(Strict):
    """Which series are looked for; what is empty does not matter. No address or log has it."""

    patient_id: _Words = ""
    accession_number: _Words = ""
    study_date: _Words = Field(default="", examples=["20261126", "20261101-20261126"])
    modality: _Words = Field(default="", examples=["CT"])


class PacsSeries(BaseModel):
    """A series of images in the PACS."""

    study: str
    series: str
    modality: str
    description: str
    images: int | None = Field(description="Null where the PACS does not say.")


class PacsRequest(Strict):
    """Which series is to be fetched."""

    study: _Uid
    series: _Uid
    part: str | None = Field(
        default=None,
        max_length=100,
        description="Of a series that is several volumes: the number in error.series.",
    )


class Stored(BaseModel):
    """What the PACS got."""

    study: str
    segmentation: str = Field(description="SOPInstanceUID.")
    report: str = Field(description="SOPInstanceUID.")


@router.post("/pacs/series", responses=faults("no_pacs", "pacs_failed"))
async def list_pacs_series(query: PacsQuery, service: CurrentService) -> list[PacsSeries]:
    """List the series of images in the PACS, 50 at most."""
    keywords = {
        "PatientID": query.patient_id,
        "AccessionNumber": query.accession_number,
        "StudyDate": query.study_date,
        "Modality": query.modality,
    }
    asked = {keyword: text for keyword, text in keywords.items() if text}
    address = replace(_pacs(service), query=asked)
    try:
        listed = await anyio.to_thread.run_sync(list_series, address)
    except TransUNetError as error:
        raise ApiError("pacs_failed", str(error)) from None
    return [
        PacsSeries(
            study=str(series.address.study),
            series=str(series.address.series),
            modality=series.modality,
            description=series.description,
            images=series.instances,
        )
        for series in listed
    ]


_FETCH_FAULTS = faults(
    "no_pacs", "pacs_failed", "too_large", "unreadable", "several_series", "no_such_series",
    "storage_full",
)  # fmt: skip


@router.post("/pacs/images", status_code=201, responses=_FETCH_FAULTS)
async def fetch_pacs_series(
    wanted: PacsRequest, request: Request, response: Response, service: CurrentService
) -> Image:
    """Take in a series from the PACS, as if its files were uploaded."""
    address = replace(_pacs(service), study=wanted.study, series=wanted.series)
    service.quota.check()
    async with arriving(service) as upload:
        await anyio.to_thread.run_sync(_fetch, service, address, upload)
        upload.files.extend(sorted((upload.folder / UPLOAD).iterdir()))
        about = read_dataset(upload.files[0], pixels=False)
        upload.names.append(str(about.get("SeriesDescription") or wanted.series))
        record = await take_in(service, upload, "series", wanted.part, pacs=wanted.study)
    response.headers["Location"] = f"{request.url.path.replace('/pacs/', '/')}/{record.id}"
    return presented(record, service)


_STORE_FAULTS = ("not_found", "no_pacs", "pacs_failed", "format_not_fitting", "storage_full")


@router.post("/jobs/{id}/pacs", responses=faults(*_STORE_FAULTS, "not_done"))
async def store_job_in_pacs(service: CurrentService, id: Id) -> Stored:
    """Store a job's label map and report in the study that its image was fetched from."""
    job = done_job(service, id)
    config, folder = service.bundle(job.bundle).config, service.database.job_folder(id)
    told, measure = (dict(config.labels), config.regions), partial(service.queue.measure, id)
    return await _stored(service, job.image, folder, job.statistics or [], told, measure)


@router.post("/labels/{id}/pacs", responses=faults(*_STORE_FAULTS))
async def store_label_map_in_pacs(service: CurrentService, id: Id) -> Stored:
    """Store a label map that no job made, such as a correction, and its report, likewise."""
    record, folder = service.label_map(id), service.database.label_map_folder(id)
    told, measure = told_of(service, record), partial(service.measure_label_map, id)
    return await _stored(service, record.image, folder, record.structures, told, measure)


async def _stored(
    service: Service,
    image_id: str,
    folder: Path,
    structures: Sequence[Mapping[str, Any]],
    told: tuple[Any, ...],
    measure: Callable[[], None],
) -> Stored:
    """Store the label map in `folder`; `told` and `measure` as of `result_file`."""
    image, pacs = service.image(image_id), _pacs(service)
    if not (study := image.metadata.get("pacs")):
        message = "Only label maps of images from the PACS are stored there."
        raise ApiError("format_not_fitting", message, "Fetch the series from the PACS.")
    address = replace(pacs, study=study)
    image_folder = service.database.image_folder(image.id)
    await service.parsers.run(
        write_for_pacs, image_folder, image.metadata, folder, list(structures), *told
    )
    await anyio.to_thread.run_sync(measure)
    files = [folder / SEGMENTATION, folder / REPORT]
    try:
        await anyio.to_thread.run_sync(store, address, files)
    except TransUNetError as error:
        raise ApiError("pacs_failed", str(error)) from None
    segmentation, report = (str(read_dataset(file, pixels=False).SOPInstanceUID) for file in files)
    return Stored(study=study, segmentation=segmentation, report=report)


def _pacs(service: Service) -> Address:
    if service.settings.pacs is None:
        remedy = "Start the server with --pacs ADDRESS."
        raise ApiError("no_pacs", "This server has no PACS.", remedy)
    return service.settings.pacs


def _fetch(service: Service, address: Address, upload: Upload) -> None:
    """Fetch a series to where uploads arrive, within the quota."""
    quota = service.quota
    try:
        fetch_series(
            address, upload.folder / UPLOAD, lambda size: quota.add_arriving(upload.id, size)
        )
    except ApiError:
        raise
    except TransUNetError as error:
        raise ApiError("pacs_failed", str(error)) from None

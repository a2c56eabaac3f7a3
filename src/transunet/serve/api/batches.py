"""Several jobs that were sent together, and are asked for together."""

from collections import Counter

from fastapi import APIRouter, Request, Response

from transunet.serve.api.dependencies import CurrentService, Id, faults
from transunet.serve.api.jobs import SUBMIT_FAULTS, checked, presented_job
from transunet.serve.api.schemas import Batch, BatchRequest
from transunet.serve.api_errors import ApiError
from transunet.serve.jobs.database import OVER, JobRecord, new_id
from transunet.serve.service import Service

router = APIRouter(tags=["jobs"])


@router.post("/batches", status_code=201, responses=SUBMIT_FAULTS)
def submit_batch(
    batch_request: BatchRequest, request: Request, response: Response, service: CurrentService
) -> Batch:
    """Queue several jobs: all of them, or none where one cannot be."""
    id_, jobs = new_id(), []
    for number, job_request in enumerate(batch_request.jobs):
        try:
            jobs.append(checked(job_request, service, id_))
        except ApiError as error:
            message = f"jobs.{number}: {error.message}"
            raise ApiError(error.code, message, error.remedy, error.headers) from None
    service.queue.submit(*jobs)
    response.headers["Location"] = f"{request.url.path}/{id_}"
    return _presented_batch(id_, jobs, service)


@router.get("/batches/{id}", responses=faults("not_found"))
def get_batch(service: CurrentService, id: Id) -> Batch:
    """Tell how far the jobs of a batch are; without those that were deleted or expired."""
    return _presented_batch(id, _jobs_of(service, id), service)


@router.post("/batches/{id}/cancel", responses=faults("not_found"))
def cancel_batch(service: CurrentService, id: Id) -> Batch:
    """Stop the jobs of a batch that are not over."""
    for job in _jobs_of(service, id):
        service.queue.cancel(job.id)
    return _presented_batch(id, _jobs_of(service, id), service)


def _jobs_of(service: Service, batch: str) -> list[JobRecord]:
    jobs = [job for job in service.database.jobs.values() if job.batch == batch]
    if not jobs:
        raise ApiError("not_found", "There is no such batch: its jobs were deleted, or expired.")
    return jobs


def _presented_batch(id_: str, jobs: list[JobRecord], service: Service) -> Batch:
    counts = Counter(job.status for job in jobs)
    return Batch(
        id=id_,
        over=all(status in OVER for status in counts),
        counts=dict(counts),
        jobs=[presented_job(job, service) for job in jobs],
    )

"""What is served, and how the server is."""

from dataclasses import asdict

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from transunet.serve.api import presenters
from transunet.serve.api.dependencies import Here, faults, file_faults
from transunet.serve.api.error_responses import ApiError
from transunet.serve.api.schemas import Bundle, Health, ServerLimits

router = APIRouter(tags=["about"])


@router.get("/bundles", responses=faults())
def bundles(here: Here) -> list[Bundle]:
    """List the bundles that are served."""
    return [presenters.bundle(served) for served in here.bundles.values()]


@router.get("/health", responses=faults())
def health(here: Here) -> Health:
    """Tell that the server lives, and whether it could begin a job now. Needs no token."""
    return Health(
        ready=here.hand.ready,
        loading=None if here.hand.ready else here.hand.loading,
        queue=here.store.waiting(),
        running=here.queue.running is not None,
        version=here.version,
        limits=ServerLimits(**asdict(here.limits)),
    )


@router.get("/ready", responses=faults("not_ready"))
def ready(here: Here) -> Health:
    """As `/health`, but 503 while the models are loading. Needs no token."""
    if not here.hand.ready:
        message = f"The models are loading ({here.hand.loading or 'just begun'})."
        raise ApiError("not_ready", message, "Try again.", {"Retry-After": "5"})
    return health(here)


@router.get("/metrics", response_class=PlainTextResponse, responses=file_faults())
def metrics(here: Here) -> PlainTextResponse:
    """Counts for Prometheus."""
    gauges = {
        "transunet_jobs_waiting": here.store.waiting(),
        "transunet_jobs_running": int(here.queue.running is not None),
        "transunet_worker_ready": int(here.hand.ready),
        "transunet_images": len(here.store.images()),
        "transunet_storage_bytes": here.store.used_bytes(),
        "transunet_storage_quota_bytes": here.limits.quota_bytes,
    }
    text = here.metrics.text(gauges)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

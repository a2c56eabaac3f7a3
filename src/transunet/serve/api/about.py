"""What is served, and how the server is."""

from dataclasses import asdict

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from transunet.serve.api.dependencies import CurrentService, faults
from transunet.serve.api.schemas import Bundle, Health, Label, ServerLimits
from transunet.serve.api_errors import ApiError
from transunet.serve.bundles import label_colour

router = APIRouter(tags=["about"])


@router.get("/bundles", responses=faults())
def bundles(service: CurrentService) -> list[Bundle]:
    """List the bundles that are served."""
    return [
        Bundle(
            id=served.id,
            name=served.name,
            labels=[
                Label(index=index, name=name, color=label_colour(index))
                for index, name in sorted(served.config.labels.items())
                if index
            ],
            channels=served.channels,
            architecture=served.config.architecture.name,
            image_size=served.config.architecture.image_size,
            layers=served.config.architecture.num_layers,
            heads=served.config.architecture.num_heads,
        )
        for served in service.bundles.values()
    ]


@router.get("/health", responses=faults())
def health(service: CurrentService) -> Health:
    """Tell that the server lives, and whether it could begin a job now. Needs no token."""
    return Health(
        ready=service.worker.ready,
        loading=None if service.worker.ready else service.worker.loading,
        queue=service.database.waiting(),
        running=service.queue.running is not None,
        version=service.version,
        limits=ServerLimits(**asdict(service.limits)),
    )


@router.get("/ready", responses=faults("not_ready"))
def ready(service: CurrentService) -> Health:
    """As `/health`, but 503 while the models are loading. Needs no token."""
    if not service.worker.ready:
        message = f"The models are loading ({service.worker.loading or 'just begun'})."
        raise ApiError("not_ready", message, "Try again.", {"Retry-After": "5"})
    return health(service)


@router.get("/metrics", response_class=PlainTextResponse, responses=faults(json=False))
def metrics(service: CurrentService) -> PlainTextResponse:
    """Counts for Prometheus."""
    gauges = {
        "transunet_jobs_waiting": service.database.waiting(),
        "transunet_jobs_running": int(service.queue.running is not None),
        "transunet_worker_ready": int(service.worker.ready),
        "transunet_images": len(service.database.image_ids()),
        "transunet_storage_bytes": service.database.used_bytes(),
        "transunet_storage_quota_bytes": service.limits.quota_bytes,
    }
    text = service.metrics.text(gauges)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

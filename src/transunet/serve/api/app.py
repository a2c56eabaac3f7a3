"""The server's ASGI application: the API, what it tells of the server, and the page."""

import mimetypes
import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from transunet.bundle.bundle_config import BundleConfig
from transunet.colours import colour_of
from transunet.data.regions import members_of_structures
from transunet.serve.api import (
    batches,
    datasets,
    images,
    jobs,
    label_clicks,
    label_maps,
    pacs,
    results,
    segment,
)
from transunet.serve.api.dependencies import CurrentService, faults
from transunet.serve.api.schemas import Bundle, Health, Label, ServerLimits
from transunet.serve.api_errors import ApiError, api_error
from transunet.serve.security import DESCRIPTION, DOCS, Guard, error_response
from transunet.serve.server_settings import API
from transunet.serve.service import Service
from transunet.serve.uploads.sample import sample_for

PAGE = Path(__file__).parents[1] / "page"
"""Where the build of `web/` puts `index.html` and all that it loads."""
POLICY_FILE = "csp.txt"
"""The page's content-security policy, which the build writes: only it knows what the page needs."""

_ABOUT = """Segments medical images with TransUNet bundles, on the machine that it runs on.

Upload an image, queue a job for it, follow the job's events, fetch its result; or do all that in
one call, `POST /segment`. Every answer of 400
and above is `{"error": {"code", "message", "remedy"}}`."""
_MISSING_PAGE = f"""The page is not built in this installation.

In a checkout, with Node installed, run: make web
The API works without it: see {DESCRIPTION}
"""
_TOKEN = HTTPBearer(
    scheme_name="token",
    description="What the server was started with (`--token`, `TRANSUNET_TOKEN`).",
    auto_error=False,  # `security.Guard` has looked at it already
)
router, probes = APIRouter(tags=["about"]), APIRouter(tags=["about"])
_MEDIA = {".js": "javascript", ".mjs": "javascript", ".css": "css"}


def create_app(
    service: Service,
    note: Callable[[str], None] = lambda _: None,
    loaded: Callable[[], None] = lambda: None,
) -> Guard:
    """Return the application around `service`; `note` and `loaded` as of `Service.running`."""
    return Guard(with_page(create_api(service, note, loaded)), service.settings, service.metrics)


def create_api(
    service: Service, note: Callable[[str], None], loaded: Callable[[], None]
) -> FastAPI:
    """Return the API alone, which answers whoever asks."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running(note, loaded):
            yield

    app = FastAPI(
        title="transunet serve",
        version="1",
        description=_ABOUT,
        openapi_url=DESCRIPTION,
        docs_url=None,  # FastAPI's page loads scripts from elsewhere; ours is of `web/`
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.service = service
    needed = [Security(_TOKEN)] if service.settings.token else []
    app.include_router(probes, prefix=API)
    for routes in (
        router,
        images.router,
        jobs.router,
        batches.router,
        results.router,
        label_maps.router,
        segment.router,
        results.attention,
        label_clicks.router,
        pacs.router,
        datasets.router,
    ):
        app.include_router(routes, prefix=API, dependencies=needed)
    kinds = (RequestValidationError, HTTPException, ApiError, OSError, sqlite3.Error, Exception)
    for kind in kinds:
        app.add_exception_handler(kind, _answer_error)
    return app


@router.get("/bundles", responses=faults())
def list_bundles(service: CurrentService) -> list[Bundle]:
    """List the bundles that are served."""
    return [
        Bundle(
            id=served.id,
            name=served.name,
            labels=_labels(served.config),
            channels=served.channels,
            architecture=served.config.architecture.name,
            image_size=list(served.config.architecture.image_size),
            layers=served.config.architecture.layers,
            heads=served.config.architecture.heads,
            clicks=served.config.architecture.clicks,
            overlapping=bool(served.config.regions),
        )
        for served in service.bundles.values()
    ]


def _labels(config: BundleConfig) -> list[Label]:
    members = members_of_structures(config.labels, config.regions)
    return [
        Label(index=index, name=name, color=colour_of(index - 1), members=list(members[index]))
        for index, name in sorted(config.structures.items())
    ]


@probes.get("/health", responses=faults())
def get_health(service: CurrentService) -> Health:
    """Tell that the server lives, and whether it could begin a job now. Needs no token."""
    return Health(
        ready=service.worker.ready,
        loading=None if service.worker.ready else service.worker.loading,
        queue=len(service.database.queued()),
        running=bool(service.queue.running),
        workers=len(service.workers),
        version=service.version,
        pacs=service.settings.pacs is not None,
        sample=sample_for(service.bundles.values()) is not None,
        dataset=service.settings.dataset is not None,
        worklist=service.worklist is not None,
        limits=ServerLimits(**asdict(service.limits)),
    )


@probes.get("/ready", responses=faults("not_ready"))
def get_readiness(service: CurrentService) -> Health:
    """As `/health`, but 503 while the models are loading. Needs no token."""
    if not service.worker.ready:
        message = f"The models are loading ({service.worker.loading or 'just begun'})."
        raise ApiError("not_ready", message, "Try again.", {"Retry-After": "5"})
    return get_health(service)


@router.get("/metrics", response_class=PlainTextResponse, responses=faults(json=False))
def get_metrics(service: CurrentService) -> PlainTextResponse:
    """Counts for Prometheus."""
    gauges = {
        "transunet_jobs_waiting": len(service.database.queued()),
        "transunet_jobs_running": len(service.queue.running),
        "transunet_worker_ready": sum(worker.ready for worker in service.workers),
        "transunet_images": len(service.database.images),
        "transunet_storage_bytes": service.database.used_bytes(),
        "transunet_storage_quota_bytes": service.limits.quota_bytes,
    }
    text = service.metrics.text(gauges)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


async def _answer_error(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        code = "malformed" if first["type"] == "json_invalid" else "invalid_request"
        where = ".".join(str(part) for part in first["loc"])
        error = ApiError(code, f"{where}: {first['msg']}.")
    elif isinstance(error, HTTPException):
        remedy, headers = f"See {DOCS}.", dict(error.headers or {})
        if error.status_code == 404:
            error = ApiError("not_found", "There is nothing at this address.", remedy)
        elif error.status_code == 405:
            # All that may be done at the address, whichever route does it.
            methods: set[str] = set()
            for address, operations in request.app.openapi()["paths"].items():
                pattern = re.sub(r"\{\w+\}", "[^/]+", address.replace(".", r"\."))
                if not methods and re.fullmatch(pattern, request.url.path):
                    methods = {method.upper() for method in operations}
            methods |= {"HEAD"} if "GET" in methods else set()
            headers["Allow"] = ", ".join(sorted(methods))
            error = ApiError("method_not_allowed", "This cannot be done here.", remedy, headers)
        else:
            code = "too_large" if error.status_code == 413 else "malformed"
            error = ApiError(code, str(error.detail), None, headers)
    return error_response(api_error(error, Path("upload")))


def with_page(api: Any, folder: Path = PAGE) -> Any:
    """Return an ASGI application: the API below its own path, the page in `folder` elsewhere."""
    for suffix, kind in _MEDIA.items():  # Windows takes these from its registry
        mimetypes.add_type(f"text/{kind}", suffix)
    mimetypes.add_type("application/wasm", ".wasm")

    def document(request: Request) -> Response:
        path = folder / ("docs.html" if request.url.path == DOCS else "index.html")
        if not path.is_file():
            return PlainTextResponse(_MISSING_PAGE, 503)
        policy = (folder / POLICY_FILE).read_text(encoding="utf-8").strip()
        headers = {"Cache-Control": "no-cache", "Content-Security-Policy": policy}
        return FileResponse(path, headers=headers)

    files = StaticFiles(directory=folder, check_dir=False)
    page = Starlette(routes=[Route("/", document), Route(DOCS, document), Mount("/", files)])

    async def application(scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        is_page = scope["type"] == "http" and (path == DOCS or not path.startswith(API))
        await (page if is_page else api)(scope, receive, send)

    return application

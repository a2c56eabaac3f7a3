"""The server's ASGI application: routes, and every fault as the same kind of answer."""

import logging
import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from transunet.serve.api import about, attention, images, jobs, results
from transunet.serve.api.error_responses import ApiError
from transunet.serve.api.page import Split
from transunet.serve.security import Guard
from transunet.serve.server_settings import API
from transunet.serve.service import Service
from transunet.serve.uploads.quota import is_full, no_room

_ABOUT = """Segments medical images with TransUNet bundles, on the machine that it runs on.

Upload an image, queue a job for it, follow the job's events, fetch its result. Every answer of 400
and above is `{"error": {"code", "message", "remedy"}}`."""


def create_app(
    service: Service,
    note: Callable[[str], None] = lambda _: None,
    loaded: Callable[[], None] = lambda: None,
) -> Any:
    """Return the application around `service`; `note` and `loaded` as of `Service.running`."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running(note, loaded):
            yield

    app = FastAPI(
        title="transunet serve",
        version="1",
        description=_ABOUT,
        openapi_url=f"{API}/openapi.json",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.service = service
    for routes in (about, images, jobs, results, attention):
        app.include_router(routes.router, prefix=API)
    _tell_of_faults(app)
    settings = service.settings
    names = () if settings.host in ("0.0.0.0", "::") else (settings.host,)
    return Guard(
        Split(app),
        settings.token,
        settings.token_hours,
        names,
        service.metrics,
        settings.allowed_origins,
    )


def _tell_of_faults(app: FastAPI) -> None:
    app.add_exception_handler(ApiError, _told)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _routing)
    app.add_exception_handler(OSError, _machine)
    app.add_exception_handler(sqlite3.Error, _machine)
    app.add_exception_handler(Exception, _machine)


def _answer(error: ApiError) -> JSONResponse:
    headers = {"Cache-Control": "no-store", **error.headers}
    return JSONResponse(error.body, error.status, headers)


async def _told(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return _answer(error)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    malformed = first["type"] == "json_invalid"
    where = ".".join(str(part) for part in first["loc"])
    message = f"{where}: {first['msg']}."
    return _answer(ApiError("malformed" if malformed else "invalid_request", message))


async def _routing(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_methods(request))
    codes = {404: "not_found", 405: "method_not_allowed"}
    code = codes.get(error.status_code, "malformed")
    messages = {404: "There is nothing at this address.", 405: "This cannot be done here."}
    message = messages.get(error.status_code, str(error.detail))
    remedy = f"See {API}/openapi.json." if error.status_code in codes else None
    return _answer(ApiError(code, message, remedy, headers))


def _methods(request: Request) -> list[str]:
    """What may be done at a request's address, whichever route does it."""
    for address, operations in request.app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", address.replace(".", r"\.")), request.url.path):
            methods = {method.upper() for method in operations}
            return sorted(methods | ({"HEAD"} if "GET" in methods else set()))
    return []


async def _machine(_: Request, error: Exception) -> JSONResponse:
    if is_full(error):
        return _answer(no_room("The server's disk is full."))
    logging.getLogger(__name__).error("A request failed", exc_info=error)
    return _answer(ApiError("internal", "The server made a mistake; its log says more."))

"""Who may ask, and what browsers are told: before anything else sees a request.

Without a token the server is on loopback, where a page of any other web site could still reach it
through the user's browser: a request with a foreign `Host` (DNS rebinding) or from a foreign origin
is refused. With a token, the token is what counts: browsers send it nowhere by themselves. Pages of
other web sites that are allowed by name (`--allow-origin`) may use the API from the user's browser.
"""

import hmac
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response

from transunet.serve.api_errors import ApiError
from transunet.serve.prometheus import ServerMetrics
from transunet.serve.server_settings import API, ServeSettings

HEADERS: Mapping[str, str] = {
    # Of whatever brings no policy of its own, as the page does.
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
"""Sent with every answer."""
BODY_BYTES, CLICKS_BYTES = 1 << 16, 1 << 23
"""Of a request that is no upload; of one that brings labels along with clicks."""
UPLOADS = ("/images", "/segment", "/labels", "/corrections", "/reference")
"""How the addresses end that files are sent to."""
DOCS, DESCRIPTION = f"{API}/docs", f"{API}/openapi.json"
"""The API's own page, and what it and makers of clients read."""
OPEN = (f"{API}/health", f"{API}/ready", DOCS, DESCRIPTION)
"""What is answered without a token: it tells nothing of any image."""

_TOO_LARGE = "The request is longer than {} bytes."
_METHODS = "GET, HEAD, POST, DELETE"
_USUAL_HEADERS = "Authorization, Content-Type"
_ALLOWED = {
    "access-control-allow-methods": _METHODS,
    "access-control-allow-private-network": "true",
    "access-control-max-age": "600",
}
_EXPOSED = "Content-Disposition, Location, Retry-After, Allow, WWW-Authenticate"


class Guard:
    """An ASGI application around the server's that refuses what may not be asked.

    Args:
        app: the server's.
        settings: who may ask; a token's hours begin now.
        metrics: counts requests.
    """

    def __init__(self, app: Any, settings: ServeSettings, metrics: ServerMetrics) -> None:
        self._app, self._metrics = app, metrics
        self._token, self._origins = settings.token, frozenset(settings.allowed_origins)
        hours = settings.token_hours
        self._ends = time.time() + hours * 3600 if hours is not None else None
        self._names = {"localhost", "127.0.0.1", "::1", settings.host}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        if scope["type"] != "http":
            return
        method, path, headers = scope["method"], scope["path"], Headers(scope=scope)
        send = self._sending(method, headers.get("origin", ""), send)
        if method == "HEAD" and path.startswith(API):
            scope = {**scope, "method": "GET"}
        is_upload = method == "POST" and path.rstrip("/").endswith(UPLOADS)
        most_bytes = CLICKS_BYTES if path.rstrip("/").endswith("/clicks") else BODY_BYTES
        preflight = method == "OPTIONS" and "access-control-request-method" in headers
        answer = self._app
        try:
            if self._token is None or preflight:
                self._check_sender(method, path, headers, preflight=preflight)
            elif path.startswith(API) and path not in OPEN:
                self._check_token(headers.get("authorization", ""))
            declared = headers.get("content-length", "")
            if not is_upload and declared.isdigit() and int(declared) > most_bytes:
                raise ApiError("too_large", _TOO_LARGE.format(most_bytes))
            if preflight:  # a browser asks, without the token, whether a page of the origin may ask
                wanted = headers.get("access-control-request-headers", _USUAL_HEADERS)
                allowed = {**_ALLOWED, "access-control-allow-headers": wanted}
                answer = Response(status_code=204, headers=allowed)
        except ApiError as error:
            answer = error_response(error)
        await answer(scope, receive if is_upload else _limited(receive, most_bytes), send)

    def _check_sender(self, method: str, path: str, headers: Headers, *, preflight: bool) -> None:
        """Refuse a request for a foreign name, or of a page of a foreign origin.

        Raises:
            ApiError: saying why.
        """
        if (
            self._token is None
            and _split(f"//{headers.get('host', '')}").hostname not in self._names
        ):
            raise ApiError(
                "wrong_host",
                "This server was asked for under a name that is not this machine's.",
                "Open it as http://127.0.0.1, or start it with --token to serve other names.",
            )
        origin = headers.get("origin", "")
        if origin in self._origins:
            return
        foreign = preflight or headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        if origin and _split(origin).netloc.lower() != headers.get("host", "").lower():
            foreign = True
        # Another site may link to the page, but not use what is behind it.
        if foreign and (path.startswith(API) or method not in ("GET", "HEAD")):
            is_named = origin.isprintable() and origin not in ("", "null")
            raise ApiError(
                "wrong_origin",
                f"A page of {origin if is_named else 'another web site'} asked, which this server "
                "does not answer.",
                "Start the server with --allow-origin ORIGIN, such as https://app.example, to let "
                "the pages of that site use it.",
            )

    def _check_token(self, authorization: str) -> None:
        kind, _, given = authorization.partition(" ")
        ask = {"WWW-Authenticate": "Bearer"}
        same = hmac.compare_digest(given.strip().encode(), (self._token or "").encode())
        if kind.lower() != "bearer" or not same:
            message = "The token is wrong." if given else "This server needs a token."
            remedy = (
                "Open the address that was printed when the server started, or send the header "
                "'Authorization: Bearer TOKEN'."
            )
            raise ApiError("unauthorized", message, remedy, ask)
        if self._ends is not None and time.time() > self._ends:
            remedy = "Ask whoever runs the server for a new one: it comes with a restart."
            raise ApiError("token_expired", "The token's time is over.", remedy, ask)

    def _sending(self, method: str, origin: str, send: Any) -> Any:
        """Return what sends an answer with `HEADERS` and counts it; to HEAD, without its body."""
        own, ended = dict(HEADERS), False
        if origin in self._origins:
            own["cross-origin-resource-policy"] = "cross-origin"
            own["access-control-allow-origin"] = origin
            own["access-control-expose-headers"] = _EXPOSED
        counted = method if method in (*_METHODS.split(", "), "OPTIONS") else "other"

        async def sending(message: Any) -> None:
            nonlocal ended
            if message["type"] == "http.response.start":
                status = message["status"]
                self._metrics.count("transunet_requests_total", method=counted, status=status)
                headers = MutableHeaders(scope=message)
                for name, value in own.items():
                    headers.setdefault(name, value)
                if self._origins:
                    headers.add_vary_header("Origin")
            elif method == "HEAD":  # also of an answer that would go on
                message = {"type": "http.response.body", "body": b""}
                if ended:
                    return
                ended = True
            await send(message)

        return sending


def error_response(error: ApiError) -> JSONResponse:
    """Return the answer that tells of an error."""
    headers = {"Cache-Control": "no-store", **error.headers}
    return JSONResponse(error.body, error.status, headers)


def _split(url: str) -> Any:
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _limited(receive: Any, most_bytes: int) -> Any:
    """Return what receives a body of no declared length, until it is too long."""
    size = 0

    async def receiving() -> Any:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > most_bytes:
            raise HTTPException(413, _TOO_LARGE.format(most_bytes))
        return message

    return receiving

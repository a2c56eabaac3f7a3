"""Who may ask, and what browsers are told: before anything else sees a request.

Without a token the server is on loopback, where a page of any other web site could still reach it
through the user's browser: a request with a foreign `Host` (DNS rebinding) or from a foreign origin
is refused. With a token, the token is what counts: browsers send it nowhere by themselves. Pages of
other web sites that are allowed by name (`--allow-origin`) may use the API from the user's browser.
"""

import hmac
import json
import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import anyio

from transunet.serve.api.error_responses import ApiError
from transunet.serve.api.prometheus import Metrics
from transunet.serve.server_settings import API

POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The content-security policy of whatever brings none of its own, as the page does."""

HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), microphone=(), geolocation=()",
    }
)
"""Sent with every answer."""

BODY_BYTES = 1 << 16
"""Of a request that is no upload."""
OPEN = (f"{API}/health", f"{API}/ready")
"""What is answered without a token: it tells nothing of any image."""

_ALLOWED_METHODS = "GET, HEAD, POST, DELETE"
_EXPOSED = "Content-Disposition, Location, Retry-After, Allow, WWW-Authenticate"
_UPLOADS = ("/images", "/reference")
_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class Guard:
    """An ASGI application around the server's that refuses what may not be asked.

    Args:
        app: the server's.
        token: what clients have to send; None where only this machine can reach the server.
        hours: how long the token counts, from now.
        names: hosts beside loopback's that this server is called by.
        metrics: counts requests.
        origins: of other web sites whose pages may use the API.
    """

    def __init__(
        self,
        app: Any,
        token: str | None,
        hours: float | None,
        names: Iterable[str],
        metrics: Metrics,
        origins: Iterable[str] = (),
    ) -> None:
        self._app, self._metrics, self._origins = app, metrics, frozenset(origins)
        self._token = token.encode() if token is not None else None
        self._ends = time.time() + hours * 3600 if hours is not None else None
        self._names = _NAMES | set(names)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {key.decode("latin-1"): value for key, value in scope["headers"]}
        origin = headers.get("origin", b"").decode("latin-1")
        send = self._watched(send, scope["method"], origin)
        try:
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await self._answer_preflight(send, headers, origin)
                return
            self._check(scope, headers)
            if not _is_upload(scope):
                receive = await _whole(receive, headers)
        except ApiError as error:
            await _refuse(send, error)
            return
        if scope["method"] == "HEAD" and scope["path"].startswith(API):
            await _without_body(self._app, {**scope, "method": "GET"}, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer_preflight(self, send: Any, headers: Mapping[str, bytes], origin: str) -> None:
        """Tell a browser, which asks without the token, whether a page of `origin` may ask."""
        if self._token is None:
            self._check_host(headers)
        if origin not in self._origins:
            raise _wrong_origin(origin)
        wanted = headers.get("access-control-request-headers", b"")
        allowed = [
            (b"access-control-allow-methods", _ALLOWED_METHODS.encode()),
            (b"access-control-allow-headers", wanted or b"Authorization, Content-Type"),
            (b"access-control-allow-private-network", b"true"),
            (b"access-control-max-age", b"600"),
        ]
        await send({"type": "http.response.start", "status": 204, "headers": allowed})
        await send({"type": "http.response.body", "body": b""})

    def _check(self, scope: Any, headers: Mapping[str, bytes]) -> None:
        if self._token is None:
            self._check_site(scope, headers)
        elif scope["path"].startswith(API) and scope["path"] not in OPEN:
            self._check_token(headers, self._token)

    def _check_host(self, headers: Mapping[str, bytes]) -> str:
        host = headers.get("host", b"").decode("latin-1")
        if _name_of(f"//{host}") not in self._names:
            raise ApiError(
                "wrong_host",
                "This server was asked for under a name that is not this machine's.",
                "Open it as http://127.0.0.1, or start it with --token to serve other names.",
            )
        return host

    def _check_site(self, scope: Any, headers: Mapping[str, bytes]) -> None:
        host = self._check_host(headers)
        origin = headers.get("origin", b"").decode("latin-1")
        if origin in self._origins:
            return
        foreign = headers.get("sec-fetch-site", b"none") not in (b"none", b"same-origin")
        if origin and urlsplit_netloc(origin) != host.lower():
            foreign = True
        # Another site may link to the page, but not use what is behind it.
        if foreign and (scope["path"].startswith(API) or scope["method"] not in ("GET", "HEAD")):
            raise _wrong_origin(origin)

    def _check_token(self, headers: Mapping[str, bytes], token: bytes) -> None:
        kind, _, given = headers.get("authorization", b"").partition(b" ")
        ask = {"WWW-Authenticate": "Bearer"}
        if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), token):
            found = "The token is wrong." if given else "This server needs a token."
            remedy = (
                "Open the address that was printed when the server started, or send the header "
                "'Authorization: Bearer TOKEN'."
            )
            raise ApiError("unauthorized", found, remedy, ask)
        if self._ends is not None and time.time() > self._ends:
            remedy = "Ask whoever runs the server for a new one: it comes with a restart."
            raise ApiError("token_expired", "The token's time is over.", remedy, ask)

    def _watched(self, send: Any, method: str, origin: str) -> Any:
        own = dict(HEADERS)
        if origin in self._origins:
            own |= {
                "access-control-allow-origin": origin,
                "access-control-expose-headers": _EXPOSED,
                "cross-origin-resource-policy": "cross-origin",
            }
        if self._origins:
            own["vary"] = "Origin"
        known = method if method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS") else "other"

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                self._metrics.count(
                    "transunet_requests_total", method=known, status=message["status"]
                )
                there = {name.lower() for name, _ in message.get("headers", ())}
                more = [
                    (name.encode(), value.encode())
                    for name, value in own.items()
                    if name.encode() not in there or name == "vary"
                ]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        return sent


def _wrong_origin(origin: str) -> ApiError:
    shown = origin if origin.isprintable() and origin != "null" else "another web site"
    return ApiError(
        "wrong_origin",
        f"A page of {shown or 'another web site'} asked, which this server does not answer.",
        "Start the server with --allow-origin ORIGIN, such as https://app.example, to let the "
        "pages of that site use it.",
    )


def urlsplit_netloc(origin: str) -> str:
    """Return host and port of an origin, lower case; empty where it has none ("null")."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


async def _without_body(app: Any, scope: Any, receive: Any, send: Any) -> None:
    """Answer as to GET, but send no body, and wait for none that would go on."""

    async def sent(message: Any) -> None:
        if message["type"] == "http.response.start":
            await send(message)
        elif not answered.cancel_called:
            answered.cancel()
            with anyio.CancelScope(shield=True):
                await send({"type": "http.response.body", "body": b""})

    with anyio.CancelScope() as answered:
        await app(scope, receive, sent)


def _is_upload(scope: Any) -> bool:
    path: str = scope["path"]
    return scope["method"] == "POST" and path.rstrip("/").endswith(_UPLOADS)


async def _whole(receive: Any, headers: Mapping[str, bytes]) -> Any:
    """Read a small body as a whole, and return what gives it out again."""
    declared = headers.get("content-length", b"0")
    if declared.isdigit() and int(declared) > BODY_BYTES:
        raise _too_large()
    if declared == b"0" and "transfer-encoding" not in headers:
        return receive
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > BODY_BYTES:
            raise _too_large()
    waiting = [{"type": "http.request", "body": bytes(body), "more_body": False}]

    async def again() -> Any:
        return waiting.pop() if waiting else await receive()

    return again


def _too_large() -> ApiError:
    return ApiError("too_large", f"The request is longer than {BODY_BYTES} bytes.")


async def _refuse(send: Any, error: ApiError) -> None:
    body = json.dumps(error.body).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "cache-control": "no-store",
        **{name.lower(): value for name, value in error.headers.items()},
    }
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})

"""The page and its files, which are built from `web/` and ship inside the package."""

import mimetypes
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from transunet.serve.server_settings import API

FOLDER = Path(__file__).parents[1] / "page"
"""Where the build puts `index.html` and all that it loads."""

POLICY_FILE = "csp.txt"
"""Its content-security policy, which the build writes: only it knows what the page needs."""

_MISSING = f"""The page is not built in this installation.

In a checkout, with Node installed, run: make web
The API works without it: see {API}/openapi.json
"""
# Windows takes these from its registry, where anything may stand.
for _suffix, _kind in (
    (".js", "text/javascript"),
    (".mjs", "text/javascript"),
    (".css", "text/css"),
    (".wasm", "application/wasm"),
):
    mimetypes.add_type(_kind, _suffix)


class Split:
    """An ASGI application: the API below its own path, the page everywhere else.

    Args:
        api: gets the server's beginning and end, too.
        folder: the page's files.
    """

    def __init__(self, api: Any, folder: Path = FOLDER) -> None:
        self._api, self._page = api, _page(folder)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Hand a request on."""
        page = scope["type"] == "http" and not scope["path"].startswith(API)
        await (self._page if page else self._api)(scope, receive, send)


def _page(folder: Path) -> Starlette:
    def index(_: Request) -> Response:
        if not (folder / "index.html").is_file():
            return PlainTextResponse(_MISSING, 503)
        policy = (folder / POLICY_FILE).read_text(encoding="utf-8").strip()
        headers = {"Cache-Control": "no-cache", "Content-Security-Policy": policy}
        return FileResponse(folder / "index.html", headers=headers)

    files = StaticFiles(directory=folder, check_dir=False)
    return Starlette(routes=[Route("/", index), Mount("/", files)])

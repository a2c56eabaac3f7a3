"""The page and its files, which are built from `web/` and ship inside the package."""

import mimetypes
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, PlainTextResponse, Response
from starlette.staticfiles import StaticFiles

from transunet.serve.settings import API

FOLDER = Path(__file__).parents[1] / "page"
"""Where the build puts `index.html` and all that it loads."""

_MISSING = f"""The page is not built in this installation.

In a checkout, with Node installed, run: make web
The API works without it: see {API}/openapi.json
"""
# Windows takes these from its registry, where anything may stand.
for _suffix, _kind in ((".js", "text/javascript"), (".mjs", "text/javascript"),
                       (".css", "text/css"), (".wasm", "application/wasm")):  # fmt: skip
    mimetypes.add_type(_kind, _suffix)


def add(app: FastAPI, folder: Path = FOLDER) -> None:
    """Serve `/` and the page's files."""

    @app.get("/", include_in_schema=False)
    def index() -> Response:
        if (folder / "index.html").is_file():
            return FileResponse(folder / "index.html", headers={"Cache-Control": "no-cache"})
        return PlainTextResponse(_MISSING, 503)

    app.mount("/", StaticFiles(directory=folder, check_dir=False), name="page")

"""`transunet serve`: the page and the API, on this machine."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transunet.cli.options import Device, Engine, Precision, on_this_machine

if TYPE_CHECKING:
    from transunet.serve.server_settings import ServeSettings

EXAMPLE = "Example: transunet serve runs/hippocampus/best"

_reached = partial(typer.Option, rich_help_panel="Where it is reached")
_kept = partial(typer.Option, rich_help_panel="What is taken and kept")
_learned = partial(typer.Option, rich_help_panel="What is learned from")


def serve(
    bundles: Annotated[
        list[str],
        typer.Argument(metavar="BUNDLE...", help="Bundles to serve: folders, or hub ids."),
    ],
    host: Annotated[
        str, _reached(help="Address to listen at; any but loopback needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, _reached(min=0, max=65535, help="0: any free one.")] = 8000,
    token: Annotated[
        str | None,
        _reached(
            envvar="TRANSUNET_TOKEN",
            help="What clients must send; auto: make one and print it. Other users of this "
            "machine can see the command line, but not the variable.",
        ),
    ] = None,
    token_hours: Annotated[
        float | None, _reached(metavar="HOURS", help="How long the token counts.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        _reached(
            metavar="ORIGIN",
            help="Let pages of this other web site, such as https://app.example, use the API; "
            "repeat for more.",
        ),
    ] = None,
    open_: Annotated[bool, _reached("--open", help="Open the page in a browser.")] = False,
    data: Annotated[
        Path | None,
        _kept(help="Folder for images, results and jobs; in the user's cache folder if not given."),
    ] = None,
    keep: Annotated[float, _kept(metavar="HOURS", help="How long images and results stay.")] = 24.0,
    queue: Annotated[int, _kept(min=1, help="Jobs that may wait.")] = 32,
    max_upload: Annotated[int, _kept(min=1, metavar="MB", help="Of one request.")] = 2048,
    quota: Annotated[int, _kept(min=1, metavar="MB", help="Of all that is kept.")] = 51200,
    pacs: Annotated[
        str | None,
        _kept(
            metavar="ADDRESS",
            help="DICOMweb service, https://HOST/PATH, whose series the page may fetch, and in "
            "which it may store results. Credentials: DICOMWEB_USER and DICOMWEB_PASSWORD, "
            "DICOMWEB_TOKEN, or a netrc file.",
        ),
    ] = None,
    workers: Annotated[
        int,
        on_this_machine(
            min=1,
            help="Jobs that are computed at a time; each worker loads the bundles for itself, and "
            "takes its share of the cores.",
        ),
    ] = 1,
    dataset: Annotated[
        Path | None,
        _learned(
            metavar="FOLDER",
            help="nnU-Net data set to which the page adds label maps that somebody accepts; a new "
            "folder becomes one.",
        ),
    ] = None,
    worklist: Annotated[
        Path | None,
        _learned(
            metavar="FILE",
            help="worklist.json of transunet queue: the page leads through its images, which it "
            "opens from this machine's disk.",
        ),
    ] = None,
    device: Device = None,
    engine: Engine = "auto",
    precision: Precision = "auto",
    batch_size: Annotated[
        int | None,
        on_this_machine(min=1, help="Slices that go through at once: 1 on a CPU, 8 on a GPU."),
    ] = None,
) -> None:
    """Segment in the browser: a page to drop images on, and the API behind it.

    Nothing leaves this machine, but for results that somebody stores in the PACS of --pacs. Only
    this machine can reach it, unless --host says otherwise, which needs a token. Jobs survive a
    restart. Ctrl-C ends it.
    """
    import webbrowser
    from dataclasses import replace

    from transunet.cache import cache_folder
    from transunet.integrations.dicomweb import parse_service
    from transunet.optional import require
    from transunet.serve.server_settings import Limits, ServeSettings, new_token

    for module in ("fastapi", "uvicorn", "python_multipart"):
        require(module, extra="serve")
    from transunet.serve.server import listen
    from transunet.serve.server import serve as serve_until_stopped
    from transunet.serve.service import Service

    settings = ServeSettings(
        data=data or cache_folder() / "serve",
        host=host,
        port=port,
        token=new_token() if token == "auto" else token or None,
        token_hours=token_hours,
        allowed_origins=tuple(allow_origin or ()),
        pacs=parse_service(pacs) if pacs else None,
        workers=workers,
        dataset=dataset,
        worklist=worklist,
        limits=Limits(
            queue=queue,
            keep_hours=keep,
            upload_bytes=max_upload * 2**20,
            quota_bytes=quota * 2**20,
        ),
        predictor={
            "device": device,
            "engine": engine,
            "precision": precision,
            "batch_size": batch_size,
        },
    )

    def note(text: str) -> None:
        print(text, flush=True)

    with listen(settings.host, settings.port) as listener:
        settings = replace(settings, port=listener.getsockname()[1])
        service = Service(bundles, settings)

        def loaded() -> None:
            # What was given in secret is not printed into a journal.
            note(f"Open {_address(settings, settings.token if token == 'auto' else None)}")
            if settings.token and token != "auto":
                note("The page asks for the token, which is not shown here.")
            kept = f"Images and results are kept in {settings.data} for {keep:g} hours."
            if not settings.loopback:
                kept += "\nThe connection is not encrypted: put a proxy with TLS in front of it."
            note(f"{kept} Ctrl-C ends.")
            if open_:
                webbrowser.open(_address(settings, settings.token))

        note(f"Listening at {_address(settings, None)}; jobs begin when the bundles are loaded.")
        serve_until_stopped(service, listener, note, loaded)
    print("Stopped; jobs that were waiting go on with the next start.")


def _address(settings: "ServeSettings", token: str | None) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    host = "127.0.0.1" if host == "0.0.0.0" else host
    # Browsers keep the part behind # to themselves: it is in no log.
    return f"http://{host}:{settings.port}/" + (f"#token={token}" if token else "")

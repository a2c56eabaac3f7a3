"""`transunet export`: a bundle for other runtimes, compared with the original before it is kept."""

from functools import partial
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer
from rich.console import Console

from transunet.cli.notes import hanging, say

EXAMPLE = "Example: transunet export runs/hippocampus/best -o hippocampus.onnx"

_int8 = partial(typer.Option, rich_help_panel="int8")


def export(
    bundle: Annotated[str, typer.Argument(help="A bundle's folder, or its hub id.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="The file: .onnx, .xml (OpenVINO) or .pt2; for monai a folder."
        ),
    ],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="onnx, openvino, torch-export or monai; by the file's suffix if not given.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what stands at the file's place.")
    ] = False,
    int8: Annotated[
        bool,
        _int8(
            "--int8",
            help="Weights and activations in 8 bits (onnx, openvino), with the ranges that the "
            "bundle keeps or --calibrate gives.",
        ),
    ] = False,
    calibrate: Annotated[
        list[Path] | None,
        _int8(
            metavar="IMAGES",
            help="Own training images: a file, a folder or a prepared store; repeat for more.",
        ),
    ] = None,
    calibrate_count: Annotated[
        int | None,
        _int8(
            min=1,
            help="Slices (64) or patches (16) to take of them, spread over the cases.",
        ),
    ] = None,
) -> None:
    """Write a bundle as a file that other runtimes compute, and that predict takes in its place.

    The file carries preprocessing and labels. It appears only when its logits are the bundle's.
    """
    from transunet.bundle.bundle_config import read_config
    from transunet.cli.progress import progress_bar
    from transunet.errors import ConfigError
    from transunet.export.calibration import calibration_images
    from transunet.export.export import FORMATS, check_target
    from transunet.export.export import export as export_bundle

    if calibrate and not int8:
        raise ConfigError("--calibrate is for --int8. Add --int8, or leave --calibrate out.")
    name, images = check_target(out, format_, int8=int8, overwrite=overwrite), None
    if calibrate:
        with progress_bar("cases") as bar:
            task = bar.add_task("Reading calibration images", total=None)
            images = calibration_images(
                calibrate,
                read_config(bundle),
                calibrate_count,
                lambda done, total: bar.update(task, completed=done, total=total),
            )
    with progress_bar("steps") as bar:
        task = bar.add_task("Starting", total=2 if name == "monai" else 4 if int8 else 3)

        def step(what: str) -> None:
            started = bar.tasks[0].description != "Starting"
            bar.update(task, description=what, advance=1 if started else 0)

        done = export_bundle(
            bundle, out, name, images, int8=int8, overwrite=overwrite, progress=step
        )
        bar.advance(task)
    rows = {
        "file": str(done.path),
        "format": f"{done.format}, {done.precision}",
        "opset": str(done.opset or ""),
        "size": f"{done.size_bytes / 1e6:.1f} MB",
        "input": f"images {done.shape} float32",
    }
    if done.difference is not None and done.equal is not None:
        rows["logits differ"] = f"by at most {done.difference:.1e} of their deviation"
        rows["labels equal"] = f"{done.equal:.3%} on {done.compared}"
    if name != "monai":
        trust = " --trust" if FORMATS[name].runs_code else ""
        rows["next"] = f"transunet predict {quote(str(done.path))} IMAGES -o OUT{trust}"
    width, console = max(map(len, rows)) + 2, Console()
    for title, value in rows.items():
        if value:
            say(f"{title:<{width}}{hanging(console, value, width)}")

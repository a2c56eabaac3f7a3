"""What the worker process is asked, and what it answers with; no torch, which only it needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from transunet.serve.bundles import Served

LABELS, OVERLAY = "labels.nii.gz", "overlay.nii.gz"
"""A job's label map on the image's own grid, and as the page lays it over the view."""


class Cancelled(Exception):  # noqa: N818 - asked for, not a fault
    """The job that is running is not wanted any more."""


@dataclass(frozen=True)
class Prediction:
    """A job, as the worker is told it."""

    id: str
    bundle: str
    image: str
    """Id of the image."""
    image_folder: Path
    facts: dict[str, Any]
    folder: Path
    """Where the label maps go."""
    settings: dict[str, Any]


@dataclass(frozen=True)
class Look:
    """A question for the attention at a voxel."""

    id: str
    bundle: str
    image: str
    image_folder: Path
    facts: dict[str, Any]
    path: Path
    """Where the slice is written, as NIfTI."""
    voxel: tuple[int, int, int]
    layer: Any
    head: Any


def start_worker(
    pipe: Connection, bundles: Mapping[str, Served], settings: Mapping[str, Any]
) -> None:
    """Be the worker process."""
    from transunet.serve.jobs.worker import (
        run_worker,  # brings torch, which the server's process spares
    )

    run_worker(pipe, bundles, settings)

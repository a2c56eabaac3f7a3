"""What the worker process is asked; no torch, which only it needs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transunet.serve.jobs.database import ImageRecord

LABELS, OVERLAY = "labels.nii.gz", "overlay.nii.gz"
"""A job's label map on the image's own grid, and as the page lays it over the view."""
UNCERTAINTY = "uncertainty.nii.gz"
"""Its entropy in percent, laid likewise; of bundles whose probabilities were calibrated."""


@dataclass(frozen=True)
class PredictionTask:
    """A job, as the worker is told it."""

    bundle: str
    image: ImageRecord
    image_folder: Path
    folder: Path
    """Where the label maps go."""
    settings: dict[str, Any]
    warnings: list[str]
    """What made the image doubtful when it was queued."""


@dataclass(frozen=True)
class ClicksTask:
    """Clicks that correct a label map."""

    bundle: str
    image: ImageRecord
    image_folder: Path
    clicks: list[dict[str, Any]]
    """As of `data.clicks.Click`."""
    applied: int
    """How many of them the label map shows already."""
    parent: Path | None
    """The label map, lying as the view; empty if not given."""
    edited: dict[str, Any] | None
    """A box of it that is otherwise; see `label_box`."""


@dataclass(frozen=True)
class AttentionTask:
    """A question for the attention at a voxel."""

    bundle: str
    image: ImageRecord
    image_folder: Path
    path: Path
    """Where the slice is written, as NIfTI."""
    voxel: tuple[int, int, int]
    layer: int | Literal["rollout"]
    """From 0."""
    head: int | Literal["mean"]
    """From 0."""

"""What the worker process is asked; no torch, which only it needs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

LABELS, OVERLAY = "labels.nii.gz", "overlay.nii.gz"
"""A job's label map on the image's own grid, and as the page lays it over the view."""


@dataclass(frozen=True)
class PredictionTask:
    """A job, as the worker is told it."""

    bundle: str
    image: str
    """Id of the image."""
    image_folder: Path
    metadata: dict[str, Any]
    """Of the image, as `uploads.inspection.inspect` returned it."""
    folder: Path
    """Where the label maps go."""
    settings: dict[str, Any]


@dataclass(frozen=True)
class AttentionTask:
    """A question for the attention at a voxel."""

    bundle: str
    image: str
    image_folder: Path
    metadata: dict[str, Any]
    path: Path
    """Where the slice is written, as NIfTI."""
    voxel: tuple[int, int, int]
    layer: Any
    """From 0, or "rollout"."""
    head: Any
    """From 0, or "mean"."""

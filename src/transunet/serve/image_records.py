"""An image and a job as they are kept."""

import secrets
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["queued", "running", "done", "failed", "cancelled"]
OVER = ("done", "failed", "cancelled")
"""States that a job does not leave."""


def new_id() -> str:
    """Return an id that cannot be guessed: 128 random bits."""
    return secrets.token_hex(16)


@dataclass(frozen=True)
class ImageRecord:
    """An image that was uploaded."""

    id: str
    name: str
    facts: dict[str, Any]
    """What `images.inspect` found; JSON."""
    size: int
    """Bytes on the disk."""
    created: float
    """Seconds since 1970, as every time here."""
    expires: float


@dataclass(frozen=True)
class JobRecord:
    """A segmentation that was asked for."""

    id: str
    image: str
    bundle: str
    settings: dict[str, Any]
    created: float
    status: Status = "queued"
    attempts: int = 0
    """How often it was begun; a graceful stop does not count."""
    error: dict[str, Any] | None = None
    statistics: list[dict[str, Any]] | None = None
    warnings: list[str] = field(default_factory=list)
    """What makes the image doubtful for the bundle."""
    slices: int | None = None
    size: int = 0
    started: float | None = None
    finished: float | None = None
    expires: float | None = None

    @property
    def over(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self.status in OVER

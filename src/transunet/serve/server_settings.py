"""What a server is told at its start, checked and frozen."""

import ipaddress
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from transunet.errors import ConfigError
from transunet.integrations.dicomweb import Address

API = "/api/v1"
"""Where the API's routes begin."""
SHORTEST_TOKEN = 16
"""Characters; a shorter one could be guessed."""
_ORIGIN = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:]+\])(:[0-9]+)?")


@dataclass(frozen=True)
class Limits:
    """How much is accepted, and for how long it is kept."""

    queue: int = 32
    """Jobs that wait; the running one does not count."""
    keep_hours: float = 24.0
    """How long images and results are kept after they were last made use of."""
    upload_bytes: int = 2 * 2**30
    """Of one request."""
    quota_bytes: int = 50 * 2**30
    """Of everything in the data folder."""
    voxels: int = 2**30
    """Of one image, channels included, as its header declares them: a small file may unpack to
    anything."""
    files: int = 20_000
    """Of one upload; the longest series have a few thousand."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < inf:
                raise ConfigError(f"The limit {name}={value} must be above 0 and finite.")


@dataclass(frozen=True)
class ServeSettings:
    """How a server runs.

    Raises:
        ConfigError: for an address that others can reach without a token, or a token that could be
            guessed.
    """

    data: Path
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    token_hours: float | None = None
    allowed_origins: tuple[str, ...] = ()
    """Of other web sites whose pages may use the API, such as "https://app.example"."""
    pacs: Address | None = None
    """Of a DICOMweb service whose series may be fetched, and in which results may be stored."""
    workers: int = 1
    """Processes that compute, each a job at a time with its own copy of the networks."""
    dataset: Path | None = None
    """Folder of the nnU-Net data set that corrections are added to."""
    worklist: Path | None = None
    """File with the images that the page leads through, which may be read from this disk."""
    limits: Limits = Limits()
    predictor: Mapping[str, Any] = field(default_factory=dict)
    """Settings of every bundle's `Predictor.from_pretrained`, such as `device`."""

    def __post_init__(self) -> None:
        if self.token is None and not self.loopback:
            raise ConfigError(
                f"{self.host} can be reached from other machines, so it needs a token. Add --token "
                "auto (one is made and printed) or --token with your own, or leave out --host to "
                "serve this machine only."
            )
        if self.token is not None and not re.fullmatch(
            rf"[A-Za-z0-9_.~-]{{{SHORTEST_TOKEN},}}", self.token
        ):
            raise ConfigError(
                f"The token must be {SHORTEST_TOKEN} or more letters, digits, '-', '_', '.' or "
                "'~'. Use --token auto to have one made."
            )
        if self.token_hours is not None and self.token is None:
            raise ConfigError("--token-hours is for a token, and there is none. Add --token auto.")
        if self.token_hours is not None and not 0 < self.token_hours < inf:
            raise ConfigError(f"--token-hours {self.token_hours:g} must be above 0 and finite.")
        for origin in self.allowed_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    f"--allow-origin {origin} is no origin as browsers send it; expected scheme, "
                    "host and port alone, in small letters, such as https://app.example. Name each "
                    "site: '*' would let every page in."
                )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def new_token() -> str:
    """Return a token that cannot be guessed."""
    return secrets.token_urlsafe(32)

"""What goes wrong, as the API tells it: a status, a short code, a message and what to do."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transunet.data.checks.problems import problem_of
from transunet.data.formats.dicom.series import NoSuchSeriesError, SeveralSeriesError
from transunet.errors import ConfigError, TransUNetError

STATUS: Mapping[str, int] = MappingProxyType(
    {
        "malformed": 400,
        "unauthorized": 401,
        "token_expired": 401,
        "wrong_host": 403,
        "wrong_origin": 403,
        "not_found": 404,
        "method_not_allowed": 405,
        "too_slow": 408,
        "not_done": 409,
        "busy": 409,
        "format_not_fitting": 409,
        "no_attention": 409,
        "too_large": 413,
        "unknown_format": 415,
        "invalid_request": 422,
        "unreadable": 422,
        "unusable": 422,
        "wrong_channels": 422,
        "wrong_grid": 422,
        "wrong_modality": 422,
        "several_series": 422,
        "no_such_series": 422,
        "queue_full": 429,
        "internal": 500,
        "worker_died": 503,
        "not_ready": 503,
        "storage_full": 507,
    }
)
"""Code -> HTTP status; `docs/reference/serve.md` explains each."""


class ApiError(TransUNetError):
    """A request that cannot be answered as wanted.

    Args:
        code: one of `STATUS`.
        message: what was found and expected.
        remedy: what to do.
        headers: more headers of the answer.
        details: more fields of the answer's error.
    """

    def __init__(
        self,
        code: str,
        message: str,
        remedy: str | None = None,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.remedy = code, message, remedy
        self.headers, self.details = dict(headers or {}), dict(details or {})

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:  # so that it can come from a process
        return type(self), (self.code, self.message, self.remedy, self.headers, self.details)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS[self.code]

    @property
    def body(self) -> dict[str, Any]:
        """What is answered as JSON."""
        told: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.remedy:
            told["remedy"] = self.remedy
        return {"error": {**told, **self.details}}


def told(error: TransUNetError, folder: Path, code: str = "unreadable") -> ApiError:
    """Return what a client is told of an error about files in `folder`: no path of this machine."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, SeveralSeriesError | NoSuchSeriesError):
        return _choose_series(error)
    if isinstance(error, ConfigError):
        return ApiError(code, _here(str(error), folder))
    problem = problem_of(error, "")
    if problem.kind == "unusable":  # an error without parts
        return ApiError(code, _here(str(error), folder))
    message = _here(f"{problem.where}: {problem.found}.", folder)
    return ApiError(code, message, _here(problem.remedy, folder) + ".")


def _choose_series(error: SeveralSeriesError | NoSuchSeriesError) -> ApiError:
    several = isinstance(error, SeveralSeriesError)
    count = len(error.choices)
    holds = "1 series" if count == 1 else f"{count} series"
    return ApiError(
        "several_series" if several else "no_such_series",
        f"The upload holds {holds}, and one is segmented at a time."
        if several
        else f"The upload has no such series; it holds {holds}.",
        "Send the files again with the field 'series': one of the numbers or UIDs in error.series.",
        details={"series": [asdict(choice) for choice in error.choices]},
    )


def _here(text: str, folder: Path) -> str:
    return text.replace(f"{folder}/", "").replace(str(folder), "the upload")

"""What goes wrong, as the API answers it: a status, a short code, a message and what to do."""

import logging
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transunet.data.checks.problems import problem_of
from transunet.data.formats.dicom.series import NoSuchSeriesError, SeveralSeriesError
from transunet.errors import TransUNetError, is_full_disk
from transunet.serve.server_settings import API

STATUS: Mapping[str, int] = {
    "malformed": 400,
    "unauthorized": 401,
    "token_expired": 401,
    "wrong_host": 403,
    "wrong_origin": 403,
    "not_found": 404,
    "no_pacs": 404,
    "no_sample": 404,
    "no_dataset": 404,
    "no_worklist": 404,
    "method_not_allowed": 405,
    "too_slow": 408,
    "not_done": 409,
    "busy": 409,
    "format_not_fitting": 409,
    "no_attention": 409,
    "superseded": 409,
    "in_dataset": 409,
    "dataset_unusable": 409,
    "too_large": 413,
    "unknown_format": 415,
    "invalid_request": 422,
    "unreadable": 422,
    "unusable": 422,
    "wrong_channels": 422,
    "wrong_grid": 422,
    "wrong_modality": 422,
    "other_classes": 422,
    "several_series": 422,
    "no_such_series": 422,
    "queue_full": 429,
    "internal": 500,
    "pacs_failed": 502,
    "worker_died": 503,
    "not_ready": 503,
    "storage_full": 507,
}
"""Code -> HTTP status; `docs/reference/serve.md` explains each."""
# A path begins where no word, address or path goes on. Folders may have spaces in their names; a
# space behind a full stop ends a sentence.
_PART = r"[^\s/:,;'\"]+(?:(?<!\.) [^\s/:,;'\"]+)*/"
_FOLDERS = re.compile(rf"(?<![\w/:.])(?!{API}/)/(?:{_PART})*(?=\w|\.\w)")


class ApiError(TransUNetError):
    """A request that cannot be answered as wanted; it names no folder of the server's.

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
        message, remedy = without_paths(message), without_paths(remedy or "")
        super().__init__(message)
        self.code, self.message, self.remedy = code, message, remedy or None
        self.headers, self.details = dict(headers or {}), dict(details or {})
        self.status = STATUS[code]

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:  # so that it can come from a process
        return type(self), (self.code, self.message, self.remedy, self.headers, self.details)

    @property
    def body(self) -> dict[str, Any]:
        """What is answered as JSON."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.remedy:
            error["remedy"] = self.remedy
        return {"error": {**error, **self.details}}


def api_error(
    error: BaseException,
    folder: Path,
    code: str = "unreadable",
    called: Mapping[Path, str] = MappingProxyType({}),
) -> ApiError:
    """Return the answer for whatever went wrong with files in `folder`.

    Args:
        error: the error; one that is nobody's fault but ours is logged and answered as "internal".
        folder: where the files are, which are told as they lie in it.
        code: of an error that has none of its own.
        called: files of other folders, and what the answer calls them.
    """
    if isinstance(error, ApiError):
        return error
    if is_full(error):
        return storage_full()
    if isinstance(error, SeveralSeriesError | NoSuchSeriesError):
        several, holds = isinstance(error, SeveralSeriesError), f"{len(error.choices)} series"
        return ApiError(
            "several_series" if several else "no_such_series",
            f"The upload holds {holds}, and one is segmented at a time."
            if several
            else f"The upload has no such series; it holds {holds}.",
            "Send the files again with the field 'series': one of the numbers or UIDs in "
            "error.series.",
            details={"series": [asdict(choice) for choice in error.choices]},
        )
    if not isinstance(error, TransUNetError):
        logging.getLogger(__name__).error("A request or job failed", exc_info=error)
        return ApiError("internal", "The server made a mistake; its log says more.")

    def without_folder(text: str) -> str:
        for path, name in called.items():
            text = text.replace(str(path), name)
        return text.replace(f"{folder}/", "").replace(str(folder), "the upload")

    problem = problem_of(error, "")
    if problem.kind == "unusable":  # an error without parts
        return ApiError(code, without_folder(str(error)))
    message = without_folder(f"{problem.where}: {problem.found}.")
    return ApiError(code, message, without_folder(problem.remedy) + ".")


def without_paths(text: str) -> str:
    """Return `text` with the last part alone of each absolute path in it, but for the API's own."""
    return _FOLDERS.sub("", text)


def is_full(error: BaseException) -> bool:
    """Return whether `error` is a full disk or database, or was raised for a full disk."""
    full_database = isinstance(error, sqlite3.OperationalError) and "full" in str(error)
    return full_database or is_full_disk(error)


def storage_full(message: str = "The server's disk is full.") -> ApiError:
    """Return the error for a disk or a quota that is full."""
    remedy = "Delete images and results that are no longer needed, or try again when some expired."
    return ApiError("storage_full", message, remedy)

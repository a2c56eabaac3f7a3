"""A client of `transunet serve` in one file: the standard library is all that it needs.

It may be copied into a project that has no other part of this package.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from errno import EACCES, ENOENT
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener
from uuid import uuid4

_API = "/api/v1"
_OVER = ("done", "failed", "cancelled")
_LOOK_SECONDS = 0.5
_CHUNK = 1 << 20
_BOUNDARY = uuid4().hex
_NEXT, _END = b"\r\n", f"--{_BOUNDARY}--\r\n".encode()


class ServerError(Exception):
    """What the server answered instead of what was asked for, or that it did not answer.

    Attributes:
        status: HTTP status; 0 where there was no answer.
        code: a word such as "queue_full", which docs/reference/serve.md explains; "unreachable"
            where there was no answer, "timeout" where a job was waited for in vain.
        message: what was found, and what was expected.
        remedy: what to do; empty where the server does not say.
        details: all that the server tells of the error.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        remedy: str = "",
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{message} {remedy}".strip())
        self.status, self.code, self.message, self.remedy = status, code, message, remedy
        self.details = details or {}


@dataclass(frozen=True)
class Client:
    """Asks a server.

    Args:
        url: the server's address, such as "http://127.0.0.1:8000".
        token: what the server was started with; $TRANSUNET_TOKEN if not given.
        timeout: seconds that an answer may take.

    Every method raises `ServerError` where the server refuses or does not answer, and OSError where
    a file of yours cannot be read or written. Records are dictionaries as the server's description
    (`/api/v1/docs`) tells them.

    Raises:
        ValueError: for a `url` that is none.
    """

    url: str = "http://127.0.0.1:8000"
    token: str | None = None
    timeout: float = 120.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"{self.url!r} is no address; expected one as http://127.0.0.1:8000.")

    def __repr__(self) -> str:  # a token belongs into no log
        return f"Client({self.url!r})"

    def bundles(self) -> list[dict[str, Any]]:
        """Return the models that are served."""
        return list(self._json("GET", "/bundles"))

    def upload(self, *paths: str | os.PathLike[str], series: str | None = None) -> dict[str, Any]:
        """Send an image; return its record.

        Args:
            paths: one file, a file for each channel, or a DICOM series: a folder, its files, a zip.
            series: number or UID of a DICOM series, where there are several.
        """
        query = {} if series is None else {"series": series}
        return dict(self._json("POST", "/images", query, files=paths))

    def submit(self, image: str, bundle: str, **settings: Any) -> dict[str, Any]:
        """Queue a job; return its record.

        Args:
            image: id.
            bundle: id.
            settings: of the job, such as `mirror=True`.
        """
        asked = {"image": image, "bundle": bundle, **settings}
        return dict(self._json("POST", "/jobs", body=asked))

    def submit_batch(self, jobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Queue several jobs, all or none; return the batch's record.

        Args:
            jobs: each with "image", "bundle" and settings, as `submit` takes them.
        """
        return dict(self._json("POST", "/batches", body={"jobs": list(jobs)}))

    def job(self, id: str) -> dict[str, Any]:
        """Return a job's record."""
        return dict(self._json("GET", f"/jobs/{quote(id)}"))

    def jobs(self) -> list[dict[str, Any]]:
        """Return all jobs, oldest first."""
        return list(self._json("GET", "/jobs"))

    def batch(self, id: str) -> dict[str, Any]:
        """Return a batch's record: how many of its jobs are done, and each of them."""
        return dict(self._json("GET", f"/batches/{quote(id)}"))

    def wait(self, job: str, seconds: float = 3600.0) -> dict[str, Any]:
        """Return a job's record when it is done.

        Raises:
            ServerError: as the job's own error where it failed or was cancelled; "timeout" where it
                is not over after `seconds`.
        """
        end = time.monotonic() + seconds
        while (record := self.job(job))["status"] not in _OVER:
            if time.monotonic() > end:
                message = f"The job {job} is {record['status']} after {seconds:g} seconds."
                raise ServerError(0, "timeout", message, "Wait for it again, or cancel it.")
            time.sleep(_LOOK_SECONDS)
        if record["status"] != "done":
            error = record["error"] or {"code": "cancelled", "message": "The job was cancelled."}
            raise _server_error(0, error)
        return record

    def cancel(self, job: str) -> dict[str, Any]:
        """Stop a job or take it out of the queue; return its record."""
        return dict(self._json("POST", f"/jobs/{quote(job)}/cancel"))

    def result(self, job: str, out: str | os.PathLike[str], format: str = "nifti") -> Path:
        """Write a job's label map; return its path.

        Args:
            job: id of one that is done.
            out: file, which is replaced; or folder that is there, where the server's own name is
                taken.
            format: one of the image's "result_formats".
        """
        out = _place(out)
        with self._ask("GET", f"/jobs/{quote(job)}/result", {"format": format}) as answer:
            return _save(answer, out)

    def segment(
        self,
        *paths: str | os.PathLike[str],
        out: str | os.PathLike[str],
        bundle: str | None = None,
        format: str = "nifti",
        seconds: float = 3600.0,
        **settings: Any,
    ) -> Path:
        """Send an image, wait, write its label map, leave nothing on the server; return the path.

        Args:
            paths: as of `upload`.
            out: as of `result`.
            bundle: id; may be left out where one bundle is served.
            format: as of `result`.
            seconds: how long to wait at most.
            settings: of the job, such as `mirror=True`; `series` as of `upload`; `keep=True`, so
                that image and job stay on the server.
        """
        out = _place(out)  # what cannot be written is told before anything is sent
        query = {"format": format, "wait_seconds": min(60, self.timeout / 2), **settings}
        if bundle is not None:
            query["bundle"] = bundle
        with self._ask("POST", "/segment", query, files=paths) as answer:
            if answer.status == 200:
                return _save(answer, out)
            job = json.loads(answer.read())  # it takes longer, and goes on
        try:
            self.wait(job["id"], seconds)
            return self.result(job["id"], out, format)
        finally:
            if not settings.get("keep"):
                with suppress(ServerError):  # what went wrong before is told; all of it expires
                    # While it runs, the image is busy.
                    self._json("DELETE", f"/jobs/{job['id']}")
                    self.delete(job["image"])

    def send_labels(self, image: str, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Send a label map of an image, such as a reference; return its record."""
        return dict(self._json("POST", f"/images/{quote(image)}/labels", files=[path]))

    def labels(self, image: str) -> list[dict[str, Any]]:
        """Return an image's label maps that no job made: those sent, and corrections by hand."""
        return list(self._json("GET", f"/images/{quote(image)}/labels"))

    def compare(self, image: str, of: str, reference: str) -> dict[str, Any]:
        """Return how two label maps of an image agree: Dice and HD95 of each structure.

        Args:
            image: id.
            of: id of a job or label map.
            reference: id of another.
        """
        query = {"of": of, "with": reference}
        return dict(self._json("GET", f"/images/{quote(image)}/comparison", query))

    def delete(self, image: str) -> None:
        """Remove an image from the server, with its jobs and their results."""
        self._json("DELETE", f"/images/{quote(image)}")

    def _json(
        self,
        method: str,
        path: str,
        query: dict[str, Any] | None = None,
        *,
        body: Any = None,
        files: Sequence[str | os.PathLike[str]] | None = None,
    ) -> Any:
        with self._ask(method, path, query, body=body, files=files) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def _ask(
        self,
        method: str,
        path: str,
        query: dict[str, Any] | None = None,
        *,
        body: Any = None,
        files: Sequence[str | os.PathLike[str]] | None = None,
    ) -> HTTPResponse:
        data: bytes | Iterator[bytes] | None = None
        headers = {}
        if files is not None:
            parts = _parts(files)
            data = _form(parts)
            size = sum(len(head) + path.stat().st_size + len(_NEXT) for head, path in parts)
            headers["Content-Length"] = str(size + len(_END))
            headers["Content-Type"] = f"multipart/form-data; boundary={_BOUNDARY}"
        elif body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        token = os.environ.get("TRANSUNET_TOKEN") if self.token is None else self.token
        if token:
            headers["Authorization"] = f"Bearer {token}"
        words = {True: "true", False: "false"}
        values = {
            name: words[value] if isinstance(value, bool) else value
            for name, value in (query or {}).items()
        }
        text = urlencode(values, doseq=True)
        address = f"{self.url.rstrip('/')}{_API}{path}" + (f"?{text}" if text else "")
        request = Request(address, data, headers, method=method)
        try:
            answer = _opener.open(request, timeout=self.timeout)
        except HTTPError as error:
            raise _answered(error.code, error.read()) from None
        except (URLError, TimeoutError, ConnectionError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            message = f"{self.url} does not answer: {reason}."
            raise ServerError(0, "unreachable", message, "Is transunet serve running?") from None
        assert isinstance(answer, HTTPResponse)
        return answer


class _StayHere(HTTPRedirectHandler):
    """Follows no redirect: it would take the token to wherever it leads."""

    def redirect_request(self, *_: Any) -> None:
        """Return nothing, so that the answer is told as it is."""


class _Heard(HTTPConnection):
    """Reads the answer of a server that refuses, and closes, before all was sent to it."""

    def send(self, data: Any) -> None:
        """Send `data`, unless nobody takes it any more."""
        try:
            super().send(data)
        except (BrokenPipeError, ConnectionResetError):
            if self.sock is None:  # it was not even connected
                raise


class _HeardSecurely(_Heard, HTTPSConnection):
    """The same over TLS."""


class _Http(HTTPHandler):
    def http_open(self, request: Request) -> HTTPResponse:
        return self.do_open(_Heard, request)


class _Https(HTTPSHandler):
    def https_open(self, request: Request) -> HTTPResponse:
        return self.do_open(_HeardSecurely, request)


_opener = build_opener(_StayHere, _Http, _Https)


def _parts(files: Sequence[str | os.PathLike[str]]) -> list[tuple[bytes, Path]]:
    """Return each file with the head of its part of the form; of a folder, all files in it."""
    paths = [Path(file) for file in files]
    inside = ([path] if not path.is_dir() else sorted(path.rglob("*")) for path in paths)
    return [
        (
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="files"; '
            f"filename*=UTF-8''{quote(path.name)}\r\n\r\n".encode(),
            path,
        )
        for each in inside
        for path in each
        if not path.is_dir()
    ]


def _form(parts: list[tuple[bytes, Path]]) -> Iterator[bytes]:
    for head, path in parts:
        yield head
        with path.open("rb") as file:
            while data := file.read(_CHUNK):
                yield data
        yield _NEXT
    yield _END


def _place(out: str | os.PathLike[str]) -> Path:
    """Return where to write, if that can be: `out` is a file, or a folder that is there."""
    place = Path(out)
    is_folder = place.is_dir() or os.fspath(out).endswith(("/", os.sep))
    folder = place if is_folder else place.parent
    if not folder.is_dir():
        raise FileNotFoundError(ENOENT, "There is no such folder to write to", str(folder))
    if not os.access(folder, os.W_OK):
        raise PermissionError(EACCES, "This folder cannot be written to", str(folder))
    return place


def _save(answer: HTTPResponse, out: Path) -> Path:
    """Write an answer's body beside its place, and rename it; return the place."""
    if out.is_dir():
        out /= Path(answer.headers.get_filename("labels.nii.gz")).name
    partial = out.with_name(f".{out.name}.{uuid4().hex}")
    try:
        with partial.open("xb") as file:
            shutil.copyfileobj(answer, file)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return out


def _answered(status: int, body: bytes) -> ServerError:
    try:
        return _server_error(status, json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):  # of a proxy, say
        text = body[:200].decode(errors="replace")
        return ServerError(status, f"http_{status}", f"The server answered {status}: {text}")


def _server_error(status: int, error: dict[str, Any]) -> ServerError:
    return ServerError(status, error["code"], error["message"], error.get("remedy") or "", error)

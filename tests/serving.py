"""What the tests of serving start from: a server in this process, one as a user starts it."""

import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for module in ("fastapi", "uvicorn", "python_multipart", "httpx"):
    pytest.importorskip(
        module, reason=f"serving needs {module}: pip install 'transunet-torch[serve]'"
    )

import httpx  # noqa: E402 - or the tests that need it skip

import forks  # noqa: E402
from prediction import COMMAND  # noqa: E402

API = "/api/v1"
OVER = ("done", "failed", "cancelled")


class FakeWorker:
    """A worker that does nothing until the test says so."""

    def __init__(self) -> None:
        self.ready, self.loading = True, ""
        self.asked: list[tuple[str, Future[Any], Any]] = []
        """Id, answer and what to call with progress, of each request."""
        self.cancelled: list[str] = []
        self.starts = 0

    def start(self, note: Any = None) -> None:
        self.ready, self.starts = True, self.starts + 1

    def ask(self, id_: str, task: Any, on_progress: Any = None) -> Future[Any]:
        future: Future[Any] = Future()
        self.asked.append((id_, future, on_progress))
        return future

    def cancel(self, id_: str) -> None:
        from transunet.serve.child_process import Cancelled

        self.cancelled.append(id_)
        for asked, future, _ in self.asked:
            if asked == id_ and not future.done():
                future.set_exception(Cancelled())

    def die(self) -> None:
        self.ready = False
        self.stop()

    def stop(self) -> None:
        from transunet.serve.child_process import process_died

        for _, future, _ in self.asked:
            if not future.done():
                future.set_exception(process_died())


class Client:
    """The few steps that every test takes, over any httpx client."""

    def __init__(self, http: Any) -> None:
        self.http = http

    def get(self, path: str, **options: Any) -> Any:
        return self.http.get(API + path, **options)

    def post(self, path: str, **options: Any) -> Any:
        return self.http.post(API + path, **options)

    def delete(self, path: str) -> Any:
        return self.http.delete(API + path)

    def send(self, *files: Path | tuple[str, bytes], **options: Any) -> Any:
        """Upload files, by path or as name and content."""
        parts = [
            ("files", (one.name, one.read_bytes()) if isinstance(one, Path) else one)
            for one in files
        ]
        return self.post("/images", files=parts, **options)

    def upload(self, *files: Path | tuple[str, bytes], **options: Any) -> dict[str, Any]:
        answer = self.send(*files, **options)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def submit(self, image: str, bundle: str = "brain", **settings: Any) -> dict[str, Any]:
        answer = self.post("/jobs", json={"image": image, "bundle": bundle, **settings})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def job(self, id_: str) -> dict[str, Any]:
        answer = self.get(f"/jobs/{id_}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def wait(self, id_: str, seconds: float = 240) -> dict[str, Any]:
        """Return the job when it is over."""
        return until(lambda: job if (job := self.job(id_))["status"] in OVER else None, seconds)

    def segment(self, *files: Any, bundle: str = "brain", **settings: Any) -> dict[str, Any]:
        """Upload, submit and wait for success; return the job."""
        job = self.wait(self.submit(self.upload(*files)["id"], bundle, **settings)["id"])
        assert job["status"] == "done", job
        return job


def until(found: Callable[[], Any], seconds: float = 120) -> Any:
    """Return what `found` returns as soon as it is true."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, f"waited {seconds} seconds in vain"
        time.sleep(0.02)
    return value


@contextmanager
def fake_server(
    folder: Path,
    bundle: Path,
    *workers: Any,
    worker: Any = None,
    pacs: Any = None,
    dataset: Path | None = None,
    worklist: Path | None = None,
    **limits: Any,
) -> Iterator[tuple[Client, Any]]:
    """A server in this process with a worker that does as the test says."""
    from starlette.testclient import TestClient

    from transunet.serve.api.app import create_app
    from transunet.serve.server_settings import Limits, ServeSettings
    from transunet.serve.service import Service

    learned = {"dataset": dataset, "worklist": worklist}
    settings = ServeSettings(data=folder, pacs=pacs, limits=Limits(**limits), **learned)
    service = Service([str(bundle)], settings, *(workers or [worker or FakeWorker()]))
    app = create_app(service)
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as http:
        yield Client(http), service


class Command:
    """`transunet serve` as a process."""

    def __init__(self, *arguments: object) -> None:
        self.process = forks.Process(COMMAND, "serve", *arguments)
        until(lambda: "Ctrl-C ends." in self.said or self.process.poll() is not None)
        found = re.search(r"Open (http://[^/]+)/", self.said)
        assert found, f"it ended without serving:\n{self.said}"
        self.address = found[1]
        self.http = httpx.Client(base_url=self.address, timeout=120, trust_env=False)
        self.client = Client(self.http)

    @property
    def said(self) -> str:
        """What it has told so far."""
        return self.process.stdout

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        self.http.close()
        self.process.send_signal(number)
        return self.process.wait(30)


@contextmanager
def command(*arguments: object) -> Iterator[Command]:
    """A server as a user starts it, on a free port; it is ended in any case."""
    server = Command(*arguments, "--port", 0)
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)


def nifti_of(content: bytes) -> Any:
    """The NIfTI image in gzipped bytes."""
    import gzip

    import nibabel

    return nibabel.Nifti1Image.from_bytes(gzip.decompress(content))


def image_bytes(seed: int, shape: tuple[int, ...] = (20, 24, 6)) -> bytes:
    """A NIfTI file that only this seed gives."""
    from prediction import noise

    return nifti_bytes(noise(shape, seed))


def nifti_bytes(array: np.ndarray, affine: Any = None) -> bytes:
    """A NIfTI file with these voxels, where the made images lie or as `affine` says."""
    import gzip

    import nibabel

    from prediction import OBLIQUE

    affine = OBLIQUE if affine is None else np.array(affine)
    return gzip.compress(nibabel.Nifti1Image(array, affine).to_bytes(), 1)


def labels_of(bundle: Path, content: bytes, **settings: Any) -> np.ndarray:
    """What the predictor itself says of such a file, without any server."""
    from transunet.data.volume import Volume
    from transunet.inference.predictor import Predictor

    image = nifti_of(content)
    array = np.asarray(image.dataobj, dtype=np.float32)[None]
    return Predictor.from_pretrained(bundle, device="cpu", **settings)(
        Volume(array, image.affine)
    ).array[0]

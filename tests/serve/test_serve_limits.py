"""How much a server takes: queue, uploads, quota, a full disk, time. The worker is the test's."""

import asyncio
import errno
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from starlette.requests import Request

from serving import FakeWorker, fake_server, image_bytes, until
from transunet.bundle.bundle_config import BundleConfig
from transunet.data.preprocessing import Preprocessing
from transunet.models.variants import variant
from transunet.serve.api_errors import ApiError, storage_full
from transunet.serve.uploads import receive
from transunet.serve.uploads.inspection import UPLOAD


@pytest.fixture
def bundle(bundles):
    return bundles / "brain"


def files_in(service, *folders):
    return [p for name in folders for p in (service.data / name).rglob("*") if p.is_file()]


def code_of(answer):
    return answer.json()["error"]["code"]


def test_a_full_queue_says_when_to_come_back(tmp_path, bundle):
    with fake_server(tmp_path, bundle, queue=2) as (client, _):
        image = client.upload(("a.nii.gz", image_bytes(0)))["id"]
        first = client.submit(image)
        until(lambda: client.job(first["id"])["status"] == "running")
        waiting = [client.submit(image) for _ in range(2)]
        assert [client.job(job["id"])["position"] for job in waiting] == [1, 2]
        answer = client.post("/jobs", json={"image": image, "bundle": "brain"})
        assert (answer.status_code, code_of(answer)) == (429, "queue_full")
        assert int(answer.headers["retry-after"]) > 0
        assert len(client.get("/jobs").json()) == 3
        client.post(f"/jobs/{waiting[0]['id']}/cancel")
        assert client.job(waiting[1]["id"])["position"] == 1
        client.submit(image)


HEAD = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.nii"\r\n\r\n'
KIND = {"content-type": "multipart/form-data; boundary=b"}


def refusal(service, pieces, ends=True):
    """Why a body of no declared length is refused that comes in these pieces."""
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]

    async def next_message():
        if not messages:
            await anyio.sleep(0 if ends else 9)
            return {"type": "http.request", "body": b"", "more_body": False}
        return messages.pop(0)

    async def main():
        headers = [(name.encode(), value.encode()) for name, value in KIND.items()]
        scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
        async with receive.received(Request(scope, next_message), service):
            raise AssertionError("it was taken")

    # In a thread: a browser of other tests may have a loop in this one.
    with ThreadPoolExecutor(1) as pool, pytest.raises(ApiError) as caught:
        pool.submit(anyio.run, main).result()
    assert files_in(service, "incoming", "images") == []
    return caught.value


def test_an_upload_is_refused_while_it_comes(tmp_path, bundle, monkeypatch):
    with fake_server(tmp_path, bundle, upload_bytes=300_000) as (client, service):
        written = []
        write = receive._KeptFile.write

        async def counted(self, data):
            written.append(len(data))
            await write(self, data)

        monkeypatch.setattr(receive._KeptFile, "write", counted)
        assert refusal(service, [HEAD, *[bytes(50_000)] * 40]).code == "too_large"
        assert 200_000 < sum(written) <= 300_000
        written.clear()
        answer = client.post("/images", content=HEAD + bytes(300_000), headers=KIND)
        assert (answer.status_code, code_of(answer)) == (413, "too_large")
        assert written == []  # by its declared length
        assert files_in(service, "incoming", "images") == []


def test_a_client_that_stalls_is_given_up(tmp_path, bundle, monkeypatch):
    monkeypatch.setattr(receive, "STALLED_SECONDS", 0.05)
    with fake_server(tmp_path, bundle) as (_, service):
        error = refusal(service, [HEAD, bytes(100)], ends=False)
        assert (error.code, error.status) == ("too_slow", 408)
        assert "Nothing arrived" in error.message


def test_too_many_files(tmp_path, bundle):
    with fake_server(tmp_path, bundle, files=2) as (client, service):
        answer = client.send(*[(f"{i}.nii.gz", image_bytes(i)) for i in range(3)])
        assert (answer.status_code, code_of(answer)) == (413, "too_large")
        assert files_in(service, "incoming", "images") == []


def test_too_many_voxels(tmp_path, bundle):
    with fake_server(tmp_path, bundle, voxels=1000) as (client, _):
        answer = client.send(("a.nii.gz", image_bytes(0)))
        assert (answer.status_code, code_of(answer)) == (413, "too_large")
        assert "2880 voxels" in answer.json()["error"]["message"]


def test_the_quota_counts_uploads_and_what_is_kept(tmp_path, bundle):
    content = image_bytes(0)
    with fake_server(tmp_path, bundle, quota_bytes=5 * len(content)) as (client, service):
        images = [client.upload(("a.nii.gz", content))["id"] for _ in range(2)]
        answer = client.send(("a.nii.gz", content), ("b.nii.gz", content))
        assert (answer.status_code, code_of(answer)) == (507, "storage_full")
        assert "Delete" in answer.json()["error"]["remedy"]
        assert files_in(service, "incoming") == []
        assert len(list((service.data / "images").iterdir())) == 2
        client.delete(f"/images/{images[0]}")
        client.delete(f"/images/{images[1]}")
        client.upload(("a.nii.gz", content), ("b.nii.gz", content))


def test_a_full_disk_leaves_nothing_half_written(tmp_path, bundle, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            self.file.write(data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            self.file.close()

    def open_full(path, mode="r"):
        return Full(real(path, mode)) if UPLOAD in path.parts else real(path, mode)

    real = Path.open
    with fake_server(tmp_path, bundle) as (client, service):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", open_full)
            answer = client.send(("a.nii.gz", image_bytes(0)))
        assert (answer.status_code, code_of(answer)) == (507, "storage_full")
        assert files_in(service, "incoming", "images") == []
        assert service.database.images == {}
        client.upload(("a.nii.gz", image_bytes(0)))


def test_a_disk_too_full_for_the_records(tmp_path, bundle, monkeypatch):
    import sqlite3

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    with fake_server(tmp_path, bundle) as (client, service):
        image = client.upload(("a.nii.gz", image_bytes(0)))["id"]
        with monkeypatch.context() as patch:
            patch.setattr(service.database, "save", full)
            answer = client.send(("b.nii.gz", image_bytes(1)))
            assert (answer.status_code, code_of(answer)) == (507, "storage_full")
            assert [p.name for p in (service.data / "images").iterdir()] == [image]
            assert files_in(service, "incoming") == []
        with monkeypatch.context() as patch:
            patch.setattr(service.database, "save", full)
            answer = client.post("/jobs", json={"image": image, "bundle": "brain"})
            assert (answer.status_code, code_of(answer)) == (507, "storage_full")


def test_what_became_of_a_job_waits_for_room(tmp_path, bundle, monkeypatch):
    """The records cannot be written when a job ends: it is not lost, and the queue goes on."""
    import sqlite3

    from transunet.serve.jobs import queue

    monkeypatch.setattr(queue, "_AGAIN_SECONDS", 0.02)
    worker = FakeWorker()
    with fake_server(tmp_path, bundle, worker=worker) as (client, service):
        image = client.upload(("a.nii.gz", image_bytes(0)))["id"]
        job = client.submit(image)
        until(lambda: worker.asked)
        save, failures = service.database.save, []

        def full(*records):
            if len(failures) < 3:
                failures.append(1)
                raise sqlite3.OperationalError("database or disk is full")
            save(*records)

        monkeypatch.setattr(service.database, "save", full)
        worker.asked[0][1].set_result({"statistics": [], "slices": 6})
        assert client.wait(job["id"])["status"] == "done"
        assert len(failures) == 3


def test_what_was_kept_long_enough_is_removed(tmp_path, bundle, monkeypatch):
    worker = FakeWorker()
    with fake_server(tmp_path, bundle, worker=worker, keep_hours=1) as (client, service):
        image = client.upload(("a.nii.gz", image_bytes(0)))["id"]
        old = client.upload(("b.nii.gz", image_bytes(1)))["id"]
        job = client.submit(image)
        until(lambda: worker.asked)
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 3601)
        service.expire()
        assert client.get(f"/images/{old}").status_code == 404
        assert client.get(f"/images/{image}").status_code == 200  # its job still runs
        worker.asked[0][1].set_result({"statistics": [], "slices": 6})
        assert client.wait(job["id"])["status"] == "done"
        monkeypatch.setattr(time, "time", lambda: now + 3601 + 3500)
        service.expire()
        assert client.get(f"/images/{image}").status_code == 200
        monkeypatch.setattr(time, "time", lambda: now + 3601 + 3601)
        service.expire()
        answer = client.get(f"/jobs/{job['id']}")
        assert answer.status_code == 404
        assert "1 hours" in answer.json()["error"]["message"]
        assert client.get(f"/images/{image}").status_code == 404
        assert files_in(service, "images", "jobs") == []


def test_an_image_is_not_deleted_under_a_job(tmp_path, bundle):
    worker = FakeWorker()
    with fake_server(tmp_path, bundle, worker=worker) as (client, service):
        image = client.upload(("a.nii.gz", image_bytes(0)))["id"]
        job = client.submit(image)
        answer = client.delete(f"/images/{image}")
        assert (answer.status_code, code_of(answer)) == (409, "busy")
        until(lambda: worker.asked)
        client.delete(f"/jobs/{job['id']}")
        assert worker.cancelled == [job["id"]]
        assert client.delete(f"/images/{image}").status_code == 204
        until(lambda: files_in(service, "images", "jobs") == [])


def test_events_end_when_the_job_is_deleted(tmp_path, bundle, monkeypatch):
    worker = FakeWorker()
    with fake_server(tmp_path, bundle, worker=worker) as (client, _):
        job = client.submit(client.upload(("a.nii.gz", image_bytes(0)))["id"])
        until(lambda: worker.asked)
        seen, looks, look = [], [], asyncio.sleep

        async def noted(seconds):
            looks.append(seconds)
            await look(seconds)

        monkeypatch.setattr(asyncio, "sleep", noted)

        def follow():
            seen.append(client.get(f"/jobs/{job['id']}/events").text)

        thread = threading.Thread(target=follow)
        thread.start()
        until(lambda: looks)
        worker.asked[0][2](3, 6)
        client.delete(f"/jobs/{job['id']}")
        thread.join(10)
        assert "event: end" in seen[0]


def test_a_job_that_fails_says_why(tmp_path, bundle):
    from transunet.errors import DataError

    worker = FakeWorker()
    with fake_server(tmp_path, bundle, worker=worker) as (client, _):
        image = client.upload(("a.nii.gz", image_bytes(0)))["id"]
        told = []
        for error in (DataError("its voxels are odd"), storage_full("Full."), ValueError("a bug")):
            count = len(worker.asked)
            job = client.submit(image)
            until(lambda count=count: len(worker.asked) > count)
            worker.asked[-1][1].set_exception(error)
            ended = client.wait(job["id"])
            told.append((ended["status"], ended["error"]["code"]))
            assert "bug" not in ended["error"]["message"]
        codes = ("unusable", "storage_full", "internal")
        assert told == [("failed", code) for code in codes]


def test_records_keep_room_for_what_becomes_of_jobs(tmp_path):
    from transunet.serve.jobs.database import ImageRecord, JobDatabase, JobRecord

    store = JobDatabase(tmp_path)
    store.save(ImageRecord("image", "a", {}, 1, 0.0, 9.0))
    jobs = [JobRecord(f"job{number}", "image", "brain", {}, 0.0) for number in range(5)]
    store.save(*jobs)
    (pages,) = store._sqlite.execute("PRAGMA page_count").fetchone()
    # As on a disk without room for another one.
    store._sqlite.execute(f"PRAGMA max_page_count = {pages}")
    statistics = [{"name": "x" * 50_000}]
    for job in jobs:
        store.save(replace(job, status="running", attempts=1, started=1.0))
        store.save(replace(job, status="done", statistics=statistics))
    store.close()
    store = JobDatabase(tmp_path)
    assert [job.statistics for job in store.jobs.values()] == [statistics] * 5
    store.remove("image", *store.jobs)
    assert (store.images, store.jobs) == ({}, {})
    store.close()
    store = JobDatabase(tmp_path)
    assert (store.images, store.jobs) == ({}, {})
    store.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 40 MB."""
    import subprocess

    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs leave to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(path):
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_disk_that_is_really_full(small_disk, bundle):
    worker = FakeWorker()
    with fake_server(small_disk / "data", bundle, worker=worker) as (client, service):
        image, other = (client.upload(("a.nii.gz", image_bytes(n)))["id"] for n in range(2))
        job = client.submit(image)
        until(lambda: worker.asked)
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"):
            fill(filler)
        worker.asked[0][1].set_result({"statistics": [{"name": "x" * 9999}], "slices": 6})
        until(lambda: service.database.jobs[job["id"]].status == "done")
        for answer in (
            client.send(("b.nii.gz", image_bytes(2))),
            client.post("/jobs", json={"image": image, "bundle": "brain"}),
        ):
            assert (answer.status_code, code_of(answer)) == (507, "storage_full")
        assert files_in(service, "incoming") == []
        assert client.delete(f"/images/{other}").status_code == 204
        filler.unlink()
        client.upload(("b.nii.gz", image_bytes(2)))


def test_a_bundle_of_volumes_refuses_planes_and_what_is_for_slices(tmp_path):
    config = BundleConfig(
        architecture=variant("UNet3D-S", num_classes=2),
        preprocessing=Preprocessing(spacing_mm=(1, 1, 1)),
        labels={0: "background", 1: "spot"},
    )
    (tmp_path / "volumes").mkdir()
    (tmp_path / "volumes/config.json").write_text(config.model_dump_json())
    with fake_server(tmp_path / "data", tmp_path / "volumes") as (client, _):
        plane = client.upload(("plane.nii.gz", image_bytes(0, (20, 24, 1))))["id"]
        volume = client.upload(("volume.nii.gz", image_bytes(0)))["id"]
        answers = [
            client.post("/jobs", json={"image": image, "bundle": "volumes", **settings})
            for image, settings in (
                (plane, {}),
                (volume, {"window": True}),
                (volume, {"procedure": "paper"}),
                (volume, {}),
            )
        ]
        assert [answer.status_code for answer in answers] == [422, 422, 422, 201]
        assert [code_of(answer) for answer in answers[:3]] == ["unusable", *["invalid_request"] * 2]
        assert "single plane; volumes takes volumes" in answers[0].json()["error"]["message"]

"""What scripts use: one call, batches, the client of one file."""

import ast
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

import transunet.client
from serving import FakeWorker, fake_server, image_bytes, labels_of, nifti_of, until
from transunet.client import Client, ServerError
from transunet.serve.api_errors import ApiError


@pytest.fixture
def bundle(bundles):
    return bundles / "brain"


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a b.nii.gz"
    path.write_bytes(image_bytes(5))
    return path


def send(client, query="", content=None):
    files = {"files": ("a.nii.gz", content or image_bytes(0))}
    return client.post(f"/segment{query}", files=files)


def code_of(answer):
    return answer.status_code, answer.json()["error"]["code"]


def ids(client, *lists):
    return [record["id"] for name in lists for record in client.get(f"/{name}").json()]


def test_one_call_is_a_job_that_leaves_nothing(server, client, bundle):
    before = ids(client, "jobs")
    content = image_bytes(7)
    answer = send(client, "?bundle=brain&mirror=true&largest_component=all", content)
    assert answer.status_code == 200, answer.text
    assert 'filename="a_brain.nii.gz"' in answer.headers["content-disposition"]
    expected = labels_of(bundle, content, mirror=True, largest_component=["all"])
    assert np.array_equal(np.asarray(nifti_of(answer.content).dataobj), expected)
    until(lambda: ids(client, "jobs") == before)
    kept = send(client, "?bundle=brain&keep=true&format=npz")
    job = client.job(kept.headers["location"].rpartition("/")[2])
    assert (job["status"], job["bundle"]) == ("done", "brain")
    assert client.delete(f"/images/{job['image']}").status_code == 204


def test_one_call_is_refused_as_its_steps_are(server, client):
    before = ids(client, "jobs")
    assert code_of(send(client)) == (422, "invalid_request")  # which of three bundles?
    assert "brain, pair, photo" in send(client).json()["error"]["message"]
    for query, expected in {
        "?bundle=none": (404, "not_found"),
        "?bundle=pair": (422, "wrong_channels"),
        "?bundle=brain&colour=1": (422, "invalid_request"),
        "?bundle=brain&wait_seconds=1e9": (422, "invalid_request"),
        "?bundle=brain&format=png": (409, "format_not_fitting"),
        "?bundle=brain&largest_component=nose": (422, "invalid_request"),
    }.items():
        assert code_of(send(client, query)) == expected, query
    assert code_of(send(client, "?bundle=brain", bytes(5 << 20))) == (413, "too_large")
    assert code_of(send(client, "?bundle=brain", b"no image")) == (422, "unreadable")
    assert client.post("/segment?bundle=brain").status_code == 400
    assert ids(client, "jobs") == before


def test_a_client_that_leaves_its_one_call_takes_the_job_along(server, client):
    files = {"files": ("long.nii.gz", image_bytes(4, (40, 300, 60)))}
    before = ids(client, "jobs")
    with pytest.raises(httpx.ReadTimeout):
        client.post("/segment?bundle=brain&mirror=true", files=files, timeout=1)
    until(lambda: ids(client, "jobs") == before)


def test_one_call_of_a_server_that_is_busy(tmp_path, bundle):
    worker = FakeWorker()
    with fake_server(tmp_path, bundle, worker=worker, queue=1) as (client, service):
        answer = send(client, "?wait_seconds=0")
        assert answer.status_code == 202
        job = answer.json()
        assert answer.headers["location"] == f"/api/v1/jobs/{job['id']}"
        until(lambda: client.job(job["id"])["status"] == "running")
        waiting = send(client, "?wait_seconds=0").json()
        assert code_of(send(client)) == (429, "queue_full")
        assert len(service.database.images) == 2
        assert client.post(f"/jobs/{waiting['id']}/cancel").status_code == 200
    with fake_server(tmp_path / "other", bundle, worker=Refusing()) as (client, service):
        assert code_of(send(client)) == (422, "unusable")
        assert not service.database.images
        assert not service.database.jobs


class Refusing(FakeWorker):
    """A worker that finds fault with every image."""

    def ask(self, *_):
        future = Future()
        future.set_exception(ApiError("unusable", "It is empty."))
        return future


def test_a_batch_is_queued_whole_and_asked_for_as_one(tmp_path, bundle):
    worker = FakeWorker()
    with fake_server(tmp_path, bundle, worker=worker, queue=2) as (client, _):
        image = client.upload(("a.nii.gz", image_bytes(0)))["id"]
        good = {"image": image, "bundle": "brain"}
        for jobs, expected in (
            ([], (422, "invalid_request")),
            ([good] * 3, (429, "queue_full")),
            ([good, {**good, "bundle": "liver"}], (404, "not_found")),
            ([good, {**good, "colour": 1}], (422, "invalid_request")),
        ):
            answer = client.post("/batches", json={"jobs": jobs})
            assert code_of(answer) == expected
            assert "jobs.1" in answer.text or len(jobs) != 2
            assert client.get("/jobs").json() == []
        answer = client.post("/batches", json={"jobs": [good, {**good, "mirror": True}]})
        assert answer.status_code == 201
        address = answer.headers["location"].removeprefix("/api/v1")
        first, second = (job["id"] for job in answer.json()["jobs"])
        until(lambda: worker.asked)
        worker.asked[0][1].set_result({"statistics": [], "slices": 6})
        until(lambda: len(worker.asked) == 2)
        batch = client.get(address).json()
        assert (batch["over"], batch["counts"]) == (False, {"done": 1, "running": 1})
        assert [job["id"] for job in batch["jobs"]] == [first, second]
        assert batch["jobs"][1]["settings"]["mirror"] is True
        batch = client.post(f"{address}/cancel").json()
        assert (batch["over"], batch["counts"]) == (True, {"done": 1, "cancelled": 1})
    with fake_server(tmp_path, bundle, worker=worker) as (client, _):
        assert client.get(address).json()["counts"] == {"done": 1, "cancelled": 1}
        assert client.delete(f"/images/{image}").status_code == 204
        assert code_of(client.get(address)) == (404, "not_found")


def test_the_client_takes_each_step(server, client, bundle, image, tmp_path):
    there = Client(server.address)
    assert [served["id"] for served in there.bundles()] == ["brain", "pair", "photo"]
    sent = there.upload(image)
    assert sent["name"] == "a b.nii.gz"
    batch = there.submit_batch([{"image": sent["id"], "bundle": "brain"}])
    job = there.wait(batch["jobs"][0]["id"])
    assert there.batch(batch["id"])["over"]
    assert job["id"] in [each["id"] for each in there.jobs()]
    (tmp_path / "labels").mkdir()
    result = there.result(job["id"], tmp_path / "labels")
    assert result.name == "a_b_brain.nii.gz"
    expected = labels_of(bundle, image.read_bytes())
    assert np.array_equal(np.asarray(nifti_of(result.read_bytes()).dataobj), expected)
    given = there.send_labels(sent["id"], result)
    assert [each["id"] for each in there.labels(sent["id"])] == [given["id"]]
    assert there.compare(sent["id"], job["id"], given["id"])["mean"]["dice"] == 1
    there.delete(sent["id"])
    before = there.jobs()
    for more in ({}, {"wait_seconds": 0}):  # the second one is told to come back
        out = there.segment(image, out=tmp_path / "one.nii.gz", bundle="brain", **more)
        assert np.array_equal(np.asarray(nifti_of(out.read_bytes()).dataobj), expected)
        until(lambda: there.jobs() == before)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a b.nii.gz",
        "labels",
        "one.nii.gz",
    ]


def test_the_client_says_what_went_wrong(server, image, tmp_path):
    there = Client(server.address)
    with pytest.raises(ServerError, match="'liver' is served") as caught:
        there.segment(image, out=tmp_path / "x.nii.gz", bundle="liver")
    assert (caught.value.status, caught.value.code) == (404, "not_found")
    with pytest.raises(ServerError, match="format is not taken") as caught:
        there.upload(Path(__file__))
    assert caught.value.remedy == "Convert it to NIfTI (.nii.gz)."
    with pytest.raises(FileNotFoundError):
        there.upload(tmp_path / "none.nii.gz")
    nobody = Client("http://127.0.0.1:9")
    with pytest.raises(FileNotFoundError, match="no such folder"):  # before anything is sent
        nobody.segment(image, out=tmp_path / "none" / "x.nii.gz")
    with pytest.raises(FileNotFoundError, match="no such folder"):  # not a file called `labels`
        nobody.result("1", f"{tmp_path}/labels/")
    with pytest.raises(ValueError, match="is no address; expected"):
        Client("127.0.0.1:8000")
    with pytest.raises(ServerError, match=r"There is no file\. Send one"):
        there.upload()
    with pytest.raises(ServerError, match="does not answer") as caught:
        nobody.bundles()
    assert caught.value.code == "unreachable"
    long = tmp_path / "long.nii.gz"
    long.write_bytes(image_bytes(4, (40, 100, 400)))
    asked = {"bundle": "brain", "mirror": True, "wait_seconds": 0, "seconds": 0}
    with pytest.raises(ServerError, match="after 0 seconds") as caught:
        there.segment(long, out=tmp_path / "y.nii.gz", **asked)
    assert caught.value.code == "timeout"
    assert "secret" not in repr(Client(server.address, "secret"))


@contextmanager
def answering(answer: bytes) -> Iterator[Client]:
    """A server that answers as soon as it was asked, and reads nothing of what is sent to it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(answer)

        with ThreadPoolExecutor(1) as server:
            done = server.submit(serve)
            yield Client(f"http://127.0.0.1:{listening.getsockname()[1]}")
            done.result(30)


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 56\r\nConnection: close\r\n\r\n"
            b'{"error": {"code": "not_found", "message": "No liver."}}',
            404,
            "^No liver",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 0, "does not answer: SSH-2.0"),
        (b"", 0, "does not answer"),
    ],
    ids=["refuses", "no web server", "hangs up"],
)
def test_an_answer_is_heard_before_all_was_sent(tmp_path, answer, status, message):
    large = tmp_path / "large.nii"
    with large.open("wb") as file:
        file.truncate(64 << 20)
    with answering(answer) as client, pytest.raises(ServerError, match=message) as caught:
        client.upload(large)
    assert caught.value.status == status


def test_the_client_needs_nothing_but_python():
    tree = ast.parse(Path(transunet.client.__file__).read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
        )
    }
    assert imported <= set(sys.stdlib_module_names)

"""`transunet serve` as a process: many clients, clients that leave, signals, crashes, wrong use."""

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

from prediction import transunet
from serving import API, Client, command, image_bytes, labels_of, nifti_of, until
from transunet.errors import ConfigError


def test_twenty_at_once_get_their_own_results(server, bundles):
    contents = [image_bytes(seed, (20, 24, 4 + seed % 3)) for seed in range(20)]
    barrier = threading.Barrier(20)

    def one(seed):
        with httpx.Client(base_url=server.address, timeout=60, trust_env=False) as http:
            client = Client(http)
            barrier.wait()
            image = client.upload((f"{seed}.nii.gz", contents[seed]))
            job = client.wait(client.submit(image["id"])["id"], 100)
            view = client.get(f"/images/{image['id']}/volume.nii.gz").content
            return job, view, client.get(f"/jobs/{job['id']}/result")

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(one, range(20)))
    for seed, (job, view, result) in enumerate(found):
        assert job["status"] == "done"
        assert f'filename="{seed}_brain.nii.gz"' in result.headers["content-disposition"]
        image = np.asarray(nifti_of(contents[seed]).dataobj)
        assert np.array_equal(np.asarray(nifti_of(view).dataobj), image)
        labels = np.asarray(nifti_of(result.content).dataobj)
        assert np.array_equal(labels, labels_of(bundles / "brain", contents[seed]))


def test_two_workers_share_the_jobs_and_the_cores(bundles, tmp_path):
    content = image_bytes(3, (30, 300, 30))
    given = (bundles / "brain", "--data", tmp_path / "data", "--device", "cpu", "--workers", 2)
    with command(*given) as server:
        client = server.client
        image = client.upload(("a.nii.gz", content))["id"]
        jobs = [client.submit(image)["id"] for _ in range(2)]
        for job in jobs:
            assert client.wait(job)["status"] == "done"
            found = nifti_of(client.get(f"/jobs/{job}/result").content)
            assert np.array_equal(np.asarray(found.dataobj), labels_of(bundles / "brain", content))
        ended = [client.job(job) for job in jobs]  # side by side: each began before the other ended
        assert max(job["started"] for job in ended) < min(job["finished"] for job in ended)
        assert "transunet_worker_ready 2\n" in client.get("/metrics").text
        server.stop()
    assert "Worker 2 of 2:" in server.said
    assert "GB of main memory" in server.said


def test_a_client_that_leaves_in_the_middle_of_an_upload(server, client):
    host, port = server.address.removeprefix("http://").split(":")
    head = (
        f"POST {API}/images HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 2000000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="files"; filename="a.nii"\r\n\r\n'
    )
    incoming = Path(server.data) / "incoming"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + bytes(500_000))
        until(lambda: largest_in(incoming) > 400_000)
    until(lambda: not list(incoming.iterdir()))
    assert client.segment(("a.nii.gz", image_bytes(1)))["status"] == "done"


def largest_in(folder):
    with suppress(FileNotFoundError):  # an earlier upload is just being removed
        return max((path.stat().st_size for path in folder.rglob("*.nii")), default=0)
    return 0


def test_a_client_that_leaves_its_events(server, client):
    image = client.upload(("long.nii.gz", image_bytes(4, (40, 300, 40))))
    job = client.submit(image["id"])
    for _ in range(3):
        with client.http.stream("GET", f"{API}/jobs/{job['id']}/events") as answer:
            next(answer.iter_text())
    assert client.wait(job["id"])["status"] == "done"


def test_jobs_survive_crash_and_stop(bundles, tmp_path):
    """One long job: its server is killed, the next one is stopped, the third one ends it."""
    bundle, contents = bundles / "brain", (image_bytes(3, (30, 300, 100)), image_bytes(5))
    given = (bundle, "--data", tmp_path / "data", "--device", "cpu", "--batch-size", 1)
    with command(*given) as first:
        client = first.client
        long, short = (
            client.submit(client.upload((f"{number}.nii.gz", content))["id"])
            for number, content in enumerate(contents)
        )
        until(lambda: client.job(long["id"])["slices_done"] > 3)
        children = children_of(first.process.pid)
        assert first.stop(signal.SIGKILL) == -signal.SIGKILL
        assert len(children) >= 2  # worker and reader
        until(lambda: not any(is_alive(child) for child in children))
    with command(*given) as second:
        until(lambda: second.client.job(long["id"])["slices_done"] > 3)
        with second.http.stream("GET", f"{API}/jobs/{long['id']}/events") as answer:
            next(answer.iter_text())
            before = time.monotonic()
            second.process.send_signal(signal.SIGTERM)  # though somebody follows events
            assert second.process.wait(20) == 0
            assert time.monotonic() - before < 15
        second.stop()
        assert "Stopped" in second.said
    with command(*given) as third:
        for job, content in ((long, contents[0]), (short, contents[1])):
            assert third.client.wait(job["id"], 100)["status"] == "done"
            found = nifti_of(third.client.get(f"/jobs/{job['id']}/result").content)
            expected = labels_of(bundle, content, batch_size=1)
            assert np.array_equal(np.asarray(found.dataobj), expected)
        attempts = [third.client.job(job["id"])["attempts"] for job in (long, short)]
        assert attempts == [2, 1]  # the stop does not count
        third.process.send_signal(signal.SIGINT)
        assert third.process.wait(20) == 0


def children_of(pid):
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(one) for task in tasks for one in (task / "children").read_text().split()]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_token_is_made_printed_and_asked_for(bundles, tmp_path):
    given = (bundles / "brain", "--data", tmp_path / "data", "--host", "0.0.0.0")
    with command(*given, "--token", "auto", "--device", "cpu") as server:
        (line,) = [line for line in server.said.splitlines() if "Open" in line]
        token = line.partition("#token=")[2].strip()
        assert len(token) > 30
        assert server.client.get("/bundles").status_code == 401
        headers = {"Authorization": f"Bearer {token}", "Host": "any.example"}
        assert server.client.get("/bundles", headers=headers).status_code == 200
        mode = os.stat(tmp_path / "data").st_mode  # noqa: PTH116
        assert mode & 0o077 == 0
        server.stop()
        assert "not encrypted" in server.said


@pytest.mark.parametrize("by", ["variable", "option"])
def test_a_token_that_was_given_is_not_printed(bundles, tmp_path, monkeypatch, by):
    secret = "what-nobody-else-may-read"
    given = (bundles / "brain", "--data", tmp_path / "data", "--device", "cpu")
    if by == "variable":
        monkeypatch.setenv("TRANSUNET_TOKEN", secret)
    with command(*given, *(["--token", secret] if by == "option" else [])) as server:
        headers = {"Authorization": f"Bearer {secret}"}
        assert server.client.get("/bundles", headers=headers).status_code == 200
        server.stop()
    assert secret not in server.said
    assert "Loading brain (1 of 1)" in server.said
    assert "Loaded brain in " in server.said


def test_a_bundle_that_cannot_be_loaded_ends_the_server(bundles, tmp_path):
    import shutil

    shutil.copytree(bundles / "brain", tmp_path / "bad")
    (tmp_path / "bad" / "model.safetensors").write_bytes(b"nothing")
    found = transunet("serve", tmp_path / "bad", "--data", tmp_path / "data", "--port", 0)
    assert found.returncode == 1
    assert "model.safetensors" in found.stderr
    assert "Traceback" not in found.stderr
    assert "Open" not in found.stdout


def test_a_port_in_use_is_wrong_use(bundles, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = transunet("serve", bundles / "brain", "--data", tmp_path, "--port", port)
    assert found.returncode == 2
    assert f"port {port}: another program uses it" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"host": "0.0.0.0"}, "needs a token"),
        ({"bundles": ["gone"]}, "There is no bundle"),
        ({"host": "203.0.113.7", "token": "auto"}, "Cannot listen"),
        ({"token": "auto", "token_hours": -1.0}, "above 0"),
        ({"keep": 0.0}, "above 0"),
    ],
)
def test_wrong_use_is_told_before_anything_is_loaded(bundles, tmp_path, given, why):
    from transunet.cli.serve import serve

    wanted = {"bundles": [str(bundles / "brain")], "data": tmp_path, "port": 0, **given}
    with pytest.raises(ConfigError, match=why):
        serve(**wanted)

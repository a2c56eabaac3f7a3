"""Processes that are killed: nothing is lost, nothing is mixed up, and it is said why."""

import os
import signal
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from serving import FakeWorker, fake_server, image_bytes, labels_of, nifti_of, until
from transunet.attention.view import AttentionView
from transunet.bundle.io import from_pretrained
from transunet.data.volume import Volume
from transunet.errors import ConfigError, WeightsError
from transunet.serve.bundles import read_bundles
from transunet.serve.child_process import ChildProcess, process_died
from transunet.serve.jobs.database import JobDatabase, JobRecord, new_id
from transunet.serve.jobs.worker import LoadedBundle
from transunet.serve.server_settings import ServeSettings
from transunet.serve.service import Service

RUN_WORKER = "transunet.serve.jobs.worker:run_worker"
PREDICTOR = {"device": "cpu", "batch_size": 1}


@pytest.fixture(scope="module")
def bundle(bundles) -> Path:
    return bundles / "brain"


@pytest.fixture(scope="module")
def worker(bundle):
    """A real worker, for the tests that kill it."""
    found = ChildProcess(RUN_WORKER, read_bundles([str(bundle)]), PREDICTOR)
    found.start()
    yield found
    found.stop()


def test_attention_is_of_the_network_that_predicts(bundle):
    """One copy serves both where PyTorch computes; the values are those of the plain network."""
    served = read_bundles([str(bundle)])["brain"]
    models = LoadedBundle(served, {"device": "cpu", "engine": "eager"})
    assert models.view.model is models.base.network.module
    plain, config = from_pretrained(bundle)
    image = Volume(np.random.default_rng(0).random((1, 20, 24, 3)), np.eye(4))
    asked = (image, (3, 4, 1), 0, 0)
    expected = AttentionView(plain, config.preprocessing, "cpu").slice_at(*asked).array
    assert np.allclose(models.view.slice_at(*asked).array, expected, atol=1e-5)


@pytest.mark.parametrize(("asked", "size"), [(None, 1), (4, 4)])
def test_slices_go_through_one_by_one_on_a_cpu(bundle, asked, size):
    settings = {"device": "cpu", "engine": "eager", "batch_size": asked}
    models = LoadedBundle(read_bundles([str(bundle)])["brain"], settings)
    counts = []
    image = Volume(np.zeros((1, 20, 24, 9)), np.eye(4))
    models.base(image, lambda done, total: counts.append((done, total)))
    assert counts == [(min(done, 9), 9) for done in range(size, 9 + size, size)]


def worker_of(worker):
    return worker._process.pid


def test_a_killed_worker_loses_no_job(tmp_path, bundle, worker):
    long, short = image_bytes(1, (30, 400, 100)), image_bytes(2)
    with fake_server(tmp_path, bundle, worker=worker) as (client, service):
        # Both at once: on a busy machine the first job could be over before the second upload is.
        images = [
            client.upload((f"{n}.nii.gz", image))["id"] for n, image in enumerate((long, short))
        ]
        first, second = (client.submit(image) for image in images)
        until(lambda: service.queue.progress.get(first["id"], (0, 0))[0] > 3)
        before = worker_of(worker)
        os.kill(before, signal.SIGKILL)
        for job, content in ((first, long), (second, short)):
            assert client.wait(job["id"])["status"] == "done"
            found = nifti_of(client.get(f"/jobs/{job['id']}/result").content)
            expected = labels_of(bundle, content, batch_size=1)
            assert np.array_equal(np.asarray(found.dataobj), expected)
        assert client.job(first["id"])["attempts"] == 2
        assert client.job(second["id"])["attempts"] == 1
        assert worker_of(worker) != before
        assert "transunet_worker_restarts_total 1" in client.get("/metrics").text


def test_a_job_that_kills_the_worker_twice_is_given_up(tmp_path, bundle):
    worker = FakeWorker()
    with fake_server(tmp_path, bundle, worker=worker) as (client, _):
        image = client.upload(("a.nii.gz", image_bytes(0)))["id"]
        bad, good = client.submit(image), client.submit(image)
        for attempt in (1, 2):
            until(lambda n=attempt: len(worker.asked) == n)
            assert worker.asked[-1][0] == bad["id"]  # it keeps its place
            worker.die()
        failed = client.wait(bad["id"])
        assert failed["error"]["code"] == "worker_died"
        assert "memory" in failed["error"]["message"]
        until(lambda: len(worker.asked) == 3)
        assert worker.asked[-1][0] == good["id"]
        assert worker.starts == 2


def test_each_worker_is_at_a_job_of_its_own(tmp_path, bundle):
    """What one of them was at when it died, another takes up; the others go on."""
    workers = first, second = FakeWorker(), FakeWorker()
    with fake_server(tmp_path, bundle, *workers) as (client, service):
        image = client.upload(("a.nii.gz", image_bytes(0)))["id"]
        jobs = [client.submit(image) for _ in range(3)]
        until(lambda: first.asked and second.asked)
        assert {worker.asked[0][0] for worker in workers} == {job["id"] for job in jobs[:2]}
        assert client.job(jobs[2]["id"])["position"] == 1
        first.start = lambda: threading.Event().wait(0.1)  # it does not come back
        lost, kept = first.asked[0][0], second.asked[0]
        first.die()
        until(lambda: client.job(lost)["status"] == "queued")
        assert client.get("/ready").status_code == 200
        assert service.worker is second  # whom attention asks
        assert client.job(kept[0])["status"] == "running"
        for number in range(3):
            until(lambda n=number: len(second.asked) > n)
            second.asked[number][1].set_result({"statistics": [], "slices": 6})
        assert [id_ for id_, *_ in second.asked] == [kept[0], lost, jobs[2]["id"]]
        for job in jobs:
            assert client.wait(job["id"])["status"] == "done"
        assert client.job(lost)["attempts"] == 2
        assert len(first.asked) == 1


def test_a_worker_that_dies_with_nothing_to_do_is_replaced(tmp_path, bundle):
    worker = FakeWorker()
    with fake_server(tmp_path, bundle, worker=worker) as (client, _):
        worker.die()
        until(lambda: client.get("/ready").status_code == 200, 10)
        assert worker.starts == 1


def test_attention_while_the_worker_is_replaced(tmp_path, bundle):
    worker = FakeWorker()
    with fake_server(tmp_path, bundle, worker=worker) as (client, _):
        image = client.upload(("a.nii.gz", image_bytes(0)))["id"]
        worker.ask = lambda *_: _dead()
        asked = {"bundle": "brain", "voxel": [0, 0, 0]}
        answer = client.post(f"/images/{image}/attention", json=asked)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "worker_died")
        assert "retry-after" in answer.headers
        worker.start = lambda: None  # it takes long
        worker.ready = False
        assert client.get("/ready").status_code == 503
        assert client.get("/health").json()["ready"] is False


def _dead():
    from concurrent.futures import Future

    future = Future()
    future.set_exception(process_died())
    return future


def test_a_file_that_kills_its_reader_kills_nothing_else(tmp_path, bundle, monkeypatch):
    from transunet.serve.api import images

    with fake_server(tmp_path, bundle) as (client, service):
        with monkeypatch.context() as patch:
            patch.setattr(images, "inspect", _die)
            answer = client.send(("a.nii.gz", image_bytes(0)))
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unreadable")
        assert "killed" in answer.json()["error"]["message"]
        assert list((service.data / "incoming").iterdir()) == []
        client.upload(("a.nii.gz", image_bytes(0)))


def _die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_restart_takes_up_what_was_left(tmp_path, bundle):
    first = FakeWorker()
    with fake_server(tmp_path, bundle, worker=first) as (client, _):
        image = client.upload(("a.nii.gz", image_bytes(0)))["id"]
        running, waiting = client.submit(image), client.submit(image)
        until(lambda: first.asked)
    second = FakeWorker()
    with fake_server(tmp_path, bundle, worker=second) as (client, _):
        for place, job in enumerate((running, waiting)):
            until(lambda n=place: len(second.asked) > n)
            id_, future, _ = second.asked[place]
            assert id_ == job["id"]
            future.set_result({"statistics": [], "slices": 6})
            assert client.wait(job["id"])["status"] == "done"
        assert client.job(running["id"])["attempts"] == 1  # a graceful stop is no failure


def test_a_server_that_stops_while_a_job_is_handed_over(tmp_path, bundle):
    stopped, asking = threading.Event(), threading.Event()

    class LateWorker(FakeWorker):
        def ask(self, *given):
            asking.set()
            stopped.wait(10)
            return super().ask(*given)

        def stop(self):
            super().stop()
            stopped.set()

    with fake_server(tmp_path, bundle, worker=LateWorker()) as (client, service):
        job = client.submit(client.upload(("a.nii.gz", image_bytes(0)))["id"])
        assert asking.wait(10)
        # In a thread of its own: a server that does not stop would keep the tests for ever.
        ending = threading.Thread(target=service.queue.stop, daemon=True)
        ending.start()
        ending.join(20)
        assert not ending.is_alive()
    with fake_server(tmp_path, bundle, worker=FakeWorker()) as (client, _):
        assert client.job(job["id"])["attempts"] == 1  # the first did not count


def test_a_job_that_two_crashes_cut_off_is_given_up(tmp_path, bundle):
    """As after SIGKILL or a power cut: records say `running`, and nobody is at it."""
    with fake_server(tmp_path, bundle, worker=FakeWorker()) as (client, service):
        image = client.upload(("a.nii.gz", image_bytes(0)))["id"]
    store = JobDatabase(tmp_path)
    once, twice = (
        JobRecord(new_id(), image, "brain", {}, 1.0, "running", attempts) for attempts in (1, 2)
    )
    store.save(once, twice)
    store.close()
    (tmp_path / "jobs" / ("f" * 32)).mkdir(parents=True)  # a job that was deleted meanwhile
    (tmp_path / "incoming" / "half").mkdir()
    worker = FakeWorker()
    with fake_server(tmp_path, bundle, worker=worker) as (client, service):
        until(lambda: worker.asked)
        assert worker.asked[0][0] == once.id
        assert client.job(twice.id)["error"]["code"] == "worker_died"
        assert list((service.data / "incoming").iterdir()) == []
        assert list((service.data / "jobs").iterdir()) == []


def test_a_job_of_a_bundle_that_is_not_served_any_more(tmp_path, bundle, bundles, worker):
    with fake_server(tmp_path, bundles / "pair") as (client, _):
        image = client.upload(("a.nii.gz", image_bytes(0)), ("b.nii.gz", image_bytes(1)))["id"]
        job = client.submit(image, "pair")
    if not worker.ready:
        worker.start()
    with fake_server(tmp_path, bundle, worker=worker) as (client, _):
        failed = client.wait(job["id"])
        assert failed["error"]["code"] == "not_found"
        assert "pair is not served any more" in failed["error"]["message"]


class SlowWorker(FakeWorker):
    """A worker that is still loading."""

    def __init__(self):
        super().__init__()
        self.ready, self.loading = False, "1 of 2"
        self.may_load = threading.Event()

    def start(self, note=print):
        assert self.may_load.wait(20)
        super().start()

    def stop(self):
        self.may_load.set()
        super().stop()


def test_the_server_answers_while_its_bundles_are_loaded(tmp_path, bundle):
    worker = SlowWorker()
    with fake_server(tmp_path, bundle, worker=worker) as (client, _):
        health = client.get("/health").json()
        assert (health["ready"], health["loading"]) == (False, "1 of 2")
        refused = client.get("/ready")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
        assert "1 of 2" in refused.json()["error"]["message"]
        job = client.submit(client.upload(("a.nii.gz", image_bytes(0)))["id"])
        assert client.job(job["id"])["status"] == "queued"
        worker.may_load.set()
        until(lambda: client.get("/ready").status_code == 200)
        until(lambda: client.job(job["id"])["status"] == "running")
        assert client.get("/health").json()["loading"] is None


def test_a_server_can_be_stopped_while_its_bundles_are_loaded(tmp_path, bundle):
    with fake_server(tmp_path, bundle, worker=SlowWorker()) as (client, service):
        assert client.get("/ready").status_code == 503
    assert service.failure is None


def test_records_of_an_earlier_version_are_taken_over(tmp_path, bundle):
    with fake_server(tmp_path, bundle) as (client, _):
        job = client.submit(client.upload(("a.nii.gz", image_bytes(0)))["id"])
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite3")) as records:
        records.executescript(
            "ALTER TABLE jobs DROP COLUMN warnings; ALTER TABLE jobs DROP COLUMN batch;"
            "DROP TABLE label_maps; PRAGMA user_version = 1;"
        )
    with fake_server(tmp_path, bundle) as (client, _):
        assert client.job(job["id"])["warnings"] == []


def test_two_servers_do_not_share_a_folder(tmp_path, bundle):
    settings = ServeSettings(tmp_path)
    service = Service([str(bundle)], settings, FakeWorker())
    with pytest.raises(ConfigError, match="Another server"):
        Service([str(bundle)], settings, FakeWorker())
    service.close()
    Service([str(bundle)], settings, FakeWorker()).close()


def test_records_of_another_kind(tmp_path, bundle):
    (tmp_path / "jobs.sqlite3").write_bytes(b"no database" * 100)
    with pytest.raises(ConfigError, match="cannot be opened"):
        Service([str(bundle)], ServeSettings(tmp_path), FakeWorker())


def test_bundles_are_told_apart(tmp_path, bundles):
    import shutil

    for run in ("liver", "Spleen 2"):
        shutil.copytree(bundles / "brain", tmp_path / run / "best")
    found = read_bundles([str(tmp_path / run / "best") for run in ("liver", "Spleen 2")])
    assert [served.name for served in found.values()] == ["liver (best)", "Spleen 2 (best)"]
    assert list(found) == ["liver-best", "spleen-2-best"]
    shutil.copytree(bundles / "brain", tmp_path / "other" / "liver-best")
    more = [str(tmp_path / "liver" / "best"), str(tmp_path / "other" / "liver-best")]
    assert list(read_bundles(more)) == ["liver-best", "liver-best-2"]
    with pytest.raises(ConfigError, match="twice"):
        read_bundles([more[0], more[0]])


def test_a_bundle_with_damaged_weights_is_told_at_the_start(tmp_path, bundle):
    import shutil

    shutil.copytree(bundle, tmp_path / "bad")
    (tmp_path / "bad" / "model.safetensors").write_bytes(b"nothing")
    worker = ChildProcess(RUN_WORKER, read_bundles([str(tmp_path / "bad")]), PREDICTOR)
    with pytest.raises((WeightsError, ConfigError), match=r"model\.safetensors") as caught:
        worker.start()
    assert str(tmp_path) in str(caught.value)

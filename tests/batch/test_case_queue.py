"""Processes that share one output folder: no case lost, none done twice, a killed one survived."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import forks
from prediction import COMMAND, noise, save_nifti, tiny_bundle

pytestmark = pytest.mark.process

CASES = 6
Start = Callable[[float], forks.Process]
# A network without torch, so that a process starts in a moment.
WORKER = """
import sys, time
from pathlib import Path
import numpy as np
from transunet.data.preprocessing import Preprocessing
from transunet.data.inputs import find_inputs
from transunet.inference.predictor import Predictor
from transunet.batch.run import predict_cases

class Threshold:
    image_size, device, fingerprint = (16, 16), "cpu", "threshold"

    def __call__(self, images):
        return np.concatenate([images, -images], axis=1)

def watch(name):
    with open(log, "a") as file:
        file.write(f"begin {name}\\n")
    time.sleep(float(pause))

images, out, log, pause = sys.argv[1:]
predictor = Predictor(Threshold(), Preprocessing(), {0: "background", 1: "dark"})
outcomes = predict_cases(predictor, find_inputs([Path(images)], 1), Path(out), on_case_start=watch)
with open(log, "a") as file:
    file.writelines(f"{o.status} {o.case}\\n" for o in outcomes)
sys.exit(any(o.status == "failed" for o in outcomes))
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    for index in range(CASES):
        save_nifti(tmp_path / "in" / f"p{index}.nii.gz", noise(seed=index))
    return tmp_path


@pytest.fixture
def start(work: Path) -> Iterator[Start]:
    """Start a worker that waits some seconds in every case; none outlives the test."""
    started: list[forks.Process] = []

    def begin(pause: float) -> forks.Process:
        started.append(_start(work, pause))
        return started[-1]

    yield begin
    for worker in started:
        worker.kill()
        worker.wait()


def _start(work: Path, pause: float) -> forks.Process:
    return forks.Process(WORKER, *(work / name for name in ("in", "out", "log")), pause)


def log(work: Path) -> Counter[str]:
    return (
        Counter((work / "log").read_text().splitlines()) if (work / "log").exists() else Counter()
    )


def wait_for(work: Path, line: str) -> None:
    deadline = time.monotonic() + 300
    while not any(found.startswith(line) for found in log(work)):
        assert time.monotonic() < deadline, f"no {line!r} in {log(work)}"
        time.sleep(0.02)


def all_done(work: Path) -> bool:
    records = [json.loads(path.read_text()) for path in (work / "out" / "cases").glob("*.json")]
    maps = list((work / "out").glob("p*.nii.gz"))
    return len(maps) == CASES and [r["status"] for r in records] == ["done"] * CASES


def test_two_processes_do_every_case_once(work: Path, start: Start) -> None:
    workers = [start(0.2) for _ in range(2)]
    for worker in workers:
        assert worker.wait(300) == 0
    told = log(work)
    assert all(told[f"begin p{index}"] == 1 for index in range(CASES))
    assert all(told[f"done p{index}"] == 1 for index in range(CASES))
    assert sum(told[f"elsewhere p{index}"] for index in range(CASES)) <= CASES
    assert all_done(work)


def test_the_cases_of_a_killed_process_are_done_by_another(work: Path, start: Start) -> None:
    killed = start(60)  # it will never finish the case that it begins
    wait_for(work, "begin")
    (begun,) = log(work)
    other = start(0)
    wait_for_cases(work, CASES - 2)  # all but what the first computes and has read ahead
    assert other.poll() is None  # it waits for them
    killed.kill()
    killed.wait()
    assert other.wait(300) == 0
    told = log(work)
    assert told[begun] == 2
    assert all(told[f"begin p{index}"] == 1 for index in range(CASES) if f"p{index}" not in begun)
    assert sum(told[f"done p{index}"] for index in range(CASES)) == CASES
    assert all_done(work)


def wait_for_cases(work: Path, count: int) -> None:
    deadline = time.monotonic() + 300
    while len(list((work / "out").glob("p*.nii.gz"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_case_that_fails_is_tried_by_one_and_told_by_all(work: Path, start: Start) -> None:
    (work / "in" / "p3.nii.gz").write_bytes(b"not an image")
    workers = [start(0.2) for _ in range(2)]
    assert [worker.wait(300) for worker in workers] == [1, 1]
    told = log(work)
    assert told["failed p3"] == 2
    assert told["begin p3"] == 0
    assert sum(told[f"done p{index}"] for index in range(CASES)) == CASES - 1


@pytest.mark.slow
def test_torchrun_shares_the_cases(work: Path) -> None:
    tiny_bundle(work / "bundle")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--standalone", "-m", "transunet", "predict", str(work / "bundle")]
    command += [str(work / "in"), "-o", str(work / "out"), "--device", "cpu"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert all_done(work)
    told = [line for line in ended.stdout.splitlines() if "label map" in line]
    assert sum(int(line.split()[0]) for line in told) == CASES


def test_sigterm_ends_as_ctrl_c_does(work: Path) -> None:
    for index in range(CASES, 40):
        save_nifti(work / "in" / f"p{index}.nii.gz", noise(seed=index))
    tiny_bundle(work / "bundle")
    command = ["predict", work / "bundle", work / "in", "-o", work / "out", "--device", "cpu"]
    running = forks.Process(COMMAND, *command, "--mirror")
    wait_for_cases(work, 1)
    running.send_signal(signal.SIGTERM)
    told, _ = running.communicate()
    assert running.returncode == 130, told
    assert "Give the same command again" in told
    assert "Traceback" not in told
    assert not list((work / "out").rglob(".partial-*"))

"""Runs that are killed without a warning, in processes of their own."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training_runs import same, steps, weights

# Replaces torch.save in the checkpoint's module by one that dies in the middle, the n-th time.
DIES_WHILE_SAVING = """
import io, os, signal, sys
import torch
from transunet.cli.main import main
from transunet.training import checkpoint

real, left = torch.save, [int(sys.argv.pop(1))]

def save(contents, file):
    left[0] -= 1
    whole = io.BytesIO()
    real(contents, whole)
    if left[0] == 0:
        file.write(whole.getvalue()[: whole.tell() // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    file.write(whole.getvalue())

checkpoint.torch.save = save
main()
"""

STEPS = 12
FULL = {
    "iterations": STEPS,
    "ema": 0.9,
    "deep_supervision": [0.5],
    "dropout": 0.1,
    "foreground": 0.5,
    "checkpoint_minutes": 0,
}
SETTINGS = [
    *("--model", "testing", "--image-size", "32", "--batch-size", "3"),
    *("--set", "validations=2", "--iterations", str(STEPS), "--set", "ema=0.9"),
    *("--set", "deep_supervision=[0.5]", "--set", "dropout=0.1", "--set", "foreground=0.5"),
    *("--set", "checkpoint_minutes=0", "--device", "cpu"),
]


def launch(*arguments: object, code: str | None = None) -> subprocess.Popen[str]:
    start = ["-c", code] if code else ["-m", "transunet"]
    return subprocess.Popen(
        [sys.executable, *start, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=120)
    return output


def steps_logged(folder: Path) -> int:
    log = folder / "log.jsonl"
    return log.read_text().count('"event": "train"') if log.exists() else 0


def wait_for_step(process: subprocess.Popen[str], folder: Path, step: int) -> None:
    while steps_logged(folder) < step and process.poll() is None:
        time.sleep(0.005)


@pytest.fixture
def uninterrupted(job, tmp_path):
    steps(job(folder="whole", **FULL))
    return weights(tmp_path / "whole")


def test_killed_at_random_steps_it_ends_as_if_nothing_had_happened(uninterrupted, store, tmp_path):
    folder, chance = tmp_path / "killed", random.Random()
    at = sorted(chance.sample(range(1, STEPS), 2))
    print("killed at", at)  # shown when this fails
    process = launch("train", store, "-o", folder, *SETTINGS, "--workers", "1")
    for step in at:
        wait_for_step(process, folder, step)
        process.send_signal(signal.SIGKILL)
        finish(process)
        assert process.returncode == -signal.SIGKILL
        process = launch("train", "--resume", folder, "--device", "cpu", "--workers", "0")
    output = finish(process)
    assert process.returncode == 0, output
    assert re.search(r"going on after step \d", output)
    assert same(weights(folder), uninterrupted)
    assert steps_logged(folder) == STEPS
    assert not list(folder.rglob(".partial-*"))


@pytest.mark.parametrize("which", [1, 4])
def test_killed_in_the_middle_of_a_checkpoint_it_goes_on(uninterrupted, store, tmp_path, which):
    folder = tmp_path / "killed"
    process = launch(
        which, "train", store, "-o", folder, *SETTINGS, "--workers", "0", code=DIES_WHILE_SAVING
    )
    finish(process)
    assert process.returncode == -signal.SIGKILL
    assert list(folder.rglob(".partial-*"))  # half a checkpoint
    assert (folder / "checkpoint.pt").exists() == (which > 1)
    process = launch("train", "--resume", folder, "--device", "cpu", "--workers", "0")
    output = finish(process)
    assert process.returncode == 0, output
    assert same(weights(folder), uninterrupted)
    assert not list(folder.rglob(".partial-*"))


def test_ctrl_c_saves_and_says_how_to_go_on(store, tmp_path):
    folder = tmp_path / "run"
    process = launch("train", store, "-o", folder, *SETTINGS, "--workers", "1")
    wait_for_step(process, folder, 2)
    os.killpg(process.pid, signal.SIGINT)  # a terminal tells every process, workers too
    output = finish(process)
    assert process.returncode == 130, output
    assert f"Go on with: transunet train --resume {folder}" in output
    assert "Traceback" not in output
    assert (folder / "checkpoint.pt").is_file()

"""Runs that are killed without a warning, in processes of their own."""

import os
import random
import re
import signal

import pytest

from training_runs import (
    SETTINGS,
    STEPS,
    finish,
    launch,
    same,
    steps,
    steps_logged,
    wait_for_step,
    weights,
)

pytestmark = [pytest.mark.process, pytest.mark.slow]

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

FULL = {
    "iterations": STEPS,
    "ema": 0.9,
    "deep_supervision": [0.5],
    "dropout": 0.1,
    "foreground": 0.5,
    "checkpoint_minutes": 0,
}


@pytest.fixture
def uninterrupted(job, tmp_path, ended={}):  # noqa: B006 - trained once
    if not ended:
        steps(job(folder="whole", **FULL))
        ended |= weights(tmp_path / "whole")
    return ended


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

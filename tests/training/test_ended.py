"""However training ends, its data workers end with it, in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training_runs import SETTINGS, finish, launch, steps_logged, wait_for_step

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc"),
]

# Raises in the loop, at the third step, what no part of the program expects.
FAILS_IN_A_STEP = """
from transunet.cli.main import main
from transunet.training import loop
real, calls = loop.train_step, []
def step(*arguments, **options):
    calls.append(1)
    if len(calls) == 3:
        raise {error}
    return real(*arguments, **options)
loop.train_step = step
main()
"""
# Raises where the loop is used: nobody closes the generator, and the traceback keeps it.
FAILS_OUTSIDE = """
import sys
from pathlib import Path
from transunet.training.loop import Stepped, train
from transunet.training.recipe import load_recipe
from transunet.training.runs import start
recipe = load_recipe("paper", dict(model="testing", image_size=32, batch_size=3))
job = start(Path(sys.argv[2]), Path(sys.argv[1]), recipe, device="cpu", workers=2)
events = train(job)
for event in events:
    if isinstance(event, Stepped) and event.step == 2:
        raise {error}
"""


def alive(group: int) -> list[int]:
    """Return the processes of a group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of_group) == group and state not in "ZX":
            found.append(int(stat.parent.name))
    return found


def all_ended(group: int, seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while alive(group) and time.monotonic() < until:
        time.sleep(0.1)
    return not alive(group)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (FAILS_IN_A_STEP, "ValueError('odd')"),
        pytest.param(FAILS_IN_A_STEP, "MemoryError()", marks=pytest.mark.exhaustive),
        pytest.param(FAILS_OUTSIDE, "ValueError('odd')", marks=pytest.mark.exhaustive),
        (FAILS_OUTSIDE, "SystemExit(1)"),
    ],
)
def test_whatever_is_raised_the_process_ends(store, tmp_path, code, error):
    arguments = (
        ("train", store, "-o", tmp_path / "run", *SETTINGS, "--workers", "2")
        if code is FAILS_IN_A_STEP
        else (store, tmp_path / "run")
    )
    process = launch(*arguments, code=code.format(error=error))
    output = finish(process)
    assert process.returncode == 1, output
    assert all_ended(process.pid, 1)


LONG = ["--iterations", "5000", "--device", "cpu"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_a_parent_that_is_stopped(store, tmp_path, how):
    folder = tmp_path / "run"
    process = launch("train", store, "-o", folder, *SETTINGS[:-4], *LONG, "--workers", "2")
    wait_for_step(process, folder, 2)
    assert len(alive(process.pid)) >= 3
    process.send_signal(how)
    if how == signal.SIGINT:
        process.send_signal(how)  # twice: at once, without saving
    output = finish(process)
    assert process.returncode in {-signal.SIGKILL, 143, 130}, output
    assert all_ended(process.pid)


@pytest.mark.exhaustive  # five processes that import torch
def test_the_processes_of_torchrun_end(store, tmp_path):
    script = tmp_path / "fails.py"
    script.write_text(FAILS_IN_A_STEP.format(error="ValueError('odd')"))
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", str(script)),
            *("train", str(store), "-o", str(tmp_path / "run"), *SETTINGS),
            *("--batch-size", "4", "--workers", "1"),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    output = finish(process)
    assert process.returncode == 1, output
    assert "ValueError: odd" in output
    assert steps_logged(tmp_path / "run") == 2
    assert all_ended(process.pid, 5)

"""Two processes that share every batch, against one that has it alone."""

from pathlib import Path

import pytest
import torch

import forks
from training_runs import COMMAND, same, steps, weights
from transunet.training.log import read_log

pytestmark = [pytest.mark.process, pytest.mark.slow]

# Shared statistics and sums are added up in another order than alone: rounding, which training then
# amplifies. After six steps, tensors have been seen to differ by 5e-6 of their largest value.
TOLERANCE = 1e-4

CHANGES = {"iterations": 6, "dropout": 0.0, "batch_size": 6, "validations": 2}
SETTINGS = [
    *("--model", "testing", "--image-size", "32", "--batch-size", "6", "--iterations", "6"),
    *("--set", "dropout=0.0", "--set", "validations=2", "--set", "deep_supervision=[0.5]"),
    *("--set", "ema=0.9", "--set", "accumulate=2", "--set", "checkpoint_minutes=0"),
    *("--device", "cpu", "--workers", "0"),
]

# The second process dies after the third step, the first time that it is started.
DIES_ONCE = """
import os, signal
from transunet.training import loop

real, done = loop.train_step, [0]

def train_step(*arguments, **options):
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        done[0] += 1
        if done[0] == 4:
            os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)

loop.train_step = train_step
"""

# What torchrun does with a command it does here with a function, so that its processes are forks.
TORCHRUN = """
import sys
from transunet.cli.main import main
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

restarts, change = int(sys.argv.pop(1)), sys.argv.pop(1)

def work():
    exec(change, globals())
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise

settings = LaunchConfig(
    1, 1, 2, run_id="test", rdzv_backend="c10d", rdzv_endpoint="localhost:0",
    max_restarts=restarts, monitor_interval=0.1, start_method="fork",
)
elastic_launch(settings, work)()
"""


def torchrun(*arguments: object, restarts: int = 0, change: str = "") -> str:
    """Run the command in two processes, each of which begins with `change`; return what it said."""
    process = forks.Process(COMMAND + TORCHRUN, restarts, change, *arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def two(store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of two processes, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    return folder, torchrun("train", store, "-o", folder, *SETTINGS)


def test_two_processes_train_what_one_does(two, job, tmp_path):
    changes = {"deep_supervision": [0.5], "ema": 0.9, "accumulate": 2}
    steps(job(folder="one", **CHANGES, **changes))
    one, both = weights(tmp_path / "one"), weights(two[0])
    assert one.keys() == both.keys()
    for name, expected in one.items():
        scale = expected.abs().max().item() if expected.numel() else 0
        torch.testing.assert_close(
            both[name], expected, rtol=0, atol=TOLERANCE * max(scale, 1e-3), msg=name
        )
    alone, shared = (read_log(folder, "train") for folder in (tmp_path / "one", two[0]))
    assert [e["slices"] for e in shared] == [e["slices"] for e in alone] == [6, 6, 4, 6, 6, 4]
    for here, there in zip(alone, shared, strict=True):
        assert there["loss"] == pytest.approx(here["loss"], rel=1e-4)


def test_only_the_first_process_writes_and_tells(two):
    folder, printed = two
    assert printed.count("best bundle") == 1
    lines = read_log(folder, "train")
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert len(read_log(folder, "validation")) == 2
    assert (folder / "best/model.safetensors").is_file()


def test_a_killed_worker_is_restarted_from_the_last_checkpoint(two, store, tmp_path):
    folder = tmp_path / "run"
    torchrun("train", store, "-o", folder, *SETTINGS, restarts=1, change=DIES_ONCE)
    assert same(weights(folder), weights(two[0]))

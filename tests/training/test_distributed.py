"""Two processes that share every batch, against one that has it alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training_runs import same, steps, weights
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
from transunet.cli.main import main
from transunet.training import loop

real, done = loop.train_step, [0]

def train_step(*arguments):
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        done[0] += 1
        if done[0] == 4:
            os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)

loop.train_step = train_step
main()
"""


def torchrun(*arguments: object, restarts: int = 0, code: str | None = None) -> str:
    script = ["-m", "transunet"]
    if code:
        script = [code]
    result = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "--max-restarts", str(restarts)),
            *script,
            *map(str, arguments),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::FutureWarning"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


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
    script, folder = tmp_path / "script.py", tmp_path / "run"
    script.write_text(DIES_ONCE)
    torchrun("train", store, "-o", folder, *SETTINGS, restarts=1, code=str(script))
    assert same(weights(folder), weights(two[0]))

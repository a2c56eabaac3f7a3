"""Runs whose disk is filled while they train."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from disks import small_disk
from training_runs import SETTINGS, finish, launch, steps_logged, wait_for_step

pytestmark = pytest.mark.process


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 200) as path:
        yield path


def fill(path: Path, leave: int = 0) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - leave))


# It fails at the log; or at the checkpoint, which each step saves, so that fewer steps are enough.
@pytest.mark.parametrize(("left", "iterations"), [(0, 20), (100_000, 10)])
def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(store, disk, left, iterations):
    folder = disk / "run"
    process = launch(
        *("train", store, "-o", folder, *SETTINGS, "--iterations", iterations, "--workers", "1"),
        *("--set", f"checkpoint_minutes={1000 if not left else 0}"),
        # The first validation, before any step, saves.
        *("--set", "validations=2"),
    )
    wait_for_step(process, folder, 5)
    fill(disk / "fill", left)
    output = finish(process)
    assert process.returncode == 1, output
    assert "o space" in output
    assert "unexpected pos" not in output
    assert "Traceback" not in output
    assert f"transunet train --resume {folder}" in output
    (disk / "fill").unlink()
    again = launch("train", "--resume", folder, "--device", "cpu", "--workers", "0")
    output = finish(again)
    assert again.returncode == 0, output
    assert steps_logged(folder) == iterations

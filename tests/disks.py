"""Small disks, full or read-only, where this user may mount them."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[Path]:
    """Have a disk of some megabytes at `path`, or skip the test."""
    path.mkdir()
    if not _mounted("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)):
        pytest.skip("cannot mount a small disk here")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=False)


def make_read_only(path: Path) -> None:
    """Let nothing more be written to a small disk."""
    if not _mounted("-o", "remount,ro", str(path)):
        pytest.skip("cannot mount a disk anew here")


def _mounted(*arguments: str) -> bool:
    command = shutil.which("mount")
    return (
        bool(command)
        and not subprocess.run(
            [str(command), *arguments], capture_output=True, check=False
        ).returncode
    )

"""Benchmarks run seldom and the package moves on beneath them: what they import must be there."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ASK_EACH = """
import runpy, sys
from pathlib import Path

folder = Path(sys.argv[1])
sys.path.insert(0, str(folder))
for path in sorted(folder.glob("*.py")):
    sys.argv = [str(path), "--help"]
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        assert not end.code, path
"""


@pytest.mark.process
@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not beside the tests")
def test_every_benchmark_tells_its_options() -> None:
    asked = [sys.executable, "-c", ASK_EACH, str(BENCHMARKS)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    scripts = [path for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text("utf-8")]
    assert done.stdout.count("usage: ") == len(scripts) > 0  # the others are for them

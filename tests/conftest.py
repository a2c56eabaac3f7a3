"""Settings of the test run."""

import os
import shutil
import sys
import tempfile

# Before torch is imported: waiting threads sleep instead of spinning. On a machine that does other
# work too (or runs a test of several processes), spinning makes training tens of times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# OpenVINO would report that it was imported (see transunet.optional); importorskip imports it.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

# Converted networks and downloads go to a folder of this run, not to the cache of whoever runs it.
_CACHE = tempfile.mkdtemp(prefix="transunet-tests-")
os.environ["TRANSUNET_CACHE"] = _CACHE

pytest_plugins = ["exporting"]  # fixtures that tests of several folders share


def pytest_unconfigure() -> None:
    shutil.rmtree(_CACHE, ignore_errors=True)

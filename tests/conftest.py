"""Settings of the test run."""

import os

# Before torch is imported: waiting threads sleep instead of spinning. On a machine that does other
# work too (or runs a test of several processes), spinning makes training tens of times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

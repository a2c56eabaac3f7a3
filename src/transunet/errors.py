"""Everything this package raises on purpose.

    TransUNetError
    ├── ConfigError     a setting, argument or path that cannot work (exit code 2: wrong use)
    ├── DataError       a file, case or data set that cannot be used (exit code 1: failed work)
    ├── GeometryError   grids, affines or orientations that contradict each other (exit code 1)
    └── WeightsError    a weight file that is missing, damaged or of another variant (exit code 1)

A message says what was found, in which file or case, what was expected, and what to do. The
command line prints it as it is and exits with `exit_code`; a traceback is only ever a bug of ours.
"""


class TransUNetError(Exception):
    """Root of the tree; catch this to catch everything that a user's input can cause."""

    exit_code = 1


class ConfigError(TransUNetError):
    """A setting, argument or path that cannot work."""

    exit_code = 2


class DataError(TransUNetError):
    """A file, case or data set that cannot be used."""


class GeometryError(TransUNetError):
    """Grids, affines or orientations that contradict each other."""


class WeightsError(TransUNetError):
    """A weight file that is missing, damaged or of another variant."""

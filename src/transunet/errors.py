"""Everything this package raises on purpose.

    TransUNetError
    ├── ConfigError     a setting, argument or path that cannot work (exit code 2: wrong use)
    ├── DataError       a file, case or data set that cannot be used (exit code 1: failed work)
    ├── GeometryError   grids, affines or orientations that contradict each other (exit code 1)
    └── WeightsError    a weight file that is missing, damaged or of another variant (exit code 1)

A message says what was found, in which file or case, what was expected, and what to do. The
command line prints it as it is and exits with `exit_code`; a traceback is only ever a bug of ours.

What a library says of its own failure enters a message by `first_line` and its like.
"""

import errno
import os
from pathlib import Path

_NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


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


def is_full_disk(error: BaseException) -> bool:
    """Return whether `error` comes of a full disk or a used-up quota, whatever raised it of that.

    PyTorch and safetensors tell it in words of their own; what they were told themselves is looked
    at too.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _NO_SPACE:
            return True
        if os.strerror(errno.ENOSPC) in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


MACHINE_ERRORS = (TransUNetError, OSError, MemoryError, RuntimeError)
"""What `as_user_error` takes; torch tells of a full GPU with a RuntimeError."""


def as_user_error(error: BaseException, image: Path) -> TransUNetError:
    """Return what a user is told of an error that the machine or the data caused at `image`.

    Raises:
        RuntimeError: `error` itself, where it can only be a mistake of ours.
    """
    if isinstance(error, TransUNetError):
        return error
    if isinstance(error, OSError):
        where = error.filename or image
        return DataError(f"{where}: {error.strerror or error}. Check the file and the disk.")
    if isinstance(error, MemoryError) or "out of memory" in str(error):
        return DataError(
            f"{image}: it does not fit into memory. Give a smaller batch size (--batch-size), "
            "or the device cpu (--device cpu) if it is the GPU's that is full."
        )
    raise error


def first_line(error: BaseException) -> str:
    """Return the first line that says something, or the kind of error."""
    return _lines(error)[0]


def first_sentence(error: BaseException) -> str:
    """Return `first_line` with a full stop."""
    return _ended(first_line(error))


def last_sentence(error: BaseException) -> str:
    """Return the last line that says something, with a full stop: OpenVINO's first say where."""
    return _ended(_lines(error)[-1])


def _lines(error: BaseException) -> list[str]:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines or [type(error).__name__]


def _ended(text: str) -> str:
    return text if text.endswith(".") else f"{text}."

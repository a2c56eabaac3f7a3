"""What the machine can refuse while a case is predicted, in words for who gave the command."""

from pathlib import Path

from transunet.errors import DataError, TransUNetError

FAULTS = (TransUNetError, OSError, MemoryError, RuntimeError)
"""What `in_words` may be given; torch tells of a full GPU with a RuntimeError."""


def in_words(error: BaseException, image: Path) -> TransUNetError:
    """Return what a user is told of a fault; what is not a fault of data or machine is raised.

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

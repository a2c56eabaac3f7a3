"""Cases that failed while others went on: told together at the end, with the exit code."""

from collections.abc import Mapping

from transunet.errors import ConfigError, DataError


def raise_failed(failed: Mapping[str, Exception | None], count: int, done: str) -> None:
    """Raise one error that lists what failed, if anything did.

    Args:
        failed: case -> why.
        count: cases in all.
        done: what could not be done to them, such as "predicted".

    Raises:
        ConfigError: when all of it is wrong use.
        DataError: else.
    """
    if not failed:
        return
    listed = "\n".join(f"  {name}: {error}" for name, error in failed.items())
    wrong_use = all(isinstance(error, ConfigError) for error in failed.values())
    raise (ConfigError if wrong_use else DataError)(
        f"{len(failed)} of {count} cases could not be {done}:\n{listed}"
    )

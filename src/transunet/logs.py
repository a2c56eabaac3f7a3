"""What this package logs, taken up by whoever shows it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def forwarded_logs(emit: Callable[[logging.LogRecord], None]) -> Iterator[None]:
    """Hand `emit` what `transunet` logs, from notes upwards, and nobody else, while this lasts."""
    logger, handler = logging.getLogger("transunet"), logging.Handler()
    handler.emit = emit  # type: ignore[method-assign,assignment]
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates

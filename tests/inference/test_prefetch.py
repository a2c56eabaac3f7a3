"""Threads beside the computing: the same items in the same order, errors, no thread left."""

import threading
import time
from collections.abc import Iterator

import pytest

from transunet.inference.prefetch import ahead, behind


def failing() -> Iterator[int]:
    yield 1
    raise ValueError("the third file is damaged")


def test_items_come_in_order() -> None:
    assert list(ahead(range(20))) == list(range(20))
    assert list(behind(lambda n: n * n, range(20))) == [n * n for n in range(20)]


def test_errors_come_through() -> None:
    for items in (ahead(failing()), behind(lambda n: n, failing())):
        with pytest.raises(ValueError, match="third file"):
            list(items)
    with pytest.raises(ZeroDivisionError):
        list(behind(lambda n: 1 // n, [1, 0, 2]))


def test_the_next_item_is_made_meanwhile() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for n in range(3):
            made.append(n)
            yield n

    taken = ahead(items())
    next(taken)
    deadline = time.monotonic() + 5
    while len(made) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made[:2] == [0, 1]
    taken.close()


def test_leaving_early_leaves_no_thread() -> None:
    before = threading.active_count()
    for n in ahead(iter(range(1000))):
        if n == 3:
            break
    for n in behind(lambda n: n, range(1000)):
        if n == 3:
            break
    import gc

    gc.collect()
    assert threading.active_count() == before

"""Threads beside the computing: the same items in the same order, errors, no thread left."""

import threading
import time
from collections.abc import Iterator

import pytest

from transunet.inference.prefetch import map_in_thread, prefetch


def failing() -> Iterator[int]:
    yield 1
    raise ValueError("the third file is damaged")


def test_items_come_in_order() -> None:
    assert list(prefetch(range(20))) == list(range(20))
    assert list(map_in_thread(lambda n: n * n, range(20))) == [n * n for n in range(20)]


def test_errors_come_through() -> None:
    for items in (prefetch(failing()), map_in_thread(lambda n: n, failing())):
        with pytest.raises(ValueError, match="third file"):
            list(items)
    with pytest.raises(ZeroDivisionError):
        list(map_in_thread(lambda n: 1 // n, [1, 0, 2]))


def test_the_next_item_is_made_meanwhile() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for n in range(3):
            made.append(n)
            yield n

    taken = prefetch(items())
    next(taken)
    deadline = time.monotonic() + 5
    while len(made) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made[:2] == [0, 1]
    taken.close()


def test_leaving_early_leaves_no_thread() -> None:
    before = threading.active_count()
    for n in prefetch(iter(range(1000))):
        if n == 3:
            break
    for n in map_in_thread(lambda n: n, range(1000)):
        if n == 3:
            break
    import gc

    gc.collect()
    assert threading.active_count() == before

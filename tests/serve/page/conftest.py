"""One browser for all tests of the page, a fresh tab for each."""

from collections.abc import Iterator
from typing import Any

import pytest

import browsing


@pytest.fixture(scope="package")  # its event loop would be in the way of later tests
def browser() -> Iterator[Any]:
    with browsing.browser_or_skip() as browser:
        yield browser


@pytest.fixture
def viewer(browser: Any, server: Any) -> Iterator[browsing.Viewer]:
    """A tab that is wide and light; when the test ends, it must have broken no rule."""
    viewer = browsing.Viewer(browser, server.address)
    yield viewer
    viewer.close()

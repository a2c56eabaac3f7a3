"""A cache of its own and a loopback host for every test of the weights."""

import pytest

from weights.loopback import serving


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSUNET_CACHE", str(tmp_path / "cache"))
    for name in ("TRANSUNET_OFFLINE", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def host():
    with serving() as host:
        yield host

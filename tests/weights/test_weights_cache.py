"""Caches that cannot be written to, hold no room, or have no place."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from disks import make_read_only, small_disk
from transunet import cache
from transunet.errors import ConfigError, WeightsError
from transunet.training import fine_tuning
from transunet.training.recipe import load_recipe
from transunet.weights import download
from transunet.weights.catalog import WeightFile, files_for


@pytest.fixture
def file() -> WeightFile:
    return files_for("ViT-B_16", "imagenet21k")[0]


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache on a disk of 1 MB; no network."""
    monkeypatch.setenv("TRANSUNET_OFFLINE", "1")
    with small_disk(tmp_path / "disk", 1) as path:
        monkeypatch.setenv("TRANSUNET_CACHE", str(path))
        yield path


@pytest.mark.process
def test_a_file_that_an_administrator_put_into_a_read_only_cache_is_used(disk, file):
    path = download.cached_path(file)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    make_read_only(disk)
    assert download.fetch(file) == path
    assert not list(path.parent.glob("*.json"))


@pytest.mark.process
def test_a_damaged_file_in_a_read_only_cache_is_said(disk, file):
    path = download.cached_path(file)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    download._remember(file, download.DownloadRecord("0" * 64, 7, "a test"))
    make_read_only(disk)
    with pytest.raises(WeightsError, match=r"changed since .*Remove it, or set .*TRANSUNET_CACHE"):
        download.fetch(file)


@pytest.mark.process
@pytest.mark.parametrize("fill", [True, False])
def test_automatic_weights_are_none_where_the_cache_cannot_take_them(
    disk, fill, monkeypatch, caplog
):
    monkeypatch.delenv("TRANSUNET_OFFLINE")
    if fill:
        (disk / "weights").mkdir()
        monkeypatch.setattr(
            "huggingface_hub.get_hf_file_metadata",
            lambda url, timeout: SimpleNamespace(size=10**7, etag=None),
        )
    else:
        make_read_only(disk)
        monkeypatch.setattr(download, "_download", lambda file, path: pytest.fail("in vain"))
    with caplog.at_level("WARNING", "transunet"):
        assert fine_tuning.with_weights_chosen(load_recipe("paper")).weights == "none"
    assert "cannot be had" in caplog.text
    with pytest.raises(ConfigError, match="TRANSUNET_CACHE"):
        download.fetch(files_for("ViT-B_16", "imagenet21k")[0])


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRANSUNET_CACHE", "HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is taken back

    def unknown(platform: str) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(cache, "_platform_cache", unknown)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_the_cache_is_temporary_which_is_said_once(caplog):
    with caplog.at_level("WARNING", "transunet"):
        folder = cache.cache_folder()
        assert cache.cache_folder() == folder
    assert folder.is_dir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert os.environ["TRANSUNET_CACHE"] == str(folder)  # processes that are started have it too
    assert len(caplog.records) == 1
    assert "no home folder" in caplog.text
    assert "TRANSUNET_CACHE" in caplog.text


@pytest.mark.process
def test_a_home_that_cannot_be_written_to_gives_a_temporary_cache(
    tmp_path, monkeypatch, disk, caplog
):
    monkeypatch.setenv("TRANSUNET_CACHE", "")
    monkeypatch.setattr(cache, "_platform_cache", lambda platform: disk / ".cache")
    assert cache.cache_folder() == disk / ".cache/transunet"
    assert not (disk / ".cache").exists()
    (disk / "kept/transunet").mkdir(parents=True)
    make_read_only(disk)
    assert disk not in cache.cache_folder().parents
    monkeypatch.setenv("TRANSUNET_CACHE", "")
    monkeypatch.setattr(cache, "_platform_cache", lambda platform: disk / "kept")
    assert cache.cache_folder() == disk / "kept/transunet"  # may hold what is needed


def test_a_file_system_without_locks_is_no_hindrance(tmp_path, monkeypatch):
    def unsupported(*_: object, **__: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(cache.FileLock, "acquire", unsupported)
    with cache.cache_lock(tmp_path / "a"):
        pass

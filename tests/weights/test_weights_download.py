"""Downloads: checked, cached; offline and without a network they fail at once."""

import hashlib
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from transunet import cache as caching
from transunet.errors import ConfigError, WeightsError
from transunet.models.transunet2d.network import TransUNet
from transunet.weights.catalog import files_for
from transunet.weights.download import DownloadRecord, cached_path, fetch, is_cached, record_of
from transunet.weights.load import load_weights
from weights.written import seeded_model, small, write_timm

CONTENT = bytes(range(256)) * 4096  # 1 MiB
(HUB,) = files_for("ViT-B_16")
PATH = f"/{HUB.repo}/resolve/main/model.safetensors"


@pytest.fixture
def hub(host, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", host.url)
    host.files[PATH] = CONTENT
    return host


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def test_from_the_hub_then_from_the_cache(hub, cache):
    path = fetch(HUB)
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(cache)
    assert record_of(HUB) == DownloadRecord(sha256(CONTENT), len(CONTENT), "the hub")
    asked = len(hub.requests)
    assert fetch(HUB) == path
    assert len(hub.requests) == asked  # not even asked again


def test_many_at_once_download_once(hub):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(fetch, [HUB] * 4))
    assert {path.read_bytes() == CONTENT for path in paths} == {True}
    assert len(hub.gets()) == 1


def test_a_broken_transfer_is_taken_up_at_once(hub):
    hub.cuts = [300_000, 300_000]
    assert fetch(HUB).read_bytes() == CONTENT
    assert len(hub.gets()) == 3


def test_a_download_that_breaks_off_leaves_nothing_and_begins_again(hub):
    hub.cuts = [300_000, *[0] * 20]
    with pytest.raises(WeightsError, match=r"does not give the file .*do the same again"):
        fetch(HUB)
    assert not is_cached(HUB)
    assert nothing_kept(cached_path(HUB).parent)
    hub.cuts = []
    assert fetch(HUB).read_bytes() == CONTENT


def test_a_server_that_sends_another_size_than_it_declares(hub):
    hub.declared_size = 500_000
    with pytest.raises(WeightsError, match="What to do"):
        fetch(HUB)
    assert nothing_kept(cached_path(HUB).parent)


def test_a_wrong_checksum_is_deleted_and_said(hub):
    hub.declared_sha256 = "ab" * 32
    with pytest.raises(WeightsError, match=rf"its sha256 is {sha256(CONTENT)}, the hub says abab"):
        fetch(HUB)
    folder = cached_path(HUB).parent
    assert [one.name for one in folder.iterdir() if not one.name.endswith(".lock")] == []


def test_the_catalogues_checksum_counts_most(hub):
    with pytest.raises(WeightsError, match="the catalogue says cdcd"):
        fetch(replace(HUB, sha256="cd" * 32))
    assert fetch(replace(HUB, sha256=sha256(CONTENT))).is_file()
    assert record_of(HUB).checksum_from == "the catalogue"


def test_a_cached_file_that_changed_is_moved_aside(hub):
    path = fetch(HUB)
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(WeightsError, match=r"changed since it was downloaded.*\.damaged"):
        fetch(HUB)
    assert path.with_name("model.safetensors.damaged").is_file()
    assert fetch(HUB).read_bytes() == CONTENT


def test_a_file_put_there_by_hand_is_taken_and_remembered(monkeypatch):
    monkeypatch.setenv("TRANSUNET_OFFLINE", "1")
    path = cached_path(HUB)
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert fetch(HUB) == path
    assert record_of(HUB).sha256 == sha256(CONTENT)
    assert "by hand" in record_of(HUB).checksum_from
    path.write_bytes(b"other")
    with pytest.raises(WeightsError, match="changed"):
        fetch(HUB)


@pytest.mark.parametrize("name", ["TRANSUNET_OFFLINE", "HF_HUB_OFFLINE", None])
def test_offline_fails_at_once_with_what_to_do(monkeypatch, host, name):
    monkeypatch.setenv("HF_ENDPOINT", host.url)
    if name:
        monkeypatch.setenv(name, "1")
    start = time.perf_counter()
    with pytest.raises(WeightsError) as caught:
        fetch(HUB, offline=None if name else True)
    assert time.perf_counter() - start < 1
    assert host.requests == []
    for part in (host.url + PATH, str(cached_path(HUB)), 'weights="path/to/model.safetensors"'):
        assert part in str(caught.value)


def test_without_a_network_it_fails_soon_with_the_same_advice(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: refused
    start = time.perf_counter()
    with pytest.raises(WeightsError, match=r"does not give the file \(.*refused.*\)"):
        fetch(HUB)
    assert time.perf_counter() - start < 5


def test_a_server_that_does_not_answer_is_not_waited_for(hub, monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr("transunet.cache.ANSWER_SECONDS", 0.3)
        start = time.perf_counter()
        with pytest.raises(WeightsError, match="What to do"):
            fetch(HUB)
        assert time.perf_counter() - start < 3


PAGE = b"<html>log in</html>"


@pytest.mark.parametrize("content", [PAGE, CONTENT])
def test_what_answers_without_being_the_hub_is_not_believed(host, monkeypatch, content):
    """A proxy that asks for a login answers everything with a page and the status 200."""
    monkeypatch.setenv("HF_ENDPOINT", host.url)
    host.plain, host.files[PATH] = True, content
    with pytest.raises(WeightsError, match=r"(?s)does not give the file.*to do"):
        fetch(HUB)
    assert nothing_kept(cached_path(HUB).parent)


def nothing_kept(folder):
    return [one.name for one in folder.iterdir() if not one.name.endswith(".lock")] == []


def test_a_page_where_the_hub_has_declared_a_file(hub):
    """The hub answers, and what stands before its storage does not let us through."""
    hub.declared_sha256, hub.declared_size = sha256(CONTENT), len(CONTENT)
    hub.files[PATH] = PAGE
    with pytest.raises(WeightsError, match="should be of size 1048576 but has size 19"):
        fetch(HUB)
    assert nothing_kept(cached_path(HUB).parent)
    hub.files[PATH] = CONTENT
    assert fetch(HUB).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_refusal_is_said_with_its_status(hub, status):
    hub.status = status
    with pytest.raises(WeightsError, match=rf"(?s){status}.*What to do"):
        fetch(HUB)


def test_a_cache_that_cannot_be_written_to(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TRANSUNET_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="TRANSUNET_CACHE"):
        fetch(HUB)


def test_too_little_room_is_said_before_the_download(hub, monkeypatch):
    monkeypatch.setattr(
        "transunet.weights.download.shutil.disk_usage", lambda _: type("D", (), {"free": 1000})
    )
    with pytest.raises(ConfigError, match=r"1 MB are needed .* 0 MB are free.*TRANSUNET_CACHE"):
        fetch(HUB)
    assert hub.gets() == []


@pytest.mark.parametrize(
    ("platform", "variable", "value", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", "/x/cache", "/x/cache/transunet"),
        ("darwin", "HOME", "/Users/me", "/Users/me/Library/Caches/transunet"),
        ("win32", "LOCALAPPDATA", "/c/Local", "/c/Local/transunet"),
        ("linux", "TRANSUNET_CACHE", "/y", "/y"),
    ],
)
def test_the_platforms_cache_folder(monkeypatch, platform, variable, value, expected):
    monkeypatch.delenv("TRANSUNET_CACHE")
    monkeypatch.setattr("transunet.cache.sys.platform", platform)
    monkeypatch.setenv(variable, value)
    assert caching.cache_folder().as_posix() == expected


def test_a_damaged_note_is_no_reason_to_fail(hub):
    path = fetch(HUB)
    path.with_name("model.safetensors.json").write_text("{")
    assert fetch(HUB) == path
    note = json.loads(path.with_name("model.safetensors.json").read_text())
    assert note["sha256"] == sha256(CONTENT)


def test_imagenet21k_into_a_model(hub, tmp_path, monkeypatch):
    """The whole way, with a small model that goes by a published name."""
    config = small(hybrid=False, name="ViT-B_16")
    state = seeded_model(config).state_dict()
    hub.files[PATH] = write_timm(tmp_path / "model.safetensors", state).read_bytes()
    model = TransUNet(config)
    load_weights(model, "imagenet21k")
    for name, value in model.state_dict().items():
        if name.startswith("transformer."):
            assert torch.equal(value, state[name]), name
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    load_weights(model, "imagenet21k", offline=True)  # from the cache


def test_two_files_of_the_large_hybrid(hub, tmp_path):
    backbone, blocks = files_for("R50-ViT-L_16")
    base, large = small(), small(hybrid=False, hidden_size=48, num_layers=3)
    for file, config in ((backbone, base), (blocks, large)):
        state = seeded_model(config).state_dict()
        written = write_timm(tmp_path / "model.safetensors", state).read_bytes()
        hub.files[f"/{file.repo}/resolve/main/model.safetensors"] = written
    model = TransUNet(small(hidden_size=48, num_layers=3, name="R50-ViT-L_16"))
    load_weights(model, "imagenet21k")
    name = "transformer.encoder.layer.2.ffn.fc1.weight"
    assert torch.equal(model.state_dict()[name], seeded_model(large).state_dict()[name])

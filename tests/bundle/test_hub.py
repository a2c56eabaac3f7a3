"""Bundles from and to a hub, which here is a server on the loopback or a stand-in."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from transunet.bundle.io import BundleConfig, from_pretrained, push_to_hub, save_pretrained
from transunet.data.preprocessing import Preprocessing
from transunet.errors import ConfigError
from transunet.models.transunet2d.network import TransUNet
from transunet.models.variants import variant
from weights.loopback import serving


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRANSUNET_CACHE", str(tmp_path / "cache"))
    for name in ("TRANSUNET_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def made() -> tuple[TransUNet, BundleConfig]:
    torch.manual_seed(0)
    model = TransUNet(variant("R26-ViT-Ti_16", image_size=32)).eval()
    labels = {0: "background", 1: "liver"}
    preprocessing = Preprocessing()
    return model, BundleConfig(
        architecture=model.config, preprocessing=preprocessing, labels=labels
    )


def test_a_bundle_comes_from_the_hub_and_then_from_the_cache(
    made: tuple[TransUNet, BundleConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, config = made
    folder, x = save_pretrained(model, config, tmp_path / "bundle"), torch.rand(1, 1, 32, 32)
    with serving() as host, torch.inference_mode():
        for name in ("config.json", "model.safetensors"):
            host.files[f"/somebody/liver/resolve/main/{name}"] = (folder / name).read_bytes()
        monkeypatch.setenv("HF_ENDPOINT", host.url)
        found, again = from_pretrained("somebody/liver")
        assert again.labels == config.labels
        assert torch.equal(found(x), model(x))
        with pytest.raises(ConfigError, match=r"somebody/other cannot be had: .*404"):
            from_pretrained("somebody/other")
        monkeypatch.setenv("TRANSUNET_OFFLINE", "1")
        asked = len(host.requests)
        assert from_pretrained("somebody/liver")[1].labels == config.labels
        assert len(host.requests) == asked


def test_no_network_is_told_after_one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", _only_the_cache)
    with pytest.raises(ConfigError, match="Give a local bundle folder"):
        from_pretrained("somebody/liver")


def _only_the_cache(*_: Any, local_files_only: bool, **__: Any) -> str:
    assert local_files_only, "the client's own download tries for half a minute"
    raise huggingface_hub.errors.LocalEntryNotFoundError("nothing cached")


def test_a_bundle_goes_to_the_hub_whole(
    made: tuple[TransUNet, BundleConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, Any] = {}
    there: list[str] = []

    class Api:
        def file_exists(self, repo_id: str, filename: str) -> bool:
            return filename in there

        def create_repo(self, name: str, exist_ok: bool) -> str:
            return f"https://hub/{name}"

        def upload_folder(self, repo_id: str, folder_path: str, ignore_patterns: Any) -> None:
            names = {path.name for path in Path(folder_path).iterdir()}
            sent[repo_id] = sorted(names - set(ignore_patterns or ()))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert push_to_hub(*made, "somebody/liver") == "https://hub/somebody/liver"
    assert sent == {"somebody/liver": ["README.md", "config.json", "model.safetensors"]}
    there.append("README.md")  # and edited there
    push_to_hub(*made, "somebody/liver")
    assert sent == {"somebody/liver": ["config.json", "model.safetensors"]}


def test_pushing_offline_is_refused(
    made: tuple[TransUNet, BundleConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSUNET_OFFLINE", "1")
    with pytest.raises(ConfigError, match="offline mode is on"):
        push_to_hub(*made, "somebody/liver")

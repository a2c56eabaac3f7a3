"""`transunet weights list | download | inspect`, by their own sub-app."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from transunet.cli.weights import app
from transunet.errors import ConfigError, WeightsError
from transunet.models.transunet2d.network import TransUNet
from transunet.models.variants import VARIANTS
from transunet.weights.catalog import files_for
from transunet.weights.download import cached_path
from weights.loopback import serving
from weights.written import write_bundle

(HUB,) = files_for("ViT-B_16")
CONTENT = b"0123456789" * 100


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSUNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TRANSUNET_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def hub(monkeypatch):
    with serving() as host:
        monkeypatch.setenv("HF_ENDPOINT", host.url)
        host.files[f"/{HUB.repo}/resolve/main/model.safetensors"] = CONTENT
        yield host


def run(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def lines(result):
    assert result.exit_code == 0, result.exception
    return result.stdout.splitlines()


@pytest.fixture
def testing_pth(tmp_path):
    """The smallest published configuration, as the reference would save it."""
    path = tmp_path / "testing.pth"
    torch.save(TransUNet(VARIANTS["testing"].replace(num_classes=9)).state_dict(), path)
    return path


@pytest.mark.parametrize("command", [[], ["list"], ["download"], ["inspect"]])
def test_every_help_shows_an_example(command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert f"Example: transunet weights {command[0] if command else 'list'}" in result.stdout


def test_list_shows_every_file_and_where_its_checksum_comes_from(cache, tmp_path):
    text = lines(run("list"))
    (row,) = [one for one in text if "vit_base_patch16_224" in one]
    assert row.split() == (
        f"ViT-B_16 hub: {HUB.repo} ~343 MB Apache-2.0 declared at download no".split()
    )
    assert sum("R50-ViT-L_16" in one for one in text) == 2  # of two files
    assert str(tmp_path / "cache") in text[-1]


def test_list_of_one_source_and_of_none():
    assert lines(run("list", "--source", "imagenet21k")) == lines(run("list"))
    assert isinstance(run("list", "--source", "imagenet1k").exception, ConfigError)


def test_download_then_list(hub):
    result = run("download", "ViT-B_16")
    assert lines(result)[-1].endswith(str(cached_path(HUB)))
    assert cached_path(HUB).read_bytes() == CONTENT
    (row,) = [one for one in lines(run("list")) if "vit_base_patch16_224" in one]
    sha256 = json.loads((cached_path(HUB).parent / "model.safetensors.json").read_text())["sha256"]
    assert f"sha256 {sha256[:12]}, from the hub" in row
    assert row.split()[-1] == "yes"


def test_download_offline_says_what_to_do(hub):
    result = run("download", "ViT-B_16", "--offline")
    assert isinstance(result.exception, WeightsError)
    assert "What to do" in str(result.exception)
    assert hub.requests == []


def test_download_of_an_unknown_variant(hub):
    result = run("download", "ViT-B_16", "ViT-X_16")
    assert isinstance(result.exception, ConfigError)
    assert hub.requests == []  # not even the first one: the command as a whole is wrong


def test_inspect_a_checkpoint(testing_pth):
    text = lines(run("inspect", testing_pth))
    assert text[-1] == "complete: nothing missing, nothing extra"
    shown = {one[:11].strip(): one[12:] for one in text}
    assert shown["format"] == "pth, TransUNet's own names"
    assert shown["variant"] == "testing"
    assert shown["positions"] == "14 x 14, if they fill a square: the file alone does not tell"
    assert shown["image"] == "1 channel, repeated to three, or 3 channels; others are adapted"
    assert shown["decoder"] == "9 classes, n_skip=0"
    state = torch.load(testing_pth, weights_only=True)
    numbers = sum(value.numel() for value in state.values())
    assert shown["entries"] == f"{len(state)}, {numbers:,} numbers"


def test_inspect_a_bundle_tells_what_it_is_good_for(tmp_path):
    config = VARIANTS["testing"].replace(num_classes=3, in_channels=2, image_size=(32, 128))
    write_bundle(tmp_path, config, ["background", "grey", "white"], ["T1", "T2"])
    shown = {one[:11].strip(): one[12:] for one in lines(run("inspect", tmp_path))}
    assert shown["positions"] == "2 x 8"
    assert shown["classes"] == "0 background, 1 grey, 2 white"
    assert shown["image"] == "2 channels: T1, T2"
    assert "complete: nothing missing, nothing extra" in run("inspect", tmp_path).stdout


def test_inspect_tells_what_is_missing_and_extra(testing_pth, tmp_path):
    state = torch.load(testing_pth, weights_only=True)
    del state["decoder.conv_more.1.bias"]
    state["decoder.more"] = torch.zeros(3)
    torch.save(state, tmp_path / "odd.pth")
    text = lines(run("inspect", tmp_path / "odd.pth"))
    assert text[-1] == "incomplete"
    missing = "decoder.conv_more.1.bias: not in the file, the model expects (512,)"
    assert f"missing     {missing}" in text
    assert "extra       decoder.more: the file has (3,), the model has no such entry" in text


def test_inspect_an_encoder_of_no_known_variant(tmp_path):
    path = tmp_path / "tiny.npz"
    np.savez(
        path,
        **{
            "embedding/kernel": np.zeros((16, 16, 3, 8), np.float32),
            "Transformer/posembed_input/pos_embedding": np.zeros((1, 10, 8), np.float32),
            "head/bias": np.zeros(10, np.float32),
        },
    )
    text = "\n".join(lines(run("inspect", path)))
    assert "none of the known ones" in text
    assert "positions   3 x 3" in text
    assert "without use head/bias" in text
    assert "complete" not in text


def test_inspect_what_is_not_there(tmp_path):
    assert isinstance(run("inspect", tmp_path / "no.npz").exception, ConfigError)

"""Damaged and malicious files: one clear message, and nothing is ever unpickled."""

import os
import pickle

import numpy as np
import pytest
import torch

from transunet.errors import WeightsError
from transunet.models.transunet2d.network import TransUNet
from transunet.weights.load import load_weights
from weights.written import seeded_model, small, write_npz, write_pth, write_timm


class Touch:
    """Unpickling this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def model():
    return TransUNet(small())


@pytest.fixture
def state():
    return seeded_model(small()).state_dict()


def test_the_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Touch(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


def test_a_malicious_npz(tmp_path, model, state):
    trap = np.array([Touch(tmp_path / "sprung")], dtype=object)
    path = write_npz(tmp_path / "a.npz", state, 3, **{"embedding/bias": trap})
    with pytest.raises(WeightsError, match=r"a\.npz: .*pickled.* Nothing in it was executed"):
        load_weights(model, path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pth(tmp_path, model, state, zipped):
    path = tmp_path / "a.pth"
    torch.save(
        {**state, "trap": Touch(tmp_path / "sprung")}, path, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(WeightsError, match=r"asks for posix.mkdir\). Nothing in it was executed"):
        load_weights(model, path)
    assert not (tmp_path / "sprung").exists()


def test_a_bare_pickle(tmp_path, model):
    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps(Touch(tmp_path / "sprung")))
    with pytest.raises(WeightsError, match=r"Nothing in it was executed|damaged"):
        load_weights(model, path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("write", ["npz", "timm", "pth", "old"])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.999])
def test_a_truncated_file(tmp_path, model, state, write, share):
    path = tmp_path / "weights"
    if write == "npz":
        path = write_npz(tmp_path / "weights.npz", state, 3)
    elif write == "timm":
        write_timm(path, state)
    elif write == "pth":
        write_pth(path, state)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match=r"weights.*damaged"):
        load_weights(model, path)


def test_a_flipped_byte_in_an_npz(tmp_path, model, state):
    path = write_npz(tmp_path / "a.npz", state, 3)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        load_weights(model, path)


@pytest.mark.parametrize("content", [b"", b"hello, this is no weight file", b"PK\x03\x04nothing"])
def test_no_weight_file_at_all(tmp_path, model, content):
    (tmp_path / "notes.txt").write_bytes(content)
    with pytest.raises(WeightsError, match=r"notes\.txt: .*damaged"):
        load_weights(model, tmp_path / "notes.txt")


def test_checkpoints_that_are_no_state_dict(tmp_path, model, state):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match=r"list\.pth: holds a list, expected a state dict"):
        load_weights(model, tmp_path / "list.pth")
    torch.save({"epoch": 3, "weights": [*state]}, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=r"odd\.pth: .*'epoch', 'weights', which are no tensors"):
        load_weights(model, tmp_path / "odd.pth")
    torch.save({}, tmp_path / "empty.pth")
    with pytest.raises(WeightsError, match="holds no weights at all"):
        load_weights(model, tmp_path / "empty.pth")


def test_an_npz_of_words(tmp_path, model, state):
    path = write_npz(tmp_path / "a.npz", state, 3, **{"embedding/bias": np.array(["one"])})
    with pytest.raises(WeightsError, match=r"'embedding/bias' holds <U3, expected numbers"):
        load_weights(model, path)

"""Checkpoints as trainers write them: the network is found in them, and nothing else is built."""

import argparse
import collections
import datetime
import io
import pathlib
import pickle
import re
import subprocess
import sys
import types
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from transunet.errors import WeightsError
from transunet.models.transunet2d.network import TransUNet
from transunet.weights.content import looks_like
from transunet.weights.load import load_weights
from transunet.weights.renaming import positions
from weights.written import seeded_model, small, write_npz, write_timm

ROOT = Path(__file__).parents[2]
STATE = seeded_model(small()).state_dict()
OTHER = {name: value + 1 if value.is_floating_point() else value for name, value in STATE.items()}


def prefixed(prefix, state=STATE):
    return {prefix + name: value for name, value in state.items()}


def loads(path):
    """Load `path` and make sure that every value is the seeded one."""
    model = TransUNet(small())
    load_weights(model, path)
    for name, value in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, STATE[name]), name


FORMS = {
    "nnU-Net": {
        "network_weights": STATE,
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{}]},
        "grad_scaler_state": None,
        "logging": {"ema_fg_dice": [np.float64(0.5)], "epoch_start_timestamps": [1.5]},
        "_best_ema": np.float32(0.5),
        "current_epoch": 3,
        "init_args": {"device": torch.device("cpu"), "plans": {"spacing": np.array([1.0, 2.0])}},
        "trainer_name": "nnUNetTrainerTransUNet",
        "inference_allowed_mirroring_axes": (0, 1),
    },
    "Lightning": {
        "state_dict": prefixed("net.") | {"criterion.weight": torch.ones(3)},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.8)}},
        "hyper_parameters": {"lr": 0.1},
        "loops": collections.defaultdict(dict, fit={"epoch": 3}),
    },
    "MONAI": {"model": STATE, "optimizer": {"state": {}}, "trainer": {"iteration": 3}},
    "self.network": prefixed("network."),
    "any attribute": {"state_dict": prefixed("segmenter.unet.")},
    "all the wrappers": {"model": prefixed("module._orig_mod.model.net.module.")},
    "numpy": {
        "net": STATE,
        "dice": np.float64(0.8),
        "history": np.arange(3.0),
        "count": np.int64(3),
        "names": np.array(["a", "b"]),
        "objects": np.array([1, "a"], dtype=object),
    },
    "arrays for tensors": {name: value.numpy() for name, value in STATE.items()},
    "settings": {
        "model": STATE,
        "args": argparse.Namespace(lr=0.1, folder=pathlib.PurePosixPath("/data")),
        "config": types.SimpleNamespace(size=64),
        "when": datetime.datetime(2024, 1, 2, 3),
        "path": pathlib.PosixPath("/data/run"),
        "version": torch.torch_version.TorchVersion("2.6.0"),
    },
    "a number beside the tensors": {**STATE, "epoch": 3, "loss_weight": torch.ones(3)},
    "thop's counts of every part": STATE
    | {f"{name}.total_ops": torch.zeros(1) for name in ("transformer", "decoder.conv_more")},
    "an average": {"state_dict": OTHER, "state_dict_ema": STATE},
    "an average within": {"model": OTHER, "ema": {"decay": 0.9, "module": prefixed("module.")}},
    "this project's": {"format": 1, "model": prefixed("model.", OTHER), "average": STATE},
    "an average beside": prefixed("model.", OTHER) | prefixed("ema_model.module."),
    "weights": {"epoch": 3, "weights": STATE},
    "heads of deep supervision": prefixed("model.") | {"heads.0.weight": torch.ones(3, 8, 1, 1)},
    "no counters": {n: v for n, v in STATE.items() if "num_batches" not in n},
    "edited for Windows": {
        re.sub(r"(unit\d+)\.", r"\1/.", re.sub(r"(body\.block\d)\.", r"\1\\.", n)): v
        for n, v in STATE.items()
    },
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 2020"])
@pytest.mark.parametrize("form", FORMS)
def test_every_value_of_a_trainers_checkpoint_is_taken(tmp_path, form, zipped):
    path = tmp_path / "a.pth"
    torch.save(FORMS[form], path, _use_new_zipfile_serialization=zipped)
    loads(path)


def test_wrapped_names_in_safetensors(tmp_path):
    save_file(prefixed("module.net."), tmp_path / "a.safetensors")
    loads(tmp_path / "a.safetensors")


def renamed(path, changes):
    """Write a checkpoint anew with other names of globals in its pickle, as elsewhere made."""
    with zipfile.ZipFile(path) as archive:
        entries = {one.filename: archive.read(one) for one in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            for old, new in changes.items() if name.endswith("data.pkl") else ():
                assert old in content
                content = content.replace(old, new)
            archive.writestr(name, content)


PATH = b"pathlib._local\nPosixPath" if sys.version_info >= (3, 13) else b"pathlib\nPosixPath"


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (PATH, b"pathlib\nWindowsPath"),
        (PATH, b"pathlib._local\nWindowsPath"),
        (PATH, b"pathlib\nPosixPath"),
        (b"numpy._core.multiarray", b"numpy.core.multiarray"),
    ],
)
def test_what_other_systems_and_versions_call_otherwise(tmp_path, here, there):
    path = tmp_path / "a.pth"
    torch.save({"model": STATE, "path": pathlib.PosixPath("C:/run"), "dice": np.float64(1)}, path)
    renamed(path, {here: there})
    loads(path)


def test_lightnings_dictionaries(tmp_path, monkeypatch):
    module = types.ModuleType("lightning_fabric.utilities.data")
    module.AttributeDict = type("AttributeDict", (dict,), {"__module__": module.__name__})
    for name in ("lightning_fabric", "lightning_fabric.utilities", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    settings = module.AttributeDict(lr=0.1, layers=[1, 2])
    torch.save({"state_dict": prefixed("net."), "hyper_parameters": settings}, tmp_path / "a.ckpt")
    loads(tmp_path / "a.ckpt")


def test_losses_and_settings_as_objects(tmp_path):
    """Lightning's `save_hyperparameters` keeps what the module was made with."""
    settings = {"loss": torch.nn.CrossEntropyLoss(torch.ones(3)), "path": pathlib.Path("x")}
    torch.save({"state_dict": prefixed("net."), "hyper_parameters": settings}, tmp_path / "a.ckpt")
    loads(tmp_path / "a.ckpt")


def test_two_networks_of_equal_standing_are_not_chosen_between(tmp_path):
    torch.save({"first": STATE, "second": OTHER}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"several networks: first, second\. Keep the one"):
        loads(tmp_path / "a.pth")


class Trainer:
    """What an owner's code could have pickled along."""

    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state


@pytest.mark.process
def test_a_refusal_names_what_was_asked_for_and_its_script_helps_the_owner(tmp_path):
    path = tmp_path / "it's.pth"
    torch.save({"model": Trainer(STATE), "epoch": 3, "best": np.float64(1)}, path)
    with pytest.raises(WeightsError, match=r"asks for .*Trainer\)\. Nothing in it was") as caught:
        loads(path)
    script = str(caught.value).split("\n", 1)[1]
    program = "\n".join(line[2:] for line in script.splitlines())
    space = f"import sys; sys.path[:0] = {[*sys.path, str(ROOT)]!r}\n"
    subprocess.run([sys.executable, "-c", space + program], cwd=tmp_path, check=True)
    loads(tmp_path / "weights.pth")


def test_what_the_process_has_allowed_itself_stays_allowed(tmp_path):
    torch.save({"model": STATE, "args": argparse.Namespace(lr=1)}, tmp_path / "a.pth")
    before = set(torch.serialization.get_safe_globals())
    with torch.serialization.safe_globals([argparse.Namespace]):
        loads(tmp_path / "a.pth")
        assert argparse.Namespace in torch.serialization.get_safe_globals()
    assert set(torch.serialization.get_safe_globals()) == before


def test_torchscript_and_other_archives_say_what_they_are(tmp_path):
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with pytest.raises(WeightsError, match=r"TorchScript.*torch\.jit\.load\('script\.pt'"):
        loads(tmp_path / "script.pt")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("epoch_149.pth", b"...")
    with pytest.raises(WeightsError, match=r"a zip archive of epoch_149\.pth\. Unpack it"):
        loads(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html><html><title>Virus scan warning</title>", "a web page .*Virus scan"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n", ".*Git LFS"),
        (b'{"error": "Repository not found"}', "JSON .*Repository not found"),
        (b"\x1f\x8b\x08\x00" + bytes(60), ".*gzip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), ".*HDF5"),
        (b'{"erro":{"code": 401}}', "JSON"),
        (b"", "nothing"),
    ],
)
def test_what_lies_in_the_place_of_weights_is_called_by_its_name(tmp_path, content, says):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=f"not a weight file, .*holds {says}.*download it again"):
        loads(tmp_path / "model.safetensors")


@pytest.mark.parametrize("write", ["npz", "timm"])
def test_an_encoder_without_a_class_token(tmp_path, write):
    """timm's `no_embed_class` and `vit_*_gap` models; their embeddings are the grid's alone."""
    positions = "transformer.embeddings.position_embeddings"
    if write == "npz":
        grid = {"Transformer/posembed_input/pos_embedding": STATE[positions].numpy(), "cls": None}
        path = write_npz(tmp_path / "a.npz", STATE, 3, **grid)
    else:
        grid = {"pos_embed": STATE[positions], "cls_token": None}
        path = write_timm(tmp_path / "a.safetensors", STATE, **grid)
    model = TransUNet(small())
    load_weights(model, path)
    assert torch.equal(model.state_dict()[positions], STATE[positions])


@pytest.mark.parametrize(("count", "dropped"), [(197, 1), (196, 0), (393, 1), (392, 0)])
def test_which_embeddings_have_a_class_token(count, dropped):
    """14 x 14 and 14 x 28, with it and without."""
    entries = {"pos_embed": torch.zeros(1, count, 2)} | ({"cls_token": STATE} if dropped else {})
    _, _, change = positions(entries, "pos_embed", "cls_token")
    assert change(entries["pos_embed"]).shape[1] == count - dropped


def test_the_start_of_weights_is_nothing_else(tmp_path):
    for length in (0x227B, 0x88B1F, 0x5B5B, 0x3C3C):  # '{"', gzip's, '[[', '<<'
        assert looks_like(length.to_bytes(8, "little") + b'{"__metadata__":{}') is None


def test_timm_wrapped_as_its_own_trainer_does(tmp_path):
    from safetensors.torch import load_file

    plain = load_file(write_timm(tmp_path / "a.safetensors", STATE))
    wrapped = {"state_dict": prefixed("module.", plain), "args": argparse.Namespace(lr=1)}
    torch.save(wrapped | {"arch": "vit_base_r50_s16_224", "version": 2}, tmp_path / "a.pth.tar")
    model = TransUNet(small())
    load_weights(model, tmp_path / "a.pth.tar")
    for name, value in model.state_dict().items():
        if name.startswith("transformer."):
            assert torch.equal(value, STATE[name]), name


def test_an_archive_written_with_backslashes(tmp_path):
    path = write_npz(tmp_path / "a.npz", STATE, 3)
    with np.load(path) as archive:
        arrays = {name.replace("/", "\\"): archive[name] for name in archive.files}
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(f"{name}.npy", buffer.getvalue())
    model = TransUNet(small())
    load_weights(model, tmp_path / "b.npz")
    name = "transformer.encoder.layer.1.ffn.fc1.weight"
    assert torch.equal(model.state_dict()[name], STATE[name])


def test_pickles_of_builtins_that_act_are_not_among_what_is_allowed(tmp_path):
    for call in (b"cbuiltins\neval\n(V1\ntR.", b"cbuiltins\ngetattr\n(V1\nVreal\ntR."):
        (tmp_path / "a.pth").write_bytes(b"\x80\x02" + call)
        with pytest.raises(WeightsError):
            loads(tmp_path / "a.pth")
    assert pickle.loads(b"\x80\x02cbuiltins\neval\n(V1\ntR.") == 1  # the trap works

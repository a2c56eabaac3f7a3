"""What does not fit is named with both shapes, in plain words, and the model stays as it was."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from transunet.errors import ConfigError, WeightsError
from transunet.models.transunet2d.network import TransUNet
from transunet.models.variants import VARIANTS
from transunet.weights.load import load_weights
from weights.written import seeded_model, small, write_npz, write_pth, write_timm


@pytest.fixture
def config():
    return small()


@pytest.fixture
def model(config):
    return TransUNet(config)


@pytest.fixture
def state(config):
    return seeded_model(config).state_dict()


def refused(model, source, error=WeightsError):
    """Load `source`, which must fail and leave every value of `model` alone; return the message."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(error) as caught:
        load_weights(model, source)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    return str(caught.value)


def test_a_missing_entry(tmp_path, model, state):
    without = {"Transformer/encoderblock_1/MlpBlock_3/Dense_0/bias": None}
    text = refused(model, write_npz(tmp_path / "a.npz", state, 3, **without))
    assert "1 missing" in text
    assert "transformer.encoder.layer.1.ffn.fc1.bias: not in the file" in text
    assert "the model expects (40,)" in text
    assert str(tmp_path / "a.npz") in text


def test_an_extra_entry(tmp_path, model, state):
    path = write_timm(tmp_path / "a.safetensors", state, **{"blocks.0.ls1.gamma": torch.ones(24)})
    text = refused(model, path)
    assert "1 extra" in text
    assert "blocks.0.ls1.gamma: the file has (24,), the model has no such entry" in text


def test_a_misshapen_entry_shows_both_shapes_and_the_files_own_name(tmp_path, model, state):
    path = write_npz(tmp_path / "a.npz", state, 3, **{"embedding/bias": np.zeros(25, np.float32)})
    text = refused(model, path)
    assert "1 misshapen" in text
    assert (
        "transformer.embeddings.patch_embeddings.bias (embedding/bias (25,) in the file): "
        "the file has (25,), the model expects (24,)" in text
    )


@pytest.mark.parametrize(
    ("entry", "shape"),
    [
        ("embedding/kernel", (3, 3)),
        ("Transformer/posembed_input/pos_embedding", (17, 24)),
        ("Transformer/posembed_input/pos_embedding", (1, 12, 24)),
        ("Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel", (2, 3, 4)),
        ("Transformer/encoderblock_0/MultiHeadDotProductAttention_1/out/kernel", (24, 24, 1, 1)),
    ],
)
def test_arrays_of_any_shape_are_reported_not_crashed_on(tmp_path, model, state, entry, shape):
    path = write_npz(tmp_path / "a.npz", state, 3, **{entry: np.zeros(shape, np.float32)})
    assert "misshapen" in refused(model, path)


def test_a_long_list_is_cut(tmp_path, model):
    other = seeded_model(small(hidden_size=48)).state_dict()
    text = refused(model, write_timm(tmp_path / "a.safetensors", other))
    assert len(text.splitlines()) <= 18
    assert re.search(r"\.\.\. and \d+ more misshapen", text)


def test_heads_cut_otherwise_fit_by_shape_but_are_another_function(tmp_path, state):
    model = TransUNet(small(num_heads=4))
    text = refused(model, write_npz(tmp_path / "a.npz", state, heads=3))
    assert "the file has (24, 3, 8), the model expects (24, 4, 6) (size, heads, size per" in text


def test_other_classes_are_said_plainly(tmp_path, model):
    other = seeded_model(small(num_classes=9)).state_dict()
    text = refused(model, write_pth(tmp_path / "a.pth", other))
    assert "for 9 classes, this model has 3: create it with num_classes=9" in text
    assert "the file has (9, 4, 3, 3), the model expects (3, 4, 3, 3)" in text


@pytest.mark.parametrize(("theirs", "ours"), [(3, 0), (0, 3), (1, 2)])
def test_other_skips_are_said_plainly(tmp_path, theirs, ours):
    other = seeded_model(small(n_skip=theirs)).state_dict()
    text = refused(TransUNet(small(n_skip=ours)), write_pth(tmp_path / "a.pth", other))
    assert f"n_skip={theirs}, this model has n_skip={ours}" in text
    assert "classes" not in text


def test_a_checkpoint_of_other_input_channels(tmp_path, state):
    other = seeded_model(small(in_channels=4)).state_dict()
    text = refused(TransUNet(small(in_channels=2)), write_pth(tmp_path / "a.pth", other))
    assert "the file has (32, 4, 7, 7), the model expects (32, 2, 7, 7)" in text


def test_the_wrong_variant_is_called_by_its_name(tmp_path):
    # By shapes alone: reading gigabytes would prove nothing more.
    path = tmp_path / "ViT-B_16.safetensors"
    save_file({k: torch.zeros(()).expand(v).contiguous() for k, v in tiny_b16().items()}, path)
    with pytest.raises(WeightsError) as caught:
        load_weights(on_meta("R50-ViT-B_16"), path)
    assert "This file is ViT-B_16 (timm's ViT names); the model is R50-ViT-B_16." in str(
        caught.value
    )
    assert 'create_model("ViT-B_16")' in str(caught.value)
    with pytest.raises(WeightsError, match=r"published in two files: give both, R50\+ViT-B_16 and"):
        load_weights(on_meta("R50-ViT-L_16"), path)


def on_meta(name):
    with torch.device("meta"):
        return TransUNet(VARIANTS[name])


def tiny_b16():
    """What tells a ViT-B_16 by timm's names: one small array per layer, and the widths."""
    entries = {f"blocks.{i}.norm1.weight": (768,) for i in range(12)}
    return entries | {
        "patch_embed.proj.weight": (768, 3, 16, 16),
        "norm.weight": (768,),
        "blocks.0.mlp.fc1.bias": (3072,),
        "pos_embed": (1, 197, 768),
    }


def test_a_file_of_something_else(tmp_path, model):
    save_file({"conv1.weight": torch.zeros(3, 3)}, tmp_path / "resnet.safetensors")
    text = refused(model, tmp_path / "resnet.safetensors")
    assert "conv1.weight (3, 3)" in text
    assert "transunet weights list" in text


def test_values_that_are_not_finite(tmp_path, model, state):
    state["transformer.encoder.encoder_norm.bias"][3] = float("nan")
    text = refused(model, write_pth(tmp_path / "a.pth", state))
    assert "not finite" in text
    assert "transformer.encoder.encoder_norm.bias" in text


def test_two_files_that_are_no_pair(tmp_path, model, state):
    one = write_npz(tmp_path / "a.npz", state, 3)
    two = write_timm(tmp_path / "b.safetensors", state)
    assert "both of them hold a ResNet backbone" in refused(model, [one, two])
    plain = seeded_model(small(hybrid=False)).state_dict()
    three = write_npz(tmp_path / "c.npz", plain, 3)
    assert "neither of them hold" in refused(model, [three, three])
    assert "one weight file, not two" in refused(
        TransUNet(small(hybrid=False)), [one, three], ConfigError
    )
    assert "one weight file or two, found 3" in refused(model, [one, two, three], ConfigError)


def test_two_files_with_an_entry_missing(tmp_path, model, state):
    one = write_npz(tmp_path / "a.npz", state, 3, **{"gn_root/bias": None})
    plain = seeded_model(small(hybrid=False)).state_dict()
    two = write_npz(tmp_path / "b.npz", plain, 3)
    text = refused(model, [one, two])
    assert "root.gn.bias: not in the file, the model expects (32,)" in text
    assert "This file is" not in text


def test_a_path_that_is_not_there(tmp_path, model):
    text = refused(model, tmp_path / "no.npz", ConfigError)
    assert "no.npz: there is no such file" in text
    text = refused(model, "imagenet21", ConfigError)
    assert "imagenet21k" in text
    text = refused(model, tmp_path, ConfigError)  # a folder that is no bundle
    assert "model.safetensors: there is no such file" in text


def test_nothing_published_for_a_custom_model(model):
    assert "were published for 'custom'" in refused(model, "imagenet21k", ConfigError)

"""The same seeded weights in three formats give the same model; grids and stems are adapted."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import zoom

from transunet.errors import WeightsError
from transunet.models.transunet2d.network import TransUNet
from transunet.weights.fit import adapt_stem
from transunet.weights.load import load_weights
from weights.written import (
    ROWS,
    class_token,
    seeded_model,
    small,
    write_bundle,
    write_npz,
    write_pth,
    write_timm,
)

POSITIONS = "transformer.embeddings.position_embeddings"
KINDS = ["hybrid", "plain"]


@pytest.fixture(params=KINDS)
def config(request):
    return small(hybrid=request.param == "hybrid")


@pytest.fixture
def state(config):
    return seeded_model(config).state_dict()


@pytest.fixture
def files(tmp_path, config, state):
    return {
        "npz": write_npz(tmp_path / "a.npz", state, config.num_heads),
        "timm": write_timm(tmp_path / "b.safetensors", state),
        "pth": write_pth(tmp_path / "c.pth", state),
    }


def fresh(config, **changes):
    torch.manual_seed(11)
    return TransUNet(config.replace(**changes)).eval()


def assert_same(left, right, names=None):
    assert left.keys() == right.keys()
    for name in names or left:
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=0, msg=name)


def test_three_formats_give_the_same_model(config, state, files):
    before = fresh(config).state_dict()
    image = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    logits = {}
    for kind, path in files.items():
        model = fresh(config)
        load_weights(model, path)
        loaded = model.state_dict()
        encoder = [name for name in loaded if name.startswith("transformer.")]
        assert_same(loaded, state, encoder)
        if kind == "pth":
            assert_same(loaded, state)
        else:  # the encoder alone is published: the rest keeps its initialisation
            assert_same(loaded, before, [name for name in loaded if name not in encoder])
            rest = {k: v for k, v in state.items() if k not in encoder}
            model.load_state_dict(rest, strict=False)
        with torch.no_grad():
            logits[kind] = model(image)
    torch.testing.assert_close(logits["npz"], logits["timm"], rtol=0, atol=0)
    torch.testing.assert_close(logits["npz"], logits["pth"], rtol=0, atol=0)
    assert logits["npz"].std() > 1e-3


@pytest.mark.parametrize(
    ("prefix", "under"),
    [("module.", None), ("_orig_mod.", None), ("", "state_dict"), ("module.", "model")],
)
def test_pth_wrapped_as_trainers_do(tmp_path, config, state, prefix, under):
    path = write_pth(tmp_path / "epoch_149.pth", state, prefix, under)
    model = fresh(config)
    load_weights(model, str(path))
    assert_same(model.state_dict(), state)


def test_pth_in_the_format_of_before_2020(tmp_path, config, state):
    path = tmp_path / "old.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    model = fresh(config)
    load_weights(model, path)
    assert_same(model.state_dict(), state)


def test_own_safetensors_and_a_bundle(tmp_path, config, state):
    save_file(state, tmp_path / "model.safetensors")
    for path in (tmp_path / "model.safetensors", tmp_path):
        model = fresh(config)
        load_weights(model, path)
        assert_same(model.state_dict(), state)


def test_content_tells_the_format_not_the_suffix(tmp_path, config, state, files):
    for kind, path in files.items():
        model = fresh(config)
        load_weights(model, path.rename(tmp_path / f"{kind}.weights"))
        assert_same(model.state_dict(), state, [POSITIONS])


def test_values_are_cast_to_the_models_dtype(config, state, files):
    model = fresh(config).double()
    load_weights(model, files["timm"])
    assert model.state_dict()[POSITIONS].dtype == torch.float64


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (128, 128), (48, 96), (96, 16), (16, 16)])
@pytest.mark.parametrize("kind", ["npz", "timm", "pth"])
def test_positions_are_resized_as_scipy_does(config, state, files, kind, size):
    model = fresh(config, image_size=size)
    load_weights(model, files[kind])
    rows, columns = size[0] // 16, size[1] // 16
    grid = state[POSITIONS].numpy().reshape(ROWS, ROWS, -1)
    expected = zoom(grid, (rows / ROWS, columns / ROWS, 1), order=1).reshape(1, rows * columns, -1)
    found = model.state_dict()[POSITIONS].numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_the_class_token_is_dropped_and_not_another(config, state, files):
    with np.load(files["npz"]) as archive:
        held = archive["Transformer/posembed_input/pos_embedding"]
    np.testing.assert_array_equal(held, class_token(state[POSITIONS].numpy()))
    model = fresh(config)
    load_weights(model, files["npz"])
    np.testing.assert_array_equal(model.state_dict()[POSITIONS].numpy(), held[:, 1:])


def test_as_many_tokens_in_another_grid_are_rearranged_unless_they_are_ours(tmp_path, caplog):
    # 2 x 8 has as many tokens as 4 x 4: the reference's are square, ours need not be
    config = small(image_size=(32, 128))
    state = seeded_model(config).state_dict()
    save_file(state, tmp_path / "ours.safetensors")
    model = fresh(config)
    load_weights(model, tmp_path / "ours.safetensors")
    assert_same(model.state_dict(), state)
    assert "taken as 2 x 8 (the model's are 2 x 8)" in caplog.text
    caplog.clear()
    load_weights(model, write_pth(tmp_path / "theirs.pth", state))
    assert not torch.equal(model.state_dict()[POSITIONS], state[POSITIONS])
    assert "taken as 4 x 4 (the model's are 2 x 8)" in caplog.text


@pytest.mark.parametrize("theirs", [(2, 8), (8, 2), (1, 16), (4, 4), (3, 4)])
@pytest.mark.parametrize("ours", [(4, 4), (2, 8), (8, 2), (4, 16), (8, 8)])
def test_a_bundle_tells_its_grid(tmp_path, theirs, ours, caplog):
    """Counts of tokens agree for many grids; the rows and columns are what counts."""
    config = small(image_size=(16 * theirs[0], 16 * theirs[1]))
    bundle, state = write_bundle(tmp_path / "bundle", config)
    expected = zoom(
        state[POSITIONS].numpy().reshape(*theirs, -1),
        (ours[0] / theirs[0], ours[1] / theirs[1], 1),
        order=1,
    ).reshape(1, ours[0] * ours[1], -1)
    for path in (bundle, bundle / "model.safetensors"):
        model = fresh(config, image_size=(16 * ours[0], 16 * ours[1]))
        load_weights(model, path)
        found = model.state_dict()[POSITIONS].numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert not caplog.records


def test_a_checkpoint_alone_is_taken_as_square_and_says_so(tmp_path):
    state = seeded_model(small()).state_dict()
    loaded = load_weights(fresh(small()), write_pth(tmp_path / "a.pth", state))
    assert "4 x 4 (assumed: the file does not tell) kept" in str(loaded)
    bundle, _ = write_bundle(tmp_path / "bundle", small())
    assert "assumed" not in str(load_weights(fresh(small()), bundle))
    oblong = seeded_model(small(image_size=(32, 96))).state_dict()
    with pytest.raises(WeightsError, match=r"12 position embeddings fill no square.*config\.json"):
        load_weights(fresh(small()), write_pth(tmp_path / "b.pth", oblong))


@pytest.mark.parametrize("kind", KINDS)
def test_the_stem_is_adapted_to_other_channels(tmp_path, kind):
    config = small(hybrid=kind == "hybrid")
    state = seeded_model(config).state_dict()
    stem = (
        "transformer.embeddings.hybrid_model.root.conv.weight"
        if config.hybrid
        else "transformer.embeddings.patch_embeddings.weight"
    )
    path = write_npz(tmp_path / "a.npz", state, config.num_heads)
    for channels, turns in ((1, [0, 1, 2]), (2, [0, 1]), (3, [0, 1, 2]), (5, [0, 1, 2, 0, 1])):
        model = fresh(config, in_channels=channels)
        load_weights(model, path)
        expected = state[stem][:, turns] * (3 / len(turns))
        torch.testing.assert_close(model.state_dict()[stem], expected)


def test_the_adapted_stem_answers_as_strongly_as_before():
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(8, 1, 7, 7, generator=generator).expand(8, 3, 7, 7)
    image = torch.rand(1, 1, 32, 32, generator=generator)
    three = torch.nn.functional.conv2d(image.expand(1, 3, 32, 32), weight)
    for channels in (1, 2, 4, 6):
        other = image.expand(1, channels, 32, 32)
        found = torch.nn.functional.conv2d(other, adapt_stem(weight, channels))
        torch.testing.assert_close(found, three, rtol=1e-4, atol=1e-4)


def test_backbone_and_blocks_from_two_files(tmp_path):
    base = small(hidden_size=24)
    large = small(hybrid=False, hidden_size=48, mlp_size=64, num_layers=3)
    backbone, blocks = (seeded_model(one).state_dict() for one in (base, large))
    paths = [
        write_npz(tmp_path / "R50+ViT-B_16.npz", backbone, base.num_heads),
        write_timm(tmp_path / "ViT-L_16.safetensors", blocks),
    ]
    target = small(hidden_size=48, mlp_size=64, num_layers=3)
    for order in (paths, paths[::-1]):
        model = fresh(target)
        load_weights(model, order)
        loaded, untouched = model.state_dict(), fresh(target).state_dict()
        for name, value in loaded.items():
            if ".hybrid_model." in name:
                source = backbone
            elif name.startswith("transformer.") and ".patch_embeddings." not in name:
                source = blocks
            else:  # the patch embedding joins what was trained apart: fresh
                source = untouched
            torch.testing.assert_close(value, source[name], rtol=0, atol=0, msg=name)

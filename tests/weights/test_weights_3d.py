"""Weights of 3D networks: the reference's checkpoints, and for their blocks an image's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from golden_figures import npz_entry
from golden_figures_3d import close_3d, config_3d, facts_3d, seeded_3d, volume_of
from transunet.errors import WeightsError
from transunet.models.families import build
from transunet.models.transunet3d.config import TransUNet3DConfig
from transunet.models.transunet3d.network import TransUNet3D
from transunet.models.variants import variant
from transunet.weights.load import load_weights, network_settings
from transunet.weights.origin import Origin
from transunet.weights.schemes.official3d import positions_in_volume
from transunet.weights.weight_inspection import inspect

IMAGES = "input/1x2x8x32x48"
POSITIONS = "transformer.embeddings.position_embeddings"


def published(folder: Path, tokens: str) -> Path:
    """A small file with the names of Google's."""
    path = folder / "published.npz"
    entries = facts_3d()["npz"][tokens]
    np.savez(path, **{name: npz_entry(name, tuple(shape)) for name, shape in entries.items()})
    return path


@pytest.mark.parametrize("tokens", facts_3d()["npz"])
def test_an_images_transformer_becomes_a_volumes_as_the_references_does(
    tmp_path: Path, tokens: str
) -> None:
    case = facts_3d()["cases"]["encoder"]
    model = seeded_3d(config_3d(case))
    loaded = load_weights(model, published(tmp_path, tokens))
    assert "decoder and head start fresh" in str(loaded)
    name = f"npz_{tokens}"
    close_3d(f"{name}/position_embeddings", model.state_dict()[POSITIONS], 1e-7)
    with torch.inference_mode():
        close_3d(f"{name}/out0", model(volume_of(case | {"batch": 1, "input": IMAGES})))
    if tokens == "197":
        block = "transformer.encoder.layer.{}.attn.{}.weight".format
        close_3d(f"{name}/query_weight0", model.state_dict()[block(0, "query")], 1e-7)
        close_3d(f"{name}/out_weight1", model.state_dict()[block(1, "out")], 1e-7)


def test_positions_follow_the_grids_unless_told_to_do_as_the_reference(tmp_path: Path) -> None:
    case = facts_3d()["cases"]["encoder"]
    model = seeded_3d(config_3d(case, vit={"positions_of_2d": "grid"}))
    before = model.state_dict()["transformer.embeddings.patch_embeddings.weight"].clone()
    loaded = load_weights(model, published(tmp_path, "197"))
    assert "an image's, resized to 2 x 4 x 6" in str(loaded)
    planes = model.state_dict()[POSITIONS].reshape(2, 4, 6, -1)
    assert torch.equal(planes[0], planes[1])
    image = npz_entry("Transformer/posembed_input/pos_embedding", (1, 197, 96))[:, 1:]
    corners = image.reshape(14, 14, 96)[::13, ::13]
    np.testing.assert_allclose(planes[0, ::3, ::5].numpy(), corners, rtol=1e-6)
    after = model.state_dict()["transformer.embeddings.patch_embeddings.weight"]
    assert torch.equal(before, after)  # that of pixels has no use here


def test_positions_of_as_many_tokens_as_an_image_has() -> None:
    positions = torch.arange(17.0)[None, :, None]
    plane = positions_in_volume(positions, (1, 4, 4), None, "grid")
    assert plane.flatten().tolist() == [*range(1, 17)]


def small(**changes: Any) -> TransUNet3DConfig:
    settings = {
        "image_size": (8, 16, 16),
        "poolings": ((1, 2, 2), (2, 2, 2), (2, 2, 2)),
        "kernels": ((1, 3, 3), *((3, 3, 3),) * 3),
        "width": 4,
        "num_classes": 3,
        "vit": {"num_layers": 1, "hidden_size": 24, "mlp_size": 32, "num_heads": 3},
        "queries": {"num_queries": 5, "hidden_size": 96, "mlp_size": 32},
    }
    return TransUNet3DConfig(**{**settings, **changes})


def scaled(how: str) -> dict[str, Any]:
    usual = small()
    return {
        "vit": {**usual.vit.model_dump(), "layer_scale": how},
        "queries": {**usual.queries.model_dump(), "layer_scale": how},
    }


def checkpoint(folder: Path, config: TransUNet3DConfig) -> tuple[Path, TransUNet3D]:
    """What nnU-Net v1 writes while it trains on several devices."""
    model = build(config)
    path = folder / "model_best.model"
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1).state_dict()
    torch.save(
        {
            "epoch": 125,
            "state_dict": state,
            "optimizer_state_dict": optimizer,
            "plot_stuff": ([1.0], [np.float64(2.0)]),
            "best_stuff": (0.5, 0.5),
        },
        path,
    )
    return path, model


@pytest.mark.parametrize("parts", [{}, {"vit": None}, {"queries": None}, scaled("reference")])
def test_a_checkpoint_of_the_reference_loads(tmp_path: Path, parts: dict[str, Any]) -> None:
    path, theirs = checkpoint(tmp_path, small(**parts))
    model = build(small(**parts))
    loaded = load_weights(model, path)
    assert loaded.entries == loaded.of == len(theirs.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name])


def test_a_checkpoint_of_nnunet_v2_loads(tmp_path: Path) -> None:
    """The reference's network, trained by that version's trainer."""
    theirs, model = build(small()), build(small())
    state = {f"_orig_mod.{name}": value for name, value in theirs.state_dict().items()}
    checkpoint = {
        "network_weights": state,
        "optimizer_state": torch.optim.SGD(theirs.parameters(), 0.1).state_dict(),
        "grad_scaler_state": None,
        "logging": {"ema_fg_dice": [np.float64(0.5)]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": {"configuration": "3d_fullres", "device": torch.device("cuda"), "fold": 0},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(checkpoint, tmp_path / "checkpoint_final.pth")
    loaded = load_weights(model, tmp_path / "checkpoint_final.pth")
    assert loaded.entries == loaded.of == len(state)
    assert all(torch.equal(v, model.state_dict()[n]) for n, v in theirs.state_dict().items())


def test_a_checkpoint_whose_layer_scale_means_another_thing_is_refused(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, small(**scaled("reference")))
    model = build(small(**scaled("branch")))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"vit=\{\.\.\., 'layer_scale': 'reference'\}"):
        load_weights(model, path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_of_other_parts_is_refused_by_name(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, small(queries=None))
    with pytest.raises(WeightsError, match="81 missing"):
        load_weights(build(small()), path)
    other, _ = checkpoint(tmp_path, small(width=8))
    with pytest.raises(WeightsError, match=r"the file has \(8, 1, 1, 3, 3\), the model expects"):
        load_weights(build(small()), other)


@pytest.mark.parametrize("parts", [{}, {"deep_supervision": False}, {"queries": None}])
def test_other_classes_keep_all_but_the_heads(tmp_path: Path, parts: dict[str, Any]) -> None:
    path, theirs = checkpoint(tmp_path, small(**parts))
    model = build(small(num_classes=4, in_channels=2, **parts))
    loaded = load_weights(model, path, partial=True)
    assert "head: fresh (3 classes in the weights, 4 here)" in str(loaded)
    assert loaded.anew
    state, known = model.state_dict(), theirs.state_dict()
    for name in known:
        if name not in (*model.head_names, model.stem_name):
            assert torch.equal(state[name], known[name]), name
    if model.config.queries:  # a query knows still when it sees nothing
        bias = "predictor.class_embed.bias"
        assert state[bias][-1] == known[bias][-1]
    torch.testing.assert_close(state[model.stem_name].sum(1), known[model.stem_name].sum(1))


def test_a_file_is_told_to_be_of_a_3d_network_and_not_taken_for_a_2d_one(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, small())
    found = inspect(path)
    assert found.traits == (
        "a 3D U-Net of 3 poolings, 1 channels in and 4 at full size with a transformer of 1 "
        "layers, hidden size 24 and 5 queries of 96 numbers for 3 classes"
    )
    assert (found.variant, found.grid, found.mismatches) == (None, None, ())
    assert network_settings(Origin(path)) == {}
    with pytest.raises(WeightsError, match=r"a 3D U-Net of 3 poolings.*the model takes images"):
        load_weights(build(variant("testing")), path)

"""What a user of the 3D network relies on: sizes, channels, attention, gradients, graphs."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import transunet
from plain_3d import plain_predictions
from transunet.errors import ConfigError
from transunet.models.families import build, exportable, optimised
from transunet.models.transunet3d.encoder import Unit
from transunet.models.transunet3d.network import QueryOutputs, TransUNet3D
from transunet.models.transunet3d.query_decoder import class_scores
from transunet.models.variants import variant

VARIANTS = ("UNet3D-S", "TransUNet3D-encoder-S", "TransUNet3D-decoder-S", "TransUNet3D-S")
POOLINGS = ((1, 2, 2), (2, 2, 2), (2, 2, 2))


def small(name: str = "TransUNet3D-S", **changes: Any) -> TransUNet3D:
    """A variant's parts at sizes that take milliseconds."""
    torch.manual_seed(0)
    tiny: dict[str, Any] = {
        "num_classes": 3,
        "image_size": (8, 16, 16),
        "poolings": POOLINGS,
        "kernels": ((1, 3, 3), *((3, 3, 3),) * 3),
        "width": 4,
    }
    usual = variant(name)
    if usual.vit:
        tiny["vit"] = usual.vit.replace(num_layers=2, hidden_size=24, mlp_size=32)
    if usual.queries:
        tiny["queries"] = usual.queries.replace(num_queries=6, mlp_size=32)
    model = build(usual.replace(**{**tiny, **changes}))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("gamma"):
                value.fill_(0.5)  # of a trained network; 1e-5 would hide what it multiplies
    return model.eval()


def volume(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", VARIANTS)
def test_any_size_and_number_of_channels(name: str) -> None:
    model = small(name, in_channels=2)
    for size in ((8, 16, 16), (12, 24, 8), (5, 17, 16)):
        with torch.inference_mode():
            logits = model(volume(2, 2, *size))
        assert logits.shape == (2, 3, *size)
        assert torch.isfinite(logits).all()


def test_a_network_is_made_by_its_name() -> None:
    model = transunet.create_model("TransUNet3D-S", num_classes=3)
    assert isinstance(model, TransUNet3D)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(7.6e6, rel=0.01)
    with torch.inference_mode():
        assert model.eval()(volume(1, 1, 16, 32, 16)).shape == (1, 3, 16, 32, 16)


@pytest.mark.parametrize("name", VARIANTS)
def test_attention_comes_with_the_same_logits(name: str) -> None:
    model, x = small(name), volume(1, 1, 8, 16, 24)
    with torch.inference_mode():
        logits, maps = model(x, return_attention=True)
        assert torch.equal(logits, model(x))
    assert len(maps) == model.config.layers
    for probabilities in maps:
        assert probabilities.shape == (1, model.config.heads, 12, 12)
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(1, 3, 12))


@pytest.mark.parametrize("name", ["TransUNet3D-decoder-S", "TransUNet3D-S"])
def test_what_is_saved_changes_no_prediction(name: str) -> None:
    model, x = small(name), volume(2, 1, 8, 16, 24)
    plain = plain_predictions(model, x)
    outputs = model.training_outputs(x, nn.ModuleList())
    assert isinstance(outputs, QueryOutputs)
    assert len(plain) == len(outputs.predictions) == 4
    for expected, found in zip(plain, outputs.predictions, strict=True):
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.masks, expected.masks, atol=1e-4, rtol=1e-5)


def test_logits_of_queries_are_their_scores() -> None:
    model, x = small(), volume(1, 1, 8, 16, 16)
    with torch.inference_mode():
        scores = class_scores(model.training_outputs(x, nn.ModuleList()).predictions[-1])
        logits = model(x)
    assert torch.equal(logits.argmax(1), scores.argmax(1))
    torch.testing.assert_close(logits.softmax(1), scores / scores.sum(1, keepdim=True))


@pytest.mark.parametrize("name", VARIANTS)
def test_regions_are_told_apart_by_a_sigmoid(name: str) -> None:
    model = small(name, regions=((1, 2, 3), (2, 3), (3,)))
    x = volume(1, 1, 8, 16, 16)
    with torch.inference_mode():
        logits = model(x)
        if not model.config.queries:
            return
        scores = class_scores(model.training_outputs(x, nn.ModuleList()).predictions[-1])
    torch.testing.assert_close(logits.sigmoid(), scores.clamp(max=1))
    assert torch.equal(logits > 0, scores > 0.5)


@pytest.mark.parametrize("name", VARIANTS)
def test_training_outputs_are_those_of_the_supervised_stages(name: str) -> None:
    model, x = small(name).train(), volume(2, 1, 8, 16, 16)
    outputs = model.training_outputs(x, model.auxiliary_heads(2))
    sizes = [(8, 16, 16), (8, 8, 8), (4, 4, 4)]
    if model.config.queries:
        assert [p.masks.shape for p in outputs.predictions] == [(2, 6, 8, 16, 16)] * 4
        assert [p.logits.shape for p in outputs.predictions] == [(2, 6, 4)] * 4
        maps = outputs.maps
        sizes = sizes[1:] if model.config.deep_supervision else []
    else:
        maps = outputs
    assert [m.shape for m in maps] == [(2, 3, *size) for size in sizes]
    # Nothing waits for a gradient that never comes, as distributed training would.
    total = sum((t.sum() for t in torch.utils._pytree.tree_leaves(outputs)), torch.zeros(()))
    total.backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key


def test_without_deep_supervision_there_is_one_head() -> None:
    model = small("UNet3D-S", deep_supervision=False)
    assert list(model.seg_outputs) == ["2"]
    assert len(model.training_outputs(volume(1, 1, 8, 16, 16), nn.ModuleList())) == 1


@pytest.mark.parametrize("name", ["TransUNet3D-encoder-S", "TransUNet3D-S"])
def test_recomputing_changes_no_gradient(name: str) -> None:
    model, x = small(name).train(), volume(1, 1, 8, 16, 16)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    gradients = []
    for recomputed in (False, True):
        model.zero_grad()
        model.set_gradient_checkpointing(recomputed)
        outputs = model.training_outputs(x, nn.ModuleList())
        sum(
            (t.square().mean() for t in torch.utils._pytree.tree_leaves(outputs)), x.new_zeros(())
        ).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_unit_trains_as_it_predicts_without_copies_on_the_way_back() -> None:
    torch.manual_seed(0)
    unit = Unit(2, 4, (3, 3, 3))
    x = torch.randn(3, 2, 6, 5, 4, requires_grad=True)
    results = []
    for training in (True, False):
        y = unit.train(training)(x)
        gradients = torch.autograd.grad((y**3).sum(), [x, *unit.parameters()])
        results.append([y.detach(), *gradients])
        if training:
            names, nodes = set(), [y.grad_fn]
            while nodes:
                node = nodes.pop()
                names.add(node.name())
                nodes += [parent for parent, _ in node.next_functions if parent]
            assert "LeakyReluBackward1" in names, "written in place"
            assert not names & {"AsStridedBackward0", "CopySlices"}, "into a view"
    for trained, predicted in zip(*results, strict=True):
        assert torch.equal(trained, predicted)


@pytest.mark.parametrize("where", ["vit", "queries"])
def test_layer_scale_multiplies_the_branch_unless_told_to_do_as_the_reference(where: str) -> None:
    """With a scale of 0 a layer passes on what it was given; the reference's forgets it."""
    for scale in ("branch", "reference"):
        settings = getattr(variant("TransUNet3D-S"), where).replace(layer_scale=scale)
        model = small(**{where: settings})
        if where == "vit":
            layer, x = model.transformer.encoder.layer[0], volume(1, 5, 192)
        else:
            layer, x = model.predictor.transformer_ffn_layers[0], volume(1, 5, 96)
        for module in layer.modules():
            if hasattr(module, "gamma"):
                nn.init.zeros_(module.gamma)
        with torch.inference_mode():
            same = torch.allclose(layer(x), x if where == "vit" else layer.norm(x))
        assert same == (scale == "branch")


def test_half_precision_keeps_masks_precise() -> None:
    model, x = small(), volume(1, 1, 8, 16, 16)
    with torch.inference_mode():
        expected = model(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(x)
    assert logits.dtype == torch.float32
    assert (logits.argmax(1) == expected.argmax(1)).float().mean() > 0.9


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 8, 16, 16), "Expected volumes"),
        ((1, 2, 8, 16, 16), "Expected 1 channels, found 2.*in_channels=2"),
        ((1, 1, 4, 8, 8), "a single one at the bottleneck"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(shape: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small()(torch.zeros(shape))


def test_a_patch_that_the_poolings_do_not_divide_is_not_trained_on() -> None:
    with pytest.raises(ConfigError, match=r"\(6, 16, 16\) voxels cannot be trained.*\(4, 8, 8\)"):
        small().training_outputs(volume(1, 1, 6, 16, 16), nn.ModuleList())


def test_saved_and_copied_networks_are_the_same(tmp_path: Path) -> None:
    model, x = small(), volume(1, 1, 8, 16, 24)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    again = build(model.config).eval()
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    with torch.inference_mode():
        expected = model(x)
        for other in (again, deepcopy(model), optimised(model)):
            torch.testing.assert_close(other(x), expected)


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.mark.runtime
@pytest.mark.usefixtures("_fresh_compiler")
def test_a_compiled_network_computes_the_same() -> None:
    model, x = small(), volume(1, 1, 8, 16, 16)
    with torch.inference_mode():
        expected = model(x)
        found = torch.compile(model, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.runtime
@pytest.mark.parametrize("name", ["UNet3D-S", "TransUNet3D-S"])
def test_exported_networks_compute_the_same(name: str) -> None:
    model, x = small(name), volume(1, 1, 8, 16, 16)
    program = torch.export.export(exportable(model), (x,), strict=False)
    with torch.inference_mode():
        torch.testing.assert_close(program.module()(x), model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.runtime
@pytest.mark.filterwarnings("ignore")  # of what exports it
def test_an_onnx_file_computes_the_same(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, x = small(), volume(1, 1, 8, 16, 16)
    program = torch.onnx.export(exportable(model), (x,), dynamo=True, verbose=False)
    program.save(tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(logits), model(x), atol=1e-4, rtol=1e-4)

import copy
import math

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F

from transunet.errors import ConfigError
from transunet.models.positions import resize_positions
from transunet.models.transunet2d.network import TransUNet
from transunet.models.transunet2d.resnet import GroupNorm
from transunet.models.variants import variant


def small(**changes: object) -> TransUNet:
    torch.manual_seed(0)
    settings = {"image_size": 32, "resnet_units": (1, 1, 1), **changes}
    model = TransUNet(variant("R26-ViT-Ti_16", **settings))
    torch.nn.init.normal_(model.transformer.embeddings.position_embeddings)
    return model.eval()


def test_attention_comes_with_the_same_logits() -> None:
    model, x = small(), torch.rand(2, 1, 48, 32)
    with torch.inference_mode():
        logits, maps = model(x, return_attention=True)
        assert torch.equal(logits, model(x))
    assert len(maps) == 8
    for probabilities in maps:
        assert probabilities.shape == (2, 3, 6, 6)
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, 3, 6))


def test_padding_and_cropping_are_at_the_bottom_and_right() -> None:
    model, x = small(), torch.rand(1, 1, 33, 40)
    with torch.inference_mode():
        padded = model(F.pad(x, (0, 8, 0, 15)))
        assert torch.equal(model(x), padded[..., :33, :40])


@pytest.mark.parametrize("n_skip", [0, 1, 2, 3, None])
def test_small_images_give_the_same_alone_as_beside_others(n_skip: int | None) -> None:
    plain = n_skip is None
    model = TransUNet(variant("testing", image_size=32)).eval() if plain else small(n_skip=n_skip)
    for size in ((1, 1), (7, 9), (16, 16), (1, 40), (17, 16)):
        x = torch.rand(2, 1, *size)
        with torch.inference_mode():
            together, alone = model(x), torch.cat([model(x[:1]), model(x[1:])])
        assert together.shape == (2, 2, *size)
        torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-6)


def test_a_norm_of_single_values_leaves_the_bias() -> None:
    norm = GroupNorm(4, 4)
    torch.nn.init.normal_(norm.bias)
    found = norm(torch.rand(1, 4, 1, 1))[0, :, 0, 0]
    torch.testing.assert_close(found, norm.bias, rtol=0, atol=1e-4)  # (x - mean) / sqrt(eps)
    x = torch.rand(2, 4, 3, 3)
    assert torch.equal(norm(x), torch.nn.GroupNorm.forward(norm, x))


def test_position_embeddings_are_resized_once_for_a_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = small(), []

    def counted(positions: torch.Tensor, *grids: tuple[int, ...]) -> torch.Tensor:
        asked.append(grids)
        return resize_positions(positions, *grids)

    monkeypatch.setattr("transunet.models.positions.resize_positions", counted)
    with torch.inference_mode():
        first = model(torch.ones(1, 1, 64, 96))
        assert torch.equal(model(torch.ones(1, 1, 64, 96)), first)
        model(torch.ones(1, 1, 32, 32))  # its own grid
    assert asked == [((2, 2), (4, 6))]


@pytest.mark.parametrize(
    ("grid", "new_grid"),
    [((4,), (7,)), ((2, 3), (5, 4)), ((2, 3, 4), (3, 5, 7)), ((3, 2, 4), (1, 1, 2))],
)
def test_positions_are_resized_along_any_number_of_axes_as_scipy_does(
    grid: tuple[int, ...], new_grid: tuple[int, ...]
) -> None:
    positions = torch.randn(1, math.prod(grid), 5, dtype=torch.float64)
    factors = [new / old for new, old in zip(new_grid, grid, strict=True)]
    image = positions[0].unflatten(0, grid).numpy()
    expected = scipy.ndimage.zoom(image, (*factors, 1), order=1)
    resized = resize_positions(positions, grid, new_grid)
    assert resized.shape == (1, math.prod(new_grid), 5)
    np.testing.assert_allclose(resized[0].unflatten(0, new_grid).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("change", ["in place", "loaded", "moved"])
def test_remembered_positions_are_dropped_when_the_parameter_changes(change: str) -> None:
    model, x = small(), torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        before = model(x)
        other = copy.deepcopy(model.state_dict())
        other["transformer.embeddings.position_embeddings"] *= -2
        if change == "in place":
            model.transformer.embeddings.position_embeddings *= -2
        elif change == "loaded":
            model.load_state_dict(other)
        else:
            model.load_state_dict(other, assign=True)
        changed = model(x)
        fresh = small()
        fresh.load_state_dict(other)
        torch.testing.assert_close(changed, fresh(x))
        assert not torch.allclose(changed, before)


def test_gradients_reach_position_embeddings_through_resizing() -> None:
    model = small()
    with torch.no_grad():
        model(torch.rand(1, 1, 64, 64))  # remembered without a graph
    model(torch.rand(1, 1, 64, 64)).sum().backward()
    gradient = model.transformer.embeddings.position_embeddings.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_one_channel_is_repeated_to_three() -> None:
    grey, colour = small(in_channels=1), small(in_channels=3)
    colour.load_state_dict(grey.state_dict())
    x = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(grey(x), colour(x.repeat(1, 3, 1, 1)))
        assert torch.equal(grey(x), colour(x))


def test_five_channels_have_a_stem_of_their_own() -> None:
    assert small(in_channels=5)(torch.rand(1, 5, 32, 32)).shape == (1, 2, 32, 32)


@pytest.mark.parametrize(
    ("shape", "says"),
    [((1, 32, 32), "found shape"), ((1, 2, 32, 32), "Build the model with in_channels=2")],
)
def test_a_wrong_shape_says_what_to_do(shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        small(in_channels=4)(torch.rand(shape))


def test_gradient_checkpointing_changes_no_gradient() -> None:
    model, x = small(dropout=0.1).train(), torch.rand(2, 1, 32, 32)
    gradients = []
    for enabled in (False, True):
        model.set_gradient_checkpointing(enabled)
        model.zero_grad()
        torch.manual_seed(1)  # the same dropout
        model(x).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_a_model_can_be_copied_and_pickled() -> None:
    model, x = small(), torch.rand(1, 1, 48, 48)
    with torch.inference_mode():
        assert torch.equal(copy.deepcopy(model)(x), model(x))

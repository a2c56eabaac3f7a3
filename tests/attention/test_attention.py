"""Attention on volumes: the network's own values, in the right place of the volume's own grid."""

import weakref
from functools import cache

import numpy as np
import pytest
import torch

from golden_figures import close, facts, image, seed_state
from prediction import OBLIQUE, noise, tiny_model
from transunet.attention.rollout import layers_and_heads, rollout, select_matrices
from transunet.attention.token_grid import TokenGrid
from transunet.attention.view import AttentionView
from transunet.data.preprocessing import Channel, Preprocessing, planes_first
from transunet.data.volume import Volume
from transunet.errors import ConfigError, DataError, GeometryError
from transunet.inference.slice_inference import VolumeSlices
from transunet.models.transunet2d.config import TransUNetConfig
from transunet.models.transunet2d.network import TransUNet
from transunet.models.variants import variant

PLAIN = Preprocessing(channels=(Channel(normalisation="range", high=1.0),))


def several(size: int = 48, channels: int = 1) -> TransUNet:
    """A small network with three layers and two heads, which attend sharply."""
    torch.manual_seed(0)
    config = TransUNetConfig(
        image_size=(size, size),
        in_channels=channels,
        hidden_size=8,
        mlp_size=8,
        num_heads=2,
        num_layers=3,
        bridge_channels=8,
        decoder_channels=(8, 8, 8, 8),
    )
    model = TransUNet(config).eval()
    with torch.no_grad():
        for block in model.transformer.encoder.layer:
            block.attn.query.weight *= 4
            block.attn.key.weight *= 4
    return model


def volume(shape: tuple[int, ...] = (48, 48, 3), affine=OBLIQUE, channels: int = 1) -> Volume:
    array = np.stack([noise(shape, seed) for seed in range(channels)]).astype(np.float32) / 500
    return Volume(array, affine, "case")


@cache
def golden_view() -> AttentionView:
    """The published network with the golden figures' weights."""
    fact = facts()["pth_r50b16_224_skip3"]
    keys = ("num_classes", "in_channels", "image_size", "n_skip")
    with torch.device("meta"):
        model = TransUNet(variant(fact["config"], **{key: fact[key] for key in keys}))
    model.to_empty(device="cpu")
    seed_state(model)
    return AttentionView(model.eval(), PLAIN, "cpu")


@cache
def golden_volume() -> Volume:
    """The golden figures' image as the single axial slice of a volume."""
    pixels = image(facts()["pth_r50b16_224_skip3"]).numpy()[0, 0]
    return Volume(pixels[None, :, :, None].copy(), np.eye(4), "golden")


@cache
def golden_maps() -> tuple[torch.Tensor, ...]:
    """The probabilities that the network gives for the golden image, checked against the golden."""
    with torch.inference_mode():
        model = golden_view().model
        _, maps = model(image(facts()["pth_r50b16_224_skip3"]), return_attention=True)
    close("attention_layer0", maps[0])
    close("attention_layer11", maps[11])
    return maps


@pytest.mark.parametrize("layer", [0, 11])
def test_the_maps_hold_the_golden_attention(layer: int) -> None:
    probabilities = golden_maps()[layer][0].numpy()  # (heads, N, N)
    choices = [(layer, 0), (layer, 7), (layer, "mean")]
    found = golden_view().maps(golden_volume(), choices)
    for one, matrix in zip(
        found, [probabilities[0], probabilities[7], probabilities.mean(0)], strict=True
    ):
        # Of all tokens alike: the column means, as multiples of the even share 1 / N.
        expected = matrix.mean(axis=0) * 196
        np.testing.assert_allclose(one.tokens.reshape(-1), expected, rtol=1e-4, atol=1e-6)


def test_a_voxels_map_is_the_golden_row_of_its_token() -> None:
    probabilities = golden_maps()[11][0].numpy()
    voxel = (35, 170, 0)  # row 2, column 10 of 14 x 14 tokens
    (found,) = golden_view().maps(golden_volume(), [(11, 3)], at=voxel)
    row = probabilities[3, 2 * 14 + 10]
    np.testing.assert_allclose(found.tokens.reshape(-1), row * 196, rtol=1e-4, atol=1e-6)
    shown = golden_view().slice_at(golden_volume(), voxel, 11, 3).array[0, :, :, 0]
    assert shown.shape == (224, 224)
    # Tokens' centres lie between pixels 7 and 8 of their 16.
    centres = (shown[7::16, 7::16] + shown[8::16, 7::16] + shown[7::16, 8::16] + shown[8::16, 8::16]) / 4  # fmt: skip  # noqa: E501
    expected = row.reshape(14, 14) / row.max()
    peak = np.unravel_index(expected.argmax(), expected.shape)
    assert np.unravel_index(centres.argmax(), centres.shape) == peak
    np.testing.assert_allclose(centres[1:-1, 1:-1], expected[1:-1, 1:-1], atol=0.05)


def test_rollout_is_the_product_of_the_mixed_layers() -> None:
    maps = golden_maps()
    expected = np.eye(196)
    for one in maps:
        expected = (0.5 * one[0].double().mean(0).numpy() + 0.5 * np.eye(196)) @ expected
    rolled = rollout(maps)[0].numpy()
    np.testing.assert_allclose(rolled, expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(rolled.sum(-1), 1, atol=1e-4)


def test_rollout_by_hand() -> None:
    """Two tokens, two layers: the second layer's matrix is multiplied from the left."""
    first = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    second = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    # A1 = [[1, 0], [.5, .5]], A2 = [[.5, .5], [0, 1]]
    expected = torch.tensor([[[0.75, 0.25], [0.5, 0.5]]])
    torch.testing.assert_close(rollout([first, second]), expected)


def test_of_one_layer_and_head_there_is_a_rollout_too() -> None:
    view = AttentionView(tiny_model(), PLAIN, "cpu")
    found = view.maps(volume(), layers_and_heads("all", "all", view.model.config))
    assert [(one.layer, one.head) for one in found] == [(0, 0), (0, "mean"), ("rollout", "mean")]
    np.testing.assert_array_equal(found[0].tokens, found[1].tokens)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SAR"])
def test_a_voxel_lies_in_the_token_that_its_slice_puts_there(axis: int, orientation: str) -> None:
    """Light up a voxel: after cutting, the bright pixel is in the token that `token_at` names."""
    preprocessing = PLAIN.replace(orientation=planes_first(orientation, axis))
    rng = np.random.default_rng(axis)
    shape = (21, 34, 47)
    for _ in range(10):
        voxel = tuple(int(rng.integers(size)) for size in shape)
        array = np.zeros((1, *shape), np.float32)
        array[(0, *voxel)] = 1
        one = Volume(array, OBLIQUE, "point")
        grid = TokenGrid(one.grid, preprocessing, (64, 64), (16, 16))
        slices = preprocessing.to_working(one)[0]
        index, row, column = np.unravel_index(slices.argmax(), slices.shape)
        # Corner on corner: the end pixels of the slice are those of the network's image.
        expected = [
            min(int((pixel * 63 / (size - 1) + 0.5) // 16), 3)
            for pixel, size in zip((row, column), slices.shape[1:], strict=True)
        ]
        assert grid.token_at(voxel) == (index, *expected)
        assert grid.token_shares(one)[index].reshape(4, 4)[tuple(expected)] == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_lies_exactly_on_the_volumes(axis: int) -> None:
    preprocessing = PLAIN.replace(orientation=planes_first("RAS", axis))
    view = AttentionView(several(), preprocessing, "cpu")
    one = volume((20, 24, 30))
    voxel = (4, 17, 9)
    shown = view.slice_at(one, voxel, 1, 0)
    across = view.grid_of(one).slice_axis
    expected = [1 if index == across else size for index, size in enumerate((20, 24, 30))]
    assert list(shown.spatial_shape) == expected
    assert shown.array.dtype == np.float32
    # Its first voxel is where the volume's slice has its own, in millimetres.
    corner = [voxel[across] if index == across else 0 for index in range(3)]
    np.testing.assert_allclose(shown.affine @ [0, 0, 0, 1], one.affine @ [*corner, 1])
    np.testing.assert_array_equal(shown.affine[:3, :3], one.affine[:3, :3])
    # And its values are those of the map of the whole volume.
    (whole,) = view.maps(one, [(1, 0)], at=voxel)
    laid = whole.on(one)
    assert laid.array.shape == one.array.shape
    np.testing.assert_array_equal(laid.affine, one.affine)
    cut = np.take(laid.array, [voxel[across]], axis=1 + across)
    np.testing.assert_allclose(cut / whole.tokens.max(), shown.array, rtol=1e-5, atol=1e-7)
    others = np.delete(laid.array, voxel[across], axis=1 + across)
    assert not others.any()


def test_a_token_that_attends_to_itself_is_brightest_where_it_lies() -> None:
    """With the identity as attention, the heat lies on the voxel, whatever the orientation."""
    for orientation in ("RAS", "LAS", "PSR"):
        one = volume((40, 44, 30))
        preprocessing = PLAIN.replace(orientation=orientation)
        grid = TokenGrid(one.grid, preprocessing, (64, 64), (16, 16))
        voxel = (33, 5, 22)
        index, row, column = grid.token_at(voxel)
        tokens = np.zeros(grid.shape, np.float32)
        tokens[index, row, column] = 1
        heat = grid.to_volume(tokens, one).array[0]
        assert heat[voxel] > 0.2
        peak = np.array(np.unravel_index(heat.argmax(), heat.shape))
        assert np.abs(peak - voxel).max() <= 11  # a token is up to 44 / 4 voxels wide
        assert peak[grid.slice_axis] == voxel[grid.slice_axis]


def test_between_tokens_values_are_bilinear_and_keep_their_range() -> None:
    one = volume((64, 64, 2), np.eye(4))
    grid = TokenGrid(one.grid, PLAIN, (64, 64), (16, 16))
    ramp = np.tile(np.arange(4, dtype=np.float32), (2, 4, 1))
    drawn = grid.to_slices(ramp)
    assert drawn.shape == (2, 64, 64)
    # Centres at 7.5, 23.5, 39.5, 55.5: linear between them and constant outside.
    expected = np.clip((np.arange(64) - 7.5) / 16, 0, 3)
    np.testing.assert_allclose(drawn[0, 10], expected, atol=1e-6)
    np.testing.assert_allclose(drawn[1], drawn[0])


def test_a_mask_asks_the_tokens_that_it_covers_each_by_its_share() -> None:
    view = AttentionView(several(), PLAIN, "cpu")
    one = volume((48, 48, 3), np.eye(4))
    mask = np.zeros((1, 48, 48, 3), np.uint8)
    mask[0, 0:16, 0:16, 1] = 1  # the whole of token (0, 0)
    mask[0, 16:24, 40:48, 1] = 1  # a quarter of token (1, 2)
    choices = [(2, 1), ("rollout", "mean")]
    found = view.maps(one, choices, at=one.with_array(mask))
    first = view.maps(one, choices, at=(3, 3, 1))
    second = view.maps(one, choices, at=(20, 44, 1))
    for both, a, b in zip(found, first, second, strict=True):
        np.testing.assert_allclose(both.tokens, 0.8 * a.tokens + 0.2 * b.tokens, rtol=1e-5)
        assert not both.tokens[[0, 2]].any()


def test_what_all_tokens_receive_averages_to_the_even_share() -> None:
    view = AttentionView(several(), PLAIN, "cpu")
    for one in view.maps(volume(), layers_and_heads("all", "all", view.model.config)):
        np.testing.assert_allclose(one.tokens.mean(axis=(1, 2)), 1, rtol=1e-5)
        assert one.tokens.std() > 1e-4


def test_only_the_slices_asked_for_are_looked_at() -> None:
    view = AttentionView(several(), PLAIN, "cpu")
    told = []
    (part,) = view.maps(volume(), [(0, 0)], slices=[2], progress=lambda *one: told.append(one))
    (whole,) = view.maps(volume(), [(0, 0)])
    assert told == [(1, 1)]
    assert not part.tokens[:2].any()
    np.testing.assert_allclose(part.tokens[2], whole.tokens[2], rtol=1e-5)


def test_batches_of_slices_give_what_single_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    view = AttentionView(several(), PLAIN.replace(channels=(Channel(),)), "cpu")
    one = volume((20, 24, 11))
    together = view.maps(one, [(1, "mean")])[0].tokens
    monkeypatch.setattr("transunet.attention.view._MOST_BYTES", 1)
    assert view._batch_size == 1
    np.testing.assert_allclose(view.maps(one, [(1, "mean")])[0].tokens, together, rtol=1e-4)


def test_three_channels_of_a_photograph() -> None:
    preprocessing = Preprocessing(
        channels=tuple(
            Channel(name=name, normalisation="range", high=255.0)
            for name in ("red", "green", "blue")
        )
    )
    view = AttentionView(several(channels=3), preprocessing, "cpu")
    photo = volume((60, 50, 1), np.eye(4), channels=3)
    shown = view.slice_at(photo, (59, 49, 0), "rollout", "mean")
    assert shown.array.shape == (1, 60, 50, 1)
    assert shown.array.min() >= 0
    assert 0.9 < shown.array.max() <= 1


def test_the_model_is_left_in_training_mode() -> None:
    model = several().train()
    view = AttentionView(model, PLAIN, "cpu")
    first, second = (view.maps(volume(), [(2, 0)])[0].tokens for _ in range(2))
    np.testing.assert_array_equal(first, second)  # no dropout
    assert model.training


@pytest.mark.parametrize(
    ("voxel", "layer", "head", "told"),
    [
        ((48, 0, 0), 0, 0, "has no voxel (48, 0, 0)"),
        ((0, -1, 0), 0, 0, "0..47 x 0..47 x 0..2"),
        ((0, 0), 0, 0, "three indices"),
        ((0, 0, 0), 3, 0, "no layer 3; it has 0 to 2"),
        ((0, 0, 0), -1, 0, "no layer -1"),
        ((0, 0, 0), 0, 2, "no head 2; it has 0 to 1"),
        ((0, 0, 0), "all", 0, "no layer 'all'"),
        ((0, 0, 0), "rollout", 1, "roll-out takes the mean"),
    ],
)
def test_what_there_is_not_is_wrong_use(voxel, layer, head, told: str) -> None:
    view = AttentionView(several(), PLAIN, "cpu")
    with pytest.raises(ConfigError) as caught:
        view.slice_at(volume(), voxel, layer, head)
    assert told in str(caught.value)


def test_a_mask_on_another_grid_and_too_many_channels_are_refused() -> None:
    view = AttentionView(several(), PLAIN, "cpu")
    with pytest.raises(GeometryError, match="does not lie on the grid of case"):
        view.maps(volume(), [(0, 0)], at=volume((48, 48, 4)))
    with pytest.raises(DataError, match="2 channels; expected 1"):
        view.slice_at(volume(channels=2), (0, 0, 0), 0, 0)


def test_choices_pick_layer_and_head() -> None:
    maps = [torch.rand(2, 3, 4, 4) for _ in range(2)]
    first, second = select_matrices(maps, [(1, 2), (0, "mean")])
    torch.testing.assert_close(first, maps[1][:, 2])
    torch.testing.assert_close(second, maps[0].mean(1))


def test_a_volume_is_measured_once_and_let_go_with_its_last_owner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = []

    def measure(image: Volume, preprocessing: Preprocessing) -> VolumeSlices:
        measured.append(image.name)
        return VolumeSlices(image, preprocessing)

    monkeypatch.setattr("transunet.attention.view.VolumeSlices", measure)
    view, one = AttentionView(several(), PLAIN, "cpu"), volume()
    view.slice_at(one, (0, 0, 0), 0, 0)
    view.slice_at(one, (5, 5, 1), 2, 1)
    assert measured == ["case"]
    owner = weakref.ref(one)
    del one
    assert owner() is None

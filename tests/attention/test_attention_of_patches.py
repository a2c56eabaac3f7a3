"""Attention and queries' masks of networks that take patches, on the volume's own grid."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from prediction import OBLIQUE, nib, noise
from transunet import create_model
from transunet.attention.explain import explain_with
from transunet.attention.view import AttentionView
from transunet.bundle.bundle_config import BundleConfig
from transunet.data.preprocessing import Channel, Preprocessing
from transunet.data.regions import Region
from transunet.data.resize import resize
from transunet.data.sampling.patches import Patches
from transunet.data.volume import Volume
from transunet.errors import ConfigError
from transunet.models.transunet3d.query_decoder import QueryPrediction

SIZE, GRID = (8, 16, 16), (2, 2, 2)
TOKENS = 8
LABELS = {0: "background", 1: "left", 2: "right"}
MRI = Preprocessing(channels=(Channel(name="MRI"),))


def small(name: str = "TransUNet3D", **settings) -> nn.Module:
    torch.manual_seed(0)
    vit = {"num_layers": 2, "hidden_size": 12, "mlp_size": 12, "num_heads": 2}
    queries = {"hidden_size": 96, "mlp_size": 8, "num_queries": 4}
    parts = {"vit": vit, "queries": queries} if name == "TransUNet3D" else {}
    return create_model(
        name, num_classes=3, width=4, max_width=8, image_size=SIZE,
        poolings=((1, 2, 2), (2, 2, 2), (2, 2, 2)), kernels=((3, 3, 3),) * 4,
        **(parts | settings),
    ).eval()  # fmt: skip


class Known(nn.Module):
    """Token n attends to `matrix[n]`, whatever the image; a query's mask is the image's sigmoid."""

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__()
        self.config = small().config
        self.matrix, self.calls = matrix, 0

    def forward(self, x: torch.Tensor, return_attention: bool):
        assert return_attention
        self.calls += len(x)
        # Without its share of every token's own, so that the roll-out is the matrix.
        layer = self.matrix.expand(len(x), 2, TOKENS, TOKENS)
        return None, (layer, layer)

    def query_prediction(self, x: torch.Tensor) -> QueryPrediction:
        classes = torch.tensor([[9.0, 0, 0, 0], [0, 0, 5, 0], [0, 0, 0, 9], [0, 3, 0, 0]])
        masks = torch.cat([x, -x, x * 0 - 20, x * 0], 1)
        return QueryPrediction(classes.expand(len(x), 4, 4), masks)


def to_first(token: int = 0) -> torch.Tensor:
    """Every token attends to one token only."""
    matrix = torch.zeros(TOKENS, TOKENS)
    matrix[:, token] = 1
    return matrix


def scan(shape: tuple[int, int, int] = (22, 30, 17)) -> Volume:
    return Volume(noise(shape)[None].astype(np.float32), OBLIQUE, "scan")


def view(model: nn.Module, preprocessing: Preprocessing = MRI, overlap: float = 0.5):
    return AttentionView(model, preprocessing, "cpu", sampling=Patches(size=SIZE, overlap=overlap))


@pytest.mark.parametrize("spacing_mm", [None, (2.0, 1.0, 1.0), (1.0, 0.6, 0.9)])
def test_even_attention_is_1_wherever_a_patch_with_the_voxel_reaches(spacing_mm) -> None:
    model = Known(torch.full((TOKENS, TOKENS), 1 / TOKENS))
    shown = view(model, MRI.replace(spacing_mm=spacing_mm))
    image = scan()
    (everywhere,) = shown.maps(image, [(1, "mean")])
    np.testing.assert_allclose(everywhere.on(image).array, 1, atol=1e-5)
    calls = model.calls
    (near,) = shown.maps(image, [(0, 1)], at=(3, 4, 2))
    found = near.on(image).array[0]
    assert found[3, 4, 2] == pytest.approx(1, abs=1e-5)
    assert found[-1, -1, -1] == 0
    assert model.calls - calls < calls / 3  # the others were not computed
    assert np.isclose(found, 1, atol=1e-5).mean() > 0.05


def test_maps_of_patches_are_averaged_as_probabilities_are() -> None:
    image, sampling = scan(), Patches(size=SIZE)
    weights = sampling.weights()
    grid = torch.zeros(1, 1, *GRID)
    grid.view(-1)[3] = TOKENS
    one = nn.functional.interpolate(grid, SIZE, mode="trilinear")[0, 0].numpy()
    shape = MRI.native_shape(image)
    total, weight = np.zeros([n + 40 for n in shape]), np.zeros([n + 40 for n in shape])
    for position in sampling.positions(shape):
        box = tuple(slice(20 + n, 20 + n + side) for n, side in zip(position, SIZE, strict=True))
        total[box] += one * weights
        weight[box] += weights
    inside = tuple(slice(20, 20 + n) for n in shape)
    expected = total[inside] / weight[inside]
    shown = view(Known(to_first(3)))
    (found,) = shown.maps(image, [(1, 0)])
    np.testing.assert_allclose(found.tokens, expected, atol=1e-5)
    (part,) = shown.maps(image, [(1, 0)], slices=[5])
    np.testing.assert_allclose(part.tokens[5], expected[5], atol=1e-5)
    assert not part.tokens[[4, 6]].any()
    mask = image.with_array(np.ones(image.array.shape, np.uint8))
    (masked,) = shown.maps(image, [(1, 0)], at=mask)
    # Tokens of padding are no voxel's; all attend alike here.
    np.testing.assert_allclose(masked.tokens, expected, atol=0.05 * expected.max())


def test_whose_attention_it_is_is_the_voxels_own_token() -> None:
    """One patch, in which each token attends to the one after it."""
    image = scan((16, 8, 16))
    model = Known(torch.eye(TOKENS).roll(1, dims=1))
    assert MRI.native_shape(image) == SIZE
    shown = view(model)
    for voxel in ((0, 0, 0), (12, 6, 3), (9, 1, 9)):
        plane, row, column = shown.grid_of(image).token_at(voxel)
        token = (plane // 4) * 4 + (row // 8) * 2 + column // 8
        (found,) = shown.maps(image, [(1, "mean")], at=voxel)
        next_token = np.unravel_index((token + 1) % TOKENS, GRID)
        corner = tuple(n * (side - 1) for n, side in zip(next_token, SIZE, strict=True))
        assert found.tokens[corner] == found.tokens.max() == pytest.approx(TOKENS)
        shown_slice = shown.slice_at(image, voxel, 1, "mean")
        assert sorted(shown_slice.spatial_shape) == [1, 16, 16]
        most = found.tokens[plane].max()
        assert shown_slice.array.max() == pytest.approx(1 if most else 0)


def test_masks_of_queries_are_averaged_and_named_by_what_most_of_them_is(tmp_path: Path) -> None:
    image, preprocessing = scan(), MRI.replace(spacing_mm=(2.0, 1.0, 1.0))
    config = BundleConfig(architecture=small().config, preprocessing=preprocessing, labels=LABELS)
    model = small()
    known = Known(to_first())
    model.query_prediction = known.query_prediction
    found = explain_with(model, config, image, device="cpu")
    assert [query.label for query in found.query_masks] == [
        "background", "right", "no object", "left",
    ]  # fmt: skip
    assert found.query_masks[3].share == pytest.approx(np.exp(3) / (np.exp(3) + 3), abs=1e-5)
    # What no patch changes is the image's own: a patch gives its sigmoid wherever it lies.
    working = preprocessing.to_working(image)
    expected = resize(1 / (1 + np.exp(-working)), preprocessing.native_shape(image), 1, "kept")
    expected = preprocessing.unoriented(expected, image)
    np.testing.assert_allclose(found.query_masks[0].on(image).array, expected, atol=2e-3)
    written = {path.name for path in found.write(tmp_path, "scan")}
    assert written == {
        "scan.png", "scan_rollout.nii.gz", "scan_queries.png", "scan_queries.csv",
        *(f"scan_query{number:02d}.nii.gz" for number in range(4)),
    }  # fmt: skip
    stored = nib.load(tmp_path / "scan_query03.nii.gz")
    np.testing.assert_allclose(stored.affine, OBLIQUE, atol=1e-5)
    np.testing.assert_allclose(np.asarray(stored.dataobj), 0.5, atol=1e-3)
    table = (tmp_path / "scan_queries.csv").read_text().splitlines()
    assert table[0] == "query,label,share"
    assert table[3].startswith("2,no object,")


def test_a_network_without_a_vision_transformer_shows_its_queries_or_says_so(tmp_path) -> None:
    image = scan((20, 24, 9))
    decoder = small("TransUNet3D", vit=None)
    config = BundleConfig(architecture=decoder.config, preprocessing=MRI, labels=LABELS)
    found = explain_with(decoder, config, image, device="cpu")
    assert found.maps == ()
    written = [path.name for path in found.write(tmp_path, "scan")]
    assert written[:2] == ["scan_queries.png", "scan_queries.csv"]
    with pytest.raises(ConfigError, match=r"has no vision transformer.*leave layer and head out"):
        explain_with(decoder, config, image, layer=0, device="cpu")
    plain = small("UNet3D")
    config = config.replace(architecture=plain.config)
    with pytest.raises(ConfigError, match="UNet3D has no vision transformer, so there is no"):
        explain_with(plain, config, image, device="cpu")


def test_a_region_is_all_labels_that_make_it_up() -> None:
    members = {"whole": (1, 2, 3), "core": (2, 3), "tip": (3,)}
    regions = [Region(name=n, members=m, label=m[0]) for n, m in members.items()]
    model = small(queries=None, regions=tuple(members.values()))
    config = BundleConfig(
        architecture=model.config, preprocessing=MRI, labels=LABELS | {3: "tip"}, regions=regions
    )
    image = scan((16, 16, 8))
    found = explain_with(model, config, image, at="Core", device="cpu")
    labels = found.labels.array
    assert {2, 3} <= set(np.unique(labels))
    core = found.labels.with_array(np.isin(labels, (2, 3)).astype(np.uint8))
    expected = explain_with(model, config, image, at=core, device="cpu")
    np.testing.assert_array_equal(found.maps[0].tokens, expected.maps[0].tokens)
    with pytest.raises(ConfigError, match="no structure 'left'; it has whole, core, tip"):
        explain_with(model, config, image, at="left", device="cpu")


def test_a_networks_own_attention_of_one_patch() -> None:
    model, image = small(), scan((16, 8, 16))
    with torch.inference_mode():
        working = torch.from_numpy(MRI.to_working(image)[None])
        _, maps = model(working, return_attention=True)
    (found,) = view(model).maps(image, [(1, 0)])
    expected = maps[1][0, 0].mean(0).view(1, 1, *GRID) * TOKENS
    expected = nn.functional.interpolate(expected, SIZE, mode="trilinear")[0, 0].numpy()
    np.testing.assert_allclose(found.tokens, expected, atol=1e-5)
